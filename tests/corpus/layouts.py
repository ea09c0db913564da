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


def of_a_third_derivative(model: nn.Module, batch: Tensor) -> Tensor:
    """As in Korteweg and de Vries' equation, u_xxx + u u_x; the batch itself is marked."""
    u = model(batch.requires_grad_())
    slopes = [u]
    for _ in range(3):
        g = torch.autograd.grad(slopes[-1].sum(), batch, create_graph=True)[0]
        slopes.append(g.sum(1, keepdim=True))
    return (slopes[3] + u * slopes[1]).square().mean(1)


def mean_of_a_third_derivative(model: nn.Module) -> Tensor:
    return of_a_third_derivative(model, VECTORS.clone()).mean()


@dataclass
class Pair:
    x: Tensor
    y: Tensor


def of_a_dataclass(outputs: Pair, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.x, targets) + outputs.y.square().mean()


def of_an_object(model: nn.Module, batch: Pair) -> Tensor:
    return F.cross_entropy(model(batch.x), batch.y)


def of_two_heads(outputs: Any, targets: tuple[Tensor, Tensor]) -> Tensor:
    classes, value = outputs["classes"], outputs["value"]
    each = F.cross_entropy(classes, targets[0], reduction="none")
    return each + 0.5 * (value - targets[1]).square()


def two_heads(m: Any, x: Tensor) -> dict[str, Tensor]:
    hidden = torch.tanh(m.body(x))
    return {"classes": m.classes(hidden), "value": m.value(hidden)[:, 0], "index": torch.arange(2)}


def mean_of_two_heads(m: nn.Module) -> Tensor:
    hidden = torch.tanh(VECTORS @ m.body.weight.T + m.body.bias)  # type: ignore
    value = (hidden @ m.value.weight.T + m.value.bias)[:, 0]  # type: ignore
    return mean_ce(m.classes(hidden), Y) + 0.5 * ((value - VECTORS[:, 0]) ** 2).mean()  # type: ignore


def of_a_tuple(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    """Takes the outputs apart, and both of them."""
    logits, hidden = outputs
    return F.cross_entropy(logits, targets) + 0.1 * hidden.square().mean()


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
    Case("a list of two tensors", mlp(), "cross_entropy", [VECTORS, Y], CE, {"batch_size": 3}),
    Case(
        "a mapping of tensors",
        mlp(),
        "cross_entropy",
        {"x": VECTORS, "labels": Y},
        CE,
        {"batch_size": 3},
    ),
    Case(
        "a named loss of a tuple of one",
        wrap(lambda m, x: (m.net(x),), net=mlp()),
        "cross_entropy",
        uneven(VECTORS, Y),
        lambda m: CE(m.net),
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
STRUCTURED = [
    Case(
        "two heads in a mapping, targets in a tuple",
        wrap(
            two_heads,
            body=lambda: nn.Linear(4, 5),
            classes=lambda: nn.Linear(5, 3),
            value=lambda: nn.Linear(5, 1),
        ),
        of_two_heads,
        (VECTORS, (Y, VECTORS[:, 0])),
        mean_of_two_heads,
        {"batch_size": 3},
    ),
    Case(
        "a tuple of outputs",
        wrap(lambda m, x: (m.net(x), m.net[0](x)), net=mlp()),
        of_a_tuple,
        uneven(VECTORS, Y),
        lambda m: CE(m.net) + 0.1 * m.net[0](VECTORS).square().mean(),
    ),
]
WHOLE = [
    Case(
        "a dataclass of outputs",
        wrap(lambda m, x: Pair(m.net(x), m.net[0](x)), net=mlp()),
        of_a_dataclass,
        uneven(VECTORS, Y),
        lambda m: CE(m.net) + m.net[0](VECTORS).square().mean(),
    ),
    Case(
        "a loss that calls its model `m`",
        mlp(),
        lambda m, batch: F.cross_entropy(m(batch[0]), batch[1]),
        uneven(VECTORS, Y),
        CE,
    ),
    Case(
        "a mapping of tensors whole",
        mlp(),
        lambda model, batch: F.cross_entropy(model(batch["x"]), batch["y"]),
        {"x": VECTORS, "y": Y},
        CE,
        {"batch_size": 3},
    ),
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
    Case(
        "a third derivative by its inputs",
        mlp(),
        of_a_third_derivative,
        list(VECTORS.split(3)),
        mean_of_a_third_derivative,
    ),
]
