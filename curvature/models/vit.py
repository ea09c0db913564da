"""Vision transformers for small images (Dosovitskiy et al. 2021; Touvron et al. 2021, DeiT).

Attention is written out: on one CPU thread it is no slower than the fused kernel at 65 tokens,
and unlike it has second derivatives. `locality` adds the shifted patches and the locality
self-attention of Lee, Lee & Song 2021. Names of the state dict as in DeiT.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

from curvature.models.checks import at_least, image_shape

_EPS = 1e-6  # of LayerNorm, as in DeiT
_SHIFTS = ((1, -1, 0, 0), (-1, 1, 0, 0), (0, 0, 1, -1), (0, 0, -1, 1))  # by one pixel, as padding


class ViT(nn.Module):
    """Patches as tokens behind a class token, ``depth`` pre-norm blocks, a linear layer."""

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        classes: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp: int,
        qkv_bias: bool,
        locality: bool,
    ) -> None:
        super().__init__()
        at_least(1, patch=patch, width=width, depth=depth, heads=heads, mlp=mlp)
        if width % heads:
            raise ValueError(f"`heads` = {heads} doesn't divide `width` = {width}.")
        channels, *sides = image_shape(input_shape, "A ViT")
        if any(side % patch for side in sides):
            raise ValueError(
                f"`patch` = {patch} doesn't divide the sides of the images, {sides[0]}×{sides[1]}."
            )
        tokens = 1 + math.prod(side // patch for side in sides)
        embedding = ShiftedPatches if locality else Patches
        self.patch_embed = embedding(channels, patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        masked = tokens if locality else None
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp, qkv_bias=qkv_bias, masked=masked) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.head = nn.Linear(width, classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width)."""
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x)[:, 0]))
        return logits


class Patches(nn.Module):
    """A linear map of every patch, as a convolution."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, patches, width)."""
        return self.proj(x).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


class ShiftedPatches(nn.Module):
    """Patches of the image and of four copies shifted by a pixel, normalised, then mapped."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        pixels = 5 * channels * patch**2
        self.norm = nn.LayerNorm(pixels, eps=_EPS)
        self.proj = nn.Linear(pixels, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, patches, width)."""
        x = torch.cat([x, *(nn.functional.pad(x, shift) for shift in _SHIFTS)], dim=1)
        x = torch.unflatten(torch.unflatten(x, 3, (-1, self.patch)), 2, (-1, self.patch))
        x = x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        return self.proj(self.norm(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x ← x + attention(norm(x)), x ← x + mlp(norm(x))."""

    def __init__(
        self, width: int, heads: int, mlp: int, *, qkv_bias: bool, masked: int | None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads, qkv_bias=qkv_bias, masked=masked)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(width, mlp), act=nn.GELU(), fc2=nn.Linear(mlp, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, tokens, width) to tokens."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v per head.

    With ``masked`` tokens none of them sees itself, and the factor 1/√d is learned.
    """

    def __init__(self, width: int, heads: int, *, qkv_bias: bool, masked: int | None) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        if masked is not None:
            self.temperature = nn.Parameter(torch.tensor(math.log(self.scale)))
            self.register_buffer("itself", torch.eye(masked, dtype=torch.bool), persistent=False)
        self.masked = masked is not None

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, tokens, width) to tokens."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        if self.masked:
            scores = (q * self.temperature.exp()) @ k.mT
            scores = scores.masked_fill(self.itself, -math.inf)
        else:
            scores = (q * self.scale) @ k.mT
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(y)  # type: ignore[no-any-return]


def vit_small(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp: int | None = None,
    patch: int = 4,
    locality: bool = False,
) -> ViT:
    """ViT-Small of DeiT-S's shape, 384/12/6, with patches of 4×4; `mlp` is 4 · `width`."""
    return ViT(
        input_shape=input_shape,
        classes=classes,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp=4 * width if mlp is None else mlp,
        qkv_bias=True,
        locality=locality,
    )


def vit_study(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 512,
    depth: int = 6,
    heads: int = 8,
    mlp: int = 512,
    patch: int = 4,
    locality: bool = False,
) -> ViT:
    """ViT-Small of the SA-SAM study, 512/6/8 with `mlp` 512."""
    return ViT(
        input_shape=input_shape,
        classes=classes,
        patch=patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp=mlp,
        qkv_bias=False,
        locality=locality,
    )


def _initialize(model: ViT) -> None:
    """Truncated normal of deviation 0.02 and zero biases, as in DeiT; convolutions as in torch."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.cls_token, std=0.02)
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
