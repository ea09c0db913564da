"""Which examples, and in which batches: a fixed order for curvature, a shuffled one to train."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from curvature.datasets.dataset import Dataset
from curvature.datasets.splits import class_codes, shuffled_ranks

PADDING = 4  # of the random crop (He et al. 2016, §4.2)


class Batches:
    """A list of batches (inputs, targets), normalised when taken; going over it again is free.

    ``shifts`` (N, 2) moves each image down and right, ``flips`` (N,) mirrors it.
    """

    is_fixed = True  # so whoever needs one order in all passes needn't compare two of them

    def __init__(
        self,
        data: Dataset,
        size: int,
        *,
        order: Tensor | None = None,
        shifts: Tensor | None = None,
        flips: Tensor | None = None,
    ) -> None:
        if size < 1:
            raise ValueError(f"A batch has at least 1 example, got size {size}.")
        self.data = data
        self.size = size
        self._order, self._shifts, self._flips = order, shifts, flips

    def __len__(self) -> int:
        return -(-len(self.data) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        start = i % len(self) * self.size
        rows = slice(start, start + self.size)
        chosen = rows if self._order is None else self._order[rows]
        inputs, targets = self.data.inputs[chosen], self.data.targets[chosen]
        if self._shifts is not None:
            flips = None if self._flips is None else self._flips[rows]
            inputs = shifted(inputs, self._shifts[rows], flips)
        return self.data.normalized(inputs), targets


def choose(
    data: Dataset,
    *,
    examples: int | None = None,
    first: int | None = None,
    generator: torch.Generator,
) -> Dataset:
    """``examples`` drawn at random, balanced over classes and groups; or the ``first``; or all.

    Balanced: combinations of class and groups get equal numbers (± 1, where there are enough),
    and so do, as nearly as can be, classes and groups by themselves. Any leading stretch is
    balanced too, so fewer examples with the same seed and data are the first of more.
    """
    if examples is not None and first is not None:
        raise ValueError(f"`examples` ({examples}) and `first` ({first}) exclude each other.")
    count = examples if first is None else first
    if count is None:
        return data
    if not 1 <= count <= len(data):
        raise ValueError(
            f"{count:,} examples were asked for; `{data.name}` has {len(data):,} (at least 1)."
        )
    if first is not None:
        return data.select(slice(0, first))
    return data.select(_balanced_order(data, count, generator))


def fixed(data: Dataset, size: int) -> Batches:
    """All examples in their order, not augmented: the batches of every curvature measurement."""
    return Batches(data, size)


def shuffled(
    data: Dataset, size: int, *, augment: bool = True, generator: torch.Generator
) -> Batches:
    """One epoch in a random order, augmented as ``data.augment`` says.

    All is drawn here and on the CPU: every device sees the same batches, any one of them can
    be taken by its number, and the generator's state afterwards doesn't depend on how many are.
    """
    if data.augment not in ("none", "crop", "crop-flip"):
        raise ValueError(f"`augment` is none, crop or crop-flip, not `{data.augment}`.")
    device = data.inputs.device
    order = torch.randperm(len(data), generator=generator).to(device)
    if not augment or data.augment == "none":
        return Batches(data, size, order=order)
    if data.inputs.ndim != 4:
        raise ValueError(
            f"Only images (N, C, H, W) can be cropped; `{data.name}` has inputs of shape "
            f"{tuple(data.inputs.shape)}. Use augment=none."
        )
    shifts = torch.randint(-PADDING, PADDING + 1, (len(data), 2), generator=generator).to(device)
    flips = None
    if data.augment == "crop-flip":
        flips = torch.randint(2, (len(data),), generator=generator).bool().to(device)
    return Batches(data, size, order=order, shifts=shifts, flips=flips)


def shifted(images: Tensor, shifts: Tensor, flips: Tensor | None = None) -> Tensor:
    """Each image (C, H, W) moved by its (rows, columns), black moving in, then mirrored or not."""
    height, width = images.shape[-2:]
    padded = functional.pad(images, (PADDING,) * 4)
    device = images.device
    rows = PADDING - shifts[:, :1] + torch.arange(height, device=device)
    columns = (torch.arange(width, device=device)).expand(len(images), width)
    if flips is not None:
        columns = torch.where(flips[:, None], width - 1 - columns, columns)
    columns = PADDING - shifts[:, 1:] + columns
    image = torch.arange(len(images), device=device)[:, None, None]
    # Advanced indices with a slice between them put the channels last: move them back.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


def _balanced_order(data: Dataset, count: int, generator: torch.Generator) -> Tensor:
    """Round after round one example of every cell; the cells of a round in a balanced order."""
    factors = [
        class_codes(codes) for codes in (data.targets, *(c for c, _ in data.groups.values()))
    ]
    cell = torch.zeros(len(data), dtype=torch.int64)
    for codes in factors:
        cell = class_codes(cell * (codes.max() + 1) + codes)
    cells = torch.empty(len(factors), int(cell.max()) + 1, dtype=torch.int64)
    cells[:, cell] = torch.stack(factors)
    place = torch.empty(cells.shape[1], dtype=torch.int64)
    place[_interleaved(cells, count, generator)] = torch.arange(len(place))
    ranks = shuffled_ranks(cell, generator)
    return (ranks * len(place) + place[cell]).argsort(stable=True)[:count]


def _interleaved(cells: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Order the columns of ``cells`` so that a leading stretch has each level equally often.

    Greedy: next comes the cell whose levels are the least used so far, ties at random.
    """
    shuffle = torch.randperm(cells.shape[1], generator=generator)
    levels = list(cells[:, shuffle])
    used = [torch.zeros(int(level.max()) + 1, dtype=torch.float64) for level in levels]
    load = torch.zeros(len(shuffle), dtype=torch.float64)
    order = []
    for _ in range(min(count, len(shuffle))):
        i = int(load.argmin())
        order.append(i)
        load[i] = torch.inf
        for level, uses in zip(levels, used, strict=True):
            uses[level[i]] += 1
            load[level == level[i]] += len(uses)
    rest = torch.ones(len(shuffle), dtype=torch.bool)
    rest[order] = False
    return shuffle[torch.cat([torch.tensor(order), rest.nonzero().view(-1)])]
