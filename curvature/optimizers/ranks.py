"""What the ranks of torch.distributed have to agree on: gradients, step sizes, divergence."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

TOLERANCE = 1e-3  # ranks with the same gradients differ by rounding alone


def world_size(group: "dist.ProcessGroup | None" = None) -> int:
    """How many ranks there are; 1 without torch.distributed."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def summed(values: Tensor, group: "dist.ProcessGroup | None" = None) -> Tensor:
    """The sum over the ranks."""
    total = values.clone()
    dist.all_reduce(total, group=group)
    return total


def average_gradients(
    parameters: Iterable[Tensor], group: "dist.ProcessGroup | None" = None
) -> None:
    """Replace each ``.grad`` by its mean over the ranks, in one message per dtype.

    A gradient that is None on some ranks counts as zero there; on all of them, it stays None.
    """
    ranks = world_size(group)
    weights = [p for p in parameters if p.requires_grad]
    if ranks == 1 or not weights:
        return
    here = torch.tensor([p.grad is not None for p in weights], dtype=torch.float32)
    anywhere = summed(here.to(weights[0].device), group).tolist()
    used = [p for p, count in zip(weights, anywhere, strict=True) if count]
    for dtype in dict.fromkeys(p.dtype for p in used):
        same = [p for p in used if p.dtype == dtype]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in same]
        mean = summed(torch.cat([part.reshape(-1) for part in parts]), group).div_(ranks)
        for p, part in zip(same, torch.split(mean, [p.numel() for p in same]), strict=True):
            p.grad = part.view_as(p).clone(memory_format=torch.preserve_format)


def agreed(values: Tensor, group: "dist.ProcessGroup | None" = None) -> Tensor:
    """The mean of ``values`` over the ranks, which must agree on them up to rounding.

    Raises:
        RuntimeError: on every rank, if they don't agree: the gradients weren't averaged.
    """
    ranks = world_size(group)
    if ranks == 1:
        return values
    table = torch.zeros(ranks, len(values), dtype=values.dtype, device=values.device)
    table[dist.get_rank(group)] = values
    table = summed(table, group)
    spread = (table.amax(0) - table.amin(0)) / table.abs().amax(0).clamp(min=1e-300)
    if bool((spread > TOLERANCE).any()):
        raise RuntimeError(
            f"The ranks' gradient norms differ by {float(spread.max()):.1%}, so each would take a "
            "step size of its own. Wrap the model in DistributedDataParallel, or make the closure "
            "with `curvature.optimizers.closure`; for independent runs pass a `process_group` of "
            "one rank."
        )
    return table.mean(0)


def everywhere(flag: bool, device: torch.device, group: "dist.ProcessGroup | None" = None) -> bool:
    """Whether ``flag`` holds on all ranks."""
    ranks = world_size(group)
    if ranks == 1:
        return flag
    count = summed(torch.tensor(float(flag), device=device), group)
    return int(count.item()) == ranks
