"""Every kind of layer and of parameter that a network is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.corpus.case import (
    IMAGES,
    MASK,
    SEQUENCES,
    TOKENS,
    VECTORS,
    Case,
    Y,
    classifier,
    mean_cross_entropy,
    uneven,
)
from tests.corpus.modules import (
    Attention,
    Checkpointed,
    PaddedEncoder,
    Recurrent,
    SeveralDtypes,
    Square,
    Tied,
    Unused,
    autocast_inside,
    built,
    convnet,
    frozen_first,
    mlp,
    with_function,
    wrap,
)


def conv_case(name: str, *middle: Callable[[], nn.Module], **more: Any) -> Case:
    return classifier(name, built(convnet(*middle), IMAGES[:2]), IMAGES, **more)


ACTIVATIONS = [
    classifier(make.__name__, mlp(make), VECTORS)
    for make in (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Softplus, nn.ELU, nn.Hardswish)
]
VISION = [
    conv_case("BatchNorm in evaluation mode", lambda: nn.BatchNorm2d(4), nn.Tanh),
    conv_case("GroupNorm", lambda: nn.GroupNorm(2, 4), nn.Tanh),
    conv_case("InstanceNorm", lambda: nn.InstanceNorm2d(4, affine=True), nn.Tanh),
    conv_case("max-pool", lambda: nn.MaxPool2d(2), nn.Tanh),
    conv_case("average pool", nn.Tanh, lambda: nn.AvgPool2d(2)),
    conv_case(
        "adaptive pools", nn.Tanh, lambda: nn.AdaptiveMaxPool2d(3), lambda: nn.AdaptiveAvgPool2d(1)
    ),
    conv_case("depthwise", nn.GELU, lambda: nn.Conv2d(4, 4, 3, groups=4)),
    conv_case("transposed", nn.GELU, lambda: nn.ConvTranspose2d(4, 2, 3, stride=2)),
    conv_case(
        "dilated, upsampled",
        nn.GELU,
        lambda: nn.Conv2d(4, 2, 2, dilation=2),
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"),
    ),
    conv_case(
        "in-place ReLU and dropout modules",
        lambda: nn.Dropout2d(0.5),
        lambda: nn.ReLU(inplace=True),
    ),
]
SEQUENCE = [
    classifier(
        "LayerNorm",
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)),
        VECTORS,
    ),
    classifier(
        "RMSNorm", lambda: nn.Sequential(nn.Linear(4, 5), nn.RMSNorm(5), nn.Linear(5, 3)), VECTORS
    ),
    classifier("LSTM", lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.5), SEQUENCES),
    classifier("GRU", lambda: Recurrent(nn.GRU, bidirectional=True), SEQUENCES),
    classifier("RNN", lambda: Recurrent(nn.RNN), SEQUENCES),
    classifier("attention", Attention, SEQUENCES),
    classifier("attention, causal", lambda: Attention(is_causal=True), SEQUENCES),
    classifier("attention, masked", lambda: Attention(attn_mask=MASK), SEQUENCES),
    classifier(
        "MultiheadAttention",
        wrap(
            lambda m, x: m.head(m.a(x, x, x)[0].mean(1)),
            a=lambda: nn.MultiheadAttention(4, 2, batch_first=True),
            head=lambda: nn.Linear(4, 3),
        ),
        SEQUENCES,
    ),
    classifier(
        "TransformerEncoderLayer",
        wrap(
            lambda m, x: m.head(m.a(x).mean(1)),
            a=lambda: nn.TransformerEncoderLayer(
                4, 2, 6, dropout=0.1, activation="gelu", batch_first=True
            ),
            head=lambda: nn.Linear(4, 3),
        ),
        SEQUENCES,
    ),
    classifier(
        "padded TransformerEncoder",
        PaddedEncoder,
        SEQUENCES * (torch.arange(5)[:, None] < torch.tensor([5, 2, 3, 4, 2, 5, 3])[:, None, None]),
    ),
    classifier(
        "Embedding with padding_idx",
        wrap(
            lambda m, x: m.head(m.e(x).tanh().mean(1)),
            e=lambda: nn.Embedding(6, 4, padding_idx=0),
            head=lambda: nn.Linear(4, 3),
        ),
        1 + TOKENS % 5,
    ),
    classifier(
        "sparse Embedding",
        wrap(
            lambda m, x: m.head(m.e(x).tanh().mean(1)),
            e=lambda: nn.Embedding(6, 4, sparse=True),
            head=lambda: nn.Linear(4, 3),
        ),
        TOKENS,
    ),
]
PARAMETERS = [
    classifier("unused parameters", Unused, VECTORS),
    classifier("frozen parameters", lambda: frozen_first(mlp()()), VECTORS),
    classifier("tied weights", Tied, VECTORS),
    Case(
        "several dtypes",
        SeveralDtypes,
        "cross_entropy",
        uneven(VECTORS.float(), Y),
        mean_cross_entropy(VECTORS.float().double(), Y),
    ),
    classifier("params pattern", mlp(), VECTORS, options={"params": ["2.*"]}),
    classifier("params as one string", mlp(), VECTORS, options={"params": "0.weight"}),
    classifier(
        "weight_norm",
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)
        ),
        VECTORS,
    ),
    classifier(
        "spectral_norm",
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)
        ),
        VECTORS,
    ),
    classifier(
        "orthogonal",
        lambda: nn.Sequential(
            nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 3)
        ),
        VECTORS,
    ),
    classifier("DataParallel", lambda: nn.DataParallel(mlp()()), VECTORS),
    classifier("checkpoint", lambda: Checkpointed(False), VECTORS),
    Case(
        "reentrant checkpoint",
        lambda: Checkpointed(True),
        "cross_entropy",
        uneven(VECTORS, Y),
        lambda m: mean_cross_entropy(VECTORS, Y)(m.plain),  # type: ignore[arg-type]
    ),
    classifier(
        "Embedding with max_norm",
        wrap(
            lambda m, x: m.head(m.e(x).tanh().mean(1)),
            e=lambda: nn.Embedding(6, 4, max_norm=100.0),
            head=lambda: nn.Linear(4, 3),
        ),
        TOKENS,
    ),
    classifier(
        "autocast inside",
        autocast_inside,
        VECTORS,
    ),
    classifier("custom function", with_function(Square), VECTORS),
    classifier(
        "in-place operations",
        wrap(
            lambda m, x: m.b(m.a(x).mul_(2).tanh_()),
            a=lambda: nn.Linear(4, 5),
            b=lambda: nn.Linear(5, 3),
        ),
        VECTORS,
    ),
]
ARCHITECTURES = [*ACTIVATIONS, *VISION, *SEQUENCE, *PARAMETERS]
