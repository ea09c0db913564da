"""What would be silently wrong, and what the refusal says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from tests.corpus.case import IMAGES, SEQUENCES, VECTORS, Case, Y, randn, uneven
from tests.corpus.layouts import Logits, of_model_and_batch
from tests.corpus.losses import PADDED, REAL
from tests.corpus.modules import (
    SquareDetached,
    SquareOnce,
    SquareRolled,
    SquareWrong,
    convnet,
    frozen_first,
    mlp,
    with_function,
    wrap,
)
from tests.corpus.wrong import (
    Augmented,
    Emptying,
    OwnBatchNorm,
    Shuffling,
    Streaming,
    batch_norm,
    dropout,
    mean_over_tokens,
    noisy_loss,
    root_of_nothing,
    sum_of_all,
    two_lengths,
    weighted,
    whole_mean_over_tokens,
    whole_sum,
)


def refused(name, says, model=None, loss="cross_entropy", data=None, **options) -> Case:  # type: ignore[no-untyped-def]
    return Case(
        name,
        model or mlp(),
        loss,
        uneven(VECTORS, Y) if data is None else data,
        None,
        options,
        says,
    )


RANDOM = [
    refused(
        "dropout in training mode",
        r"`1` \(Dropout\) draws random",
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(), nn.Linear(5, 3)),
        mode="train",
    ),
    refused(
        "functional dropout",
        r"model itself \(Wrap\) draws random",
        dropout(lambda m, x: m.b(F.dropout(m.a(x), 0.3))),
    ),
    refused(
        "rare functional dropout",
        "draws random numbers",
        dropout(lambda m, x: m.b(F.dropout(m.a(x), 0.001))),
        data=(randn(2000, 4), torch.zeros(2000, dtype=torch.long)),
        batch_size=2000,
    ),
    refused(
        "noise",
        r"`0` \(Wrap\) draws random",
        lambda: nn.Sequential(wrap(lambda m, x: x + 0.01 * torch.randn_like(x))(), mlp()()),
    ),
    refused("a noisy loss", "draws random numbers", loss=noisy_loss),
]
DEPENDENT = [
    refused(
        "BatchNorm in training mode",
        r"BatchNorm uses the batch's own statistics in 1\)",
        batch_norm,
        mode="train",
    ),
    refused(
        "BatchNorm in training mode, micro-batches",
        "depend on the other examples",
        batch_norm,
        data=[(VECTORS, Y)],
        micro_batch=3,
        mode="train",
    ),
    refused(
        "BatchNorm without running statistics",
        r"`1` \(BatchNorm1d\) \(BatchNorm uses",
        lambda: batch_norm(track_running_stats=False),
    ),
    refused("functional batch_norm", r"in the model itself \(OwnBatchNorm\)", OwnBatchNorm),
    refused(
        "time before examples, cut",
        "batch_first=True",
        wrap(lambda m, x: m.rnn(x)[0].mean(0), rnn=lambda: nn.GRU(4, 3)),
        data=[(SEQUENCES.transpose(0, 1), Y)],
        micro_batch=2,
    ),
]
REDUCTIONS = [
    refused("classes last", "the classes second", data=uneven(SEQUENCES, PADDED)),
    refused(
        "whole, functional dropout",
        "gives different values for the same batch",
        dropout(lambda m, x: m.b(F.dropout(m.a(x)))),
        loss=of_model_and_batch,
    ),
    refused(
        "whole, functional dropout in a single batch",
        "gave two results",
        dropout(lambda m, x: m.b(F.dropout(m.a(x)))),
        loss=of_model_and_batch,
        data=[(VECTORS, Y)],
    ),
    refused("a sum", "`sum_of_all` returns a sum over the batch", loss=sum_of_all),
    refused("class weights inside", "`weighted` returns not the mean", loss=weighted),
    refused(
        "padding inside",
        "not the mean over the batch's examples",
        loss=mean_over_tokens,
        data=uneven(SEQUENCES, PADDED),
    ),
    refused("whole, a sum", r"`loss\(model, batch\)` returns a sum", loss=whole_sum),
    refused(
        "whole, padding inside",
        "not the mean over",
        loss=whole_mean_over_tokens,
        data=uneven(SEQUENCES, PADDED),
    ),
    refused(
        "whole, unknown size",
        r"doesn't tell how many examples",
        loss=two_lengths,
        data=[(VECTORS[:3], torch.cat([Y, Y])), (VECTORS[3:], Y)],
    ),
    refused(
        "broadcasting", "broadcasting would compare", loss="mse", data=uneven(VECTORS, REAL[:, 0])
    ),
]
DERIVATIVES = [
    refused(
        "once differentiable", "`SquareOnce` has no second derivative", with_function(SquareOnce)
    ),
    refused(
        "detached backward",
        "second derivative disagrees .* SquareDetached",
        with_function(SquareDetached),
    ),
    refused(
        "wrong backward",
        "gradient disagrees .* SquareWrong",
        wrap(lambda m, x: SquareWrong.apply(m.net(x)), net=mlp()),
    ),
    refused(
        "wrong backward in the middle",
        r"not symmetric.*\(SquareRolled\?\)",
        with_function(SquareRolled),
    ),
    refused(
        "no double backward",
        "`aten::_pdist_backward`|`_pdist_backward` has no second",
        wrap(
            lambda m, x: (
                F.pdist(m.net(x))[:, None].expand(-1, 3)[: len(x)] if len(x) > 3 else m.net(x)
            ),
            net=mlp(),
        ),
        data=[(VECTORS, Y)],
    ),
    refused("infinite second derivative", "not finite in 0.weight", loss=root_of_nothing),
    refused(
        "divergence",
        "The loss is nan",
        lambda: nn.Sequential(mlp()(), wrap(lambda m, x: x * torch.nan)()),
    ),
]
MODELS = [
    refused(
        "inputs of another width",
        r"can't take these inputs, of shape \(3, 3\).* mat1 and mat2",
        data=uneven(VECTORS[:, :3], Y),
    ),
    refused(
        "images of another number of channels",
        r"can't take these inputs, of shape \(3, 2, \d, \d\).* channels",
        lambda: nn.Conv2d(5, 3, 1),
        data=uneven(IMAGES, Y),
    ),
    refused("lazy model", "lazily initialised", convnet(), data=uneven(IMAGES, Y)),
    refused(
        "no such parameter",
        "No parameter matches `fc.*`. The model has 0.weight",
        params=["0.*", "fc.*"],
    ),
    refused(
        "frozen parameters asked for",
        "requires a gradient",
        lambda: frozen_first(mlp()()),
        params=["0.*"],
    ),
    refused("everything frozen", "requires a gradient", lambda: mlp()().requires_grad_(False)),
    refused(
        "complex parameters",
        "`0.weight` is complex",
        lambda: nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64), wrap(lambda m, x: x.abs())()),
    ),
    refused("a module instead of names", "got a Parameter", params=list(mlp()().parameters())),
    refused("the name of a module", r"Did you mean `0\.\*`", params="0"),
    refused(
        "an object without tensors",
        "returned a Logits, in which no tensor is found",
        wrap(lambda m, x: Logits(m.net(x)), net=mlp()),
        loss=lambda f, y: F.cross_entropy(f.logits, y),
    ),
    refused(
        "outputs in a tuple",
        r"returned a tuple with tensors of shape \(3, 3\), \(3, 4\)",
        wrap(lambda m, x: (m.net(x), x), net=mlp()),
    ),
    refused("half precision asked for", "`dtype` must be", dtype=torch.float16),
    refused("a mode that isn't", '"eval" or "train"', mode="test"),
    refused("no examples in a micro-batch", "`micro_batch` must be", micro_batch=0),
    refused("no such loss", "There is no loss `mes`. Did you mean `mse`", loss="mes"),
    refused("not a loss", "`loss` must be a name", loss=3),
]
LOADER = TensorDataset(VECTORS, Y)
DATA = [
    refused("shuffling DataLoader", "shuffle=True", data=DataLoader(LOADER, 3, shuffle=True)),
    refused("shuffling by hand", r"another order|other contents", data=Shuffling()),
    refused("augmentation", "augmentation", data=DataLoader(Augmented(), 3)),
    refused("streamed augmentation", "augmentation", data=DataLoader(Streaming(), 3)),
    refused("iterator", "is an iterator", data=iter(uneven(VECTORS, Y))),
    refused("generator", "is an iterator", data=(batch for batch in uneven(VECTORS, Y))),
    refused("exhausted", "can't be gone over again|0 batches instead of", data=Emptying()),
    refused("a Dataset", r"wrap it in one: DataLoader", data=LOADER),
    refused("no batches", "holds no batch", data=[]),
    refused("no examples", "holds no batch", data=(VECTORS[:0], Y[:0])),
    refused("three tensors", "holds 3 tensors", data=(VECTORS, VECTORS, Y)),
    refused("examples", "single value", data=list(zip(VECTORS, Y, strict=True))),
    refused("examples with plain labels", "single value", data=[(VECTORS[0], 1), (VECTORS[1], 2)]),
    refused("a mapping of texts", "without tensors", data={"a": "b", "y": "c"}),
    refused("a tensor", "must be batches .* got Tensor", data=VECTORS),
    refused("three in a batch", r"got a tuple of 3", data=[(VECTORS, Y, Y)]),
    refused("mapping without targets", "with the keys a, b", data=[{"a": VECTORS, "b": Y}]),
    refused("different lengths", "There are 7 inputs for 6 targets", data=(VECTORS, Y[:6])),
    refused(
        "all padding", "weights of all batches are zero", data=[(VECTORS, torch.full((7,), -100))]
    ),
]
REFUSALS = [*RANDOM, *DEPENDENT, *REDUCTIONS, *DERIVATIVES, *MODELS, *DATA]
