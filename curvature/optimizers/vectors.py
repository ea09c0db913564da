"""Lists of tensors seen as one vector: norms, gradients, and weights moved and put back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """‖t‖₂ of each tensor as one float64 vector (float32 on MPS), not yet synced.

    float32 sums would overflow above 1.8e19, vanish below 1e-19, and be off by 1e-4 in between.
    """
    if not tensors:
        return torch.zeros(1, dtype=torch.float64)
    device = tensors[0].device
    if device.type == "cpu":  # where foreach is a loop, and reducing into float64 25 times slower
        return torch.stack([torch.linalg.vector_norm(t.double()) for t in tensors])
    dtype = torch.float32 if device.type == "mps" else torch.float64
    parts = torch._foreach_norm(list(tensors), 2, dtype=dtype)
    return torch.stack([part.to(device) for part in parts])


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all tensors together; a 0-d tensor, not yet synced."""
    total: Tensor = torch.linalg.vector_norm(norms(tensors))
    return total


def gradients(weights: Sequence[Tensor]) -> list[Tensor]:
    """The ``.grad`` of those weights that have one.

    Raises:
        TypeError: for a sparse gradient, which has no place in a norm over all weights.
    """
    found = [p.grad for p in weights if p.grad is not None]
    for gradient in found:
        if gradient.is_sparse:
            raise TypeError(
                f"The gradient of a parameter of shape {tuple(gradient.shape)} is sparse: norms "
                "over all parameters need dense ones. Build the embedding with `sparse=False`."
            )
    return found


def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """Multiply each tensor by a 0-d tensor, on whatever device each is."""
    for device in {t.device for t in tensors}:
        here = [t for t in tensors if t.device == device]
        torch._foreach_mul_(here, factor.to(device))


def widened(t: Tensor) -> Tensor:
    """A copy in float32 at least."""
    wide = torch.promote_types(t.dtype, torch.float32)
    return t.detach().to(wide, copy=True)


@contextmanager
def restored(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Let the weights be moved; copy them back bitwise at the end, whatever is raised."""
    saved = [p.detach().clone() for p in weights]
    try:
        yield saved
    finally:
        if saved:
            torch._foreach_copy_(list(weights), saved)
