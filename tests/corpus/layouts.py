"""Every layout of batches, inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tests.corpus.case import SEQUENCES, VECTORS, Case, Y, mean_cross_entropy, uneven
from tests.corpus.losses import PADDED, mean_ce, mean_token_ce, tokens_that_count
from tests.corpus.modules import mlp, wrap

CE = mean_cross_entropy(VECTORS, Y)


def of_model_and_batch(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def of_padded_batch(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    return tokens_that_count(model(batch["x"]), batch["y"])


def physics_informed(model: nn.Module, batch: Tensor) -> Tensor:
    x = batch.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    return (slope**2).sum(1).mean()


@dataclass
class Pair:
    x: Tensor
    y: Tensor


def of_an_object(model: nn.Module, batch: Pair) -> Tensor:
    return F.cross_entropy(model(batch.x), batch.y)


class Logits:
    """What Hugging Face models return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


LAYOUTS = [
    Case("tensors", mlp(), "cross_entropy", (VECTORS, Y), CE, {"batch_size": 3}),
    Case(
        "NumPy arrays",
        mlp(),
        "cross_entropy",
        (VECTORS.numpy(), Y.int().numpy()),
        CE,
        {"batch_size": 3},
    ),
    Case("DataLoader", mlp(), "cross_entropy", DataLoader(TensorDataset(VECTORS, Y), 3), CE),
    Case(
        "mappings with labels",
        wrap(lambda m, inputs: m.net(inputs["a"] + inputs["b"]), net=mlp()),
        "cross_entropy",
        [{"a": x / 2, "b": x / 2, "labels": y} for x, y in uneven(VECTORS, Y)],
        lambda m: CE(m.net),
    ),
    Case(
        "mapping with one input",
        mlp(),
        "cross_entropy",
        [{"image": x, "label": y} for x, y in uneven(VECTORS, Y)],
        CE,
    ),
    Case(
        "several inputs",
        wrap(lambda m, a, b: m.net(a + b), net=mlp()),
        "cross_entropy",
        [((x / 2, x / 2), y) for x, y in uneven(VECTORS, Y)],
        lambda m: CE(m.net),
    ),
    Case(
        "an object with logits",
        wrap(lambda m, x: Logits(m.net(x)), net=mlp()),
        "cross_entropy",
        uneven(VECTORS, Y),
        lambda m: CE(m.net),
    ),
    Case(
        "a mapping with logits",
        wrap(lambda m, x: {"hidden": x, "logits": m.net(x)}, net=mlp()),
        "cross_entropy",
        uneven(VECTORS, Y),
        lambda m: CE(m.net),
    ),
    Case(
        "time before examples",
        wrap(
            lambda m, x: m.head(m.rnn(x)[0].mean(0)),
            rnn=lambda: nn.GRU(4, 3),
            head=lambda: nn.Linear(3, 3),
        ),
        "cross_entropy",
        [(x.transpose(0, 1), y) for x, y in uneven(SEQUENCES, Y)],
        lambda m: mean_ce(m(SEQUENCES.transpose(0, 1)), Y),
    ),
]
WHOLE = [
    Case("loss of model and batch", mlp(), of_model_and_batch, uneven(VECTORS, Y), CE),
    Case(
        "the same, by name",
        mlp(),
        "tests.corpus.layouts:of_model_and_batch",
        uneven(VECTORS, Y),
        CE,
    ),
    Case(
        "padded batches whole",
        mlp(),
        of_padded_batch,
        [{"x": x, "y": y} for x, y in uneven(SEQUENCES, PADDED)],
        mean_token_ce,
    ),
    Case(
        "batches as objects", mlp(), of_an_object, [Pair(x, y) for x, y in uneven(VECTORS, Y)], CE
    ),
    Case(
        "a loss that differentiates by its inputs",
        mlp(),
        physics_informed,
        list(VECTORS.split(3)),
        lambda m: physics_informed(m, VECTORS),
    ),
]
