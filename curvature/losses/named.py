"""The losses that can be named."""

from collections.abc import Callable

from curvature.losses.bundled import bce, cross_entropy, huber, mse, nll
from curvature.losses.loss import Loss
from curvature.losses.tokens import each_token, next_token

LOSSES: dict[str, Callable[..., Loss]] = {
    "cross_entropy": cross_entropy,
    "mse": mse,
    "bce": bce,
    "huber": huber,
    "nll": nll,
    "next_token": next_token,
    "each_token": each_token,
}
