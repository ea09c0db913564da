"""What would be silently wrong, and what the refusal says."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from tests.corpus.case import IMAGES, SEQUENCES, VECTORS, Case, Y, randn, uneven
from tests.corpus.losses import OMEGA, PADDED, REAL
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


class Augmented(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return VECTORS[i] + 0.1 * torch.randn(4), Y[i]


class Emptying:
    """Re-iterable by its type, though a second pass finds nothing."""

    def __init__(self) -> None:
        self.left = uneven(VECTORS, Y)

    def __iter__(self):  # type: ignore[no-untyped-def]
        while self.left:
            yield self.left.pop(0)


class Shuffling:
    """Shuffles by itself, unseen by any sampler."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        order = torch.randperm(7)
        yield from uneven(VECTORS[order], Y[order])


class Streaming(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from zip(VECTORS + 0.1 * torch.randn(7, 4), Y, strict=True)


class OwnBatchNorm(nn.Module):
    """F.batch_norm(training=True), whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("var", torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.a(x), self.mean, self.var, training=True)
        out: Tensor = self.b(x)
        return out


def noisy_loss(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f * (1 + 0.1 * torch.rand_like(f)), y, reduction="none")


def sum_of_all(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f, y, reduction="sum")


def weighted(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f, y, weight=OMEGA)


def mean_over_tokens(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f.mT, y, ignore_index=-100)


def whole_sum(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def whole_mean_over_tokens(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return mean_over_tokens(model(batch[0]), batch[1])


def two_lengths(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1][: len(batch[0])])


def root_of_nothing(f: Tensor, y: Tensor) -> Tensor:
    return ((f - f.detach()) ** 2).sum(1).sqrt() + 0 * f.sum(1)


def batch_norm(**options: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, **options), nn.Linear(5, 3))


def dropout(forward):  # type: ignore[no-untyped-def]
    return wrap(forward, a=lambda: nn.Linear(4, 5), b=lambda: nn.Linear(5, 3))


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
        dropout(lambda m, x: m.b(F.dropout(m.a(x), 0.02))),
        data=(randn(200, 4), torch.zeros(200, dtype=torch.long)),
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
    refused("outputs in a tuple", "returned a tuple", wrap(lambda m, x: (m.net(x), x), net=mlp())),
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
    refused("a tensor", "must be batches .* got Tensor", data=VECTORS),
    refused("three in a batch", r"got a tuple of 3", data=[(VECTORS, Y, Y)]),
    refused("mapping without targets", "with the keys a, b", data=[{"a": VECTORS, "b": Y}]),
    refused("different lengths", "There are 7 inputs for 6 targets", data=(VECTORS, Y[:6])),
    refused(
        "all padding", "weights of all batches are zero", data=[(VECTORS, torch.full((7,), -100))]
    ),
]
REFUSALS = [*RANDOM, *DEPENDENT, *REDUCTIONS, *DERIVATIVES, *MODELS, *DATA]
