"""Every kind of loss, of targets and of layout of a batch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.corpus.case import SEQUENCES, VECTORS, Case, Y, mean_cross_entropy, randn, uneven
from tests.corpus.modules import OneParameter, mlp, wrap

REAL = randn(7, 3, seed=8)
LIKELY = randn(7, 3, seed=9).softmax(1)
BITS = (randn(7, 3, seed=10) > 0).double()
OMEGA = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
EACH = torch.linspace(0.5, 2, 7, dtype=torch.float64)
PADDED = torch.where(torch.arange(5) < torch.tensor([5, 2, 4, 0, 0, 0, 3])[:, None], 0, -100) + (
    torch.arange(35).view(7, 5) % 3
)
PADDED = torch.where(PADDED < 0, -100, PADDED)  # the second batch is all padding
CE = mean_cross_entropy(VECTORS, Y)


def on_vectors(name: str, loss: Any, y: Tensor, reference: Any, **options: Any) -> Case:
    """An MLP on seven vectors in batches of 3, 3 and 1; ``reference`` of (outputs, targets)."""
    data = uneven(VECTORS, y)
    return Case(name, mlp(), loss, data, lambda m: reference(m(VECTORS), y), options)


def weighted_mean(f: Tensor, targets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    y, omega = targets
    each = F.cross_entropy(f, y, reduction="none")
    return (omega * each).sum() / omega.sum(), omega.sum()


def one_number_per_example(f: Tensor, y: Tensor) -> Tensor:
    return (f - y).abs().pow(3).sum(1)


def a_mean_of_shape_one(f: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(f, y).reshape(1)


def tokens_that_count(f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    f = f.flatten(0, 1)
    return F.cross_entropy(f, y.flatten(), ignore_index=-100), (y != -100).sum()


def linear(f: Tensor, y: Tensor) -> Tensor:
    return (f * y).sum(1)


def exactly_zero(f: Tensor, y: Tensor) -> Tensor:
    return 0 * f.sum(1)


def mean_ce(f: Tensor, y: Tensor) -> Tensor:
    return -f.log_softmax(1).gather(1, y[:, None]).mean()


def mean_token_ce(model: nn.Module) -> Tensor:
    kept = PADDED != -100
    return mean_ce(model(SEQUENCES)[kept], PADDED[kept])


NAMED = [
    on_vectors("mse", "mse", REAL, lambda f, y: ((f - y) ** 2).mean()),
    on_vectors("mse, summed", nn.MSELoss(reduction="sum"), REAL, lambda f, y: ((f - y) ** 2).sum()),
    on_vectors("huber", "huber:delta=0.5", REAL, partial(F.huber_loss, delta=0.5)),
    on_vectors(
        "bce",
        "bce",
        BITS,
        lambda f, y: -((y * f.sigmoid().log() + (1 - y) * (-f).sigmoid().log()).mean()),
    ),
    on_vectors(
        "bce with pos_weight",
        nn.BCEWithLogitsLoss(pos_weight=OMEGA),
        BITS,
        lambda f, y: -(OMEGA * y * f.sigmoid().log() + (1 - y) * (-f).sigmoid().log()).mean(),
    ),
    on_vectors(
        "class weights",
        nn.CrossEntropyLoss(OMEGA),
        Y,
        lambda f, y: -(OMEGA[y] * f.log_softmax(1)[range(7), y]).sum() / OMEGA[y].sum(),
    ),
    on_vectors(
        "label smoothing",
        nn.CrossEntropyLoss(label_smoothing=0.2),
        Y,
        lambda f, y: -((0.8 * F.one_hot(y, 3).double() + 0.2 / 3) * f.log_softmax(1)).sum(1).mean(),
    ),
    on_vectors(
        "class weights and label smoothing",
        nn.CrossEntropyLoss(OMEGA, label_smoothing=0.2),
        Y,
        lambda f, y: (
            -((0.8 * F.one_hot(y, 3).double() + 0.2 / 3) * OMEGA * f.log_softmax(1)).sum()
            / OMEGA[y].sum()
        ),
    ),
    on_vectors(
        "probabilities as targets",
        "cross_entropy",
        LIKELY,
        lambda f, y: -(y * f.log_softmax(1)).sum(1).mean(),
    ),
    on_vectors("summed", "cross_entropy:reduction=sum", Y, lambda f, y: 7 * mean_ce(f, y)),
    on_vectors("F.cross_entropy", F.cross_entropy, Y, mean_ce),
    on_vectors("int32 labels", "cross_entropy", Y.int(), lambda f, y: mean_ce(f, y.long())),
    on_vectors("named import", "torch.nn:CrossEntropyLoss,label_smoothing=0.0", Y, mean_ce),
    on_vectors("not reduced", nn.CrossEntropyLoss(reduction="none"), Y, mean_ce),
]
OTHERS = [
    on_vectors("L1", nn.L1Loss(), REAL, lambda f, y: (f - y).abs().mean()),
    on_vectors("L1, summed", nn.L1Loss(reduction="sum"), REAL, lambda f, y: (f - y).abs().sum()),
    on_vectors("smooth L1", nn.SmoothL1Loss(reduction="none"), REAL, F.smooth_l1_loss),
    on_vectors(
        "Kullback–Leibler",
        lambda f, y: F.kl_div(f.log_softmax(1), y, reduction="batchmean"),
        LIKELY,
        lambda f, y: (y * (y.log() - f.log_softmax(1))).sum(1).mean(),
    ),
    on_vectors(
        "negative log-likelihood",
        lambda f, y: F.nll_loss(f.log_softmax(1), y, weight=OMEGA.to(f.dtype), reduction="none"),
        Y,
        lambda f, y: -(OMEGA[y] * f.log_softmax(1)[range(7), y]).mean(),
    ),
    on_vectors(
        "one number per example",
        one_number_per_example,
        REAL,
        lambda f, y: ((f - y).abs() ** 3).sum(1).mean(),
    ),
    on_vectors("a mean of shape (1,)", a_mean_of_shape_one, Y, mean_ce),
    on_vectors("linear loss", linear, REAL, lambda f, y: (f * y).sum(1).mean()),
    Case(
        "nn.NLLLoss with class weights",
        lambda: nn.Sequential(*mlp()(), nn.LogSoftmax(1)),
        nn.NLLLoss(OMEGA),
        uneven(VECTORS, Y),
        lambda m: -(OMEGA[Y] * m(VECTORS)[range(7), Y]).sum() / OMEGA[Y].sum(),
    ),
    Case(
        "one parameter",
        OneParameter,
        "mse",
        uneven(VECTORS, REAL[:, :1].expand(7, 4)),
        lambda m: ((m(VECTORS) - REAL[:, :1]) ** 2).mean(),
    ),
    Case(
        "sample weights",
        mlp(),
        weighted_mean,
        [(x, (y, w)) for x, y, w in uneven(VECTORS, Y, EACH)],
        lambda m: -(EACH * m(VECTORS).log_softmax(1)[range(7), Y]).sum() / EACH.sum(),
    ),
    Case("padded sequences", mlp(), tokens_that_count, uneven(SEQUENCES, PADDED), mean_token_ce),
    Case(
        "padded sequences, by module",
        wrap(lambda m, x: m.net(x).mT, net=mlp()),
        "cross_entropy",
        uneven(SEQUENCES, PADDED),
        lambda m: mean_token_ce(m.net),
    ),
    Case(
        "one output of shape (N,)",
        wrap(lambda m, x: m.net(x)[:, 0], net=mlp()),
        "mse",
        uneven(VECTORS, REAL[:, 0]),
        lambda m: ((m(VECTORS) - REAL[:, 0]) ** 2).mean(),
    ),
]
LOSSES = [*NAMED, *OTHERS]
