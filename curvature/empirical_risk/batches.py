"""Anyone's batches as a fixed, re-iterable sequence of (inputs, targets)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from curvature.empirical_risk.evaluation import random_state_kept
from curvature.empirical_risk.nested import as_tensors, digest, leading_dimensions, part_of
from curvature.losses import examples_in

_ARRAY = (Tensor, np.ndarray)
_TARGETS = ("labels", "targets", "target", "label", "y")


class Batches:
    """Batches that can be gone over again and again, always the same and in the same order.

    A ``source`` that isn't a list is hashed as it is gone over, and a pass that differs from the
    first is refused: no pass more is needed for it.
    """

    def __init__(self, source: Iterable[Any], *, whole: bool) -> None:
        self._source = source
        self._whole = whole  # a batch is handed to `loss(model, batch)` as it is
        self._fixed = isinstance(source, (list, tuple)) or getattr(source, "is_fixed", False)
        self._seen: list[str] = []
        self._length = self._count()
        if not self._fixed:
            self._check_first()

    def __len__(self) -> int:
        return self._length

    @property
    def in_memory(self) -> bool:
        """To go over them costs nothing."""
        return isinstance(self._source, (list, tuple))

    def __iter__(self) -> Iterator[Any]:
        index = -1
        for index, found in enumerate(self._fresh()):
            batch = as_tensors(found)
            if not self._fixed:
                self._compare(index, batch)
            yield batch if self._whole else _pair(batch)
        if index + 1 != self._length:
            raise ValueError(
                f"A pass over `data` gave {index + 1} batches instead of {self._length}: it can't "
                "be gone over again and again. Pass a list of batches."
            )

    def _count(self) -> int:
        try:
            return len(self._source)  # type: ignore[arg-type]
        except TypeError:  # none, or a loader of an IterableDataset that has none
            with random_state_kept():
                return sum(1 for _ in self._source)

    def _check_first(self) -> None:
        """Takes the first batch twice, the global random state having moved on in between."""
        with random_state_kept():
            for _ in range(2):
                for batch in self._source:
                    self._compare(0, as_tensors(batch))
                    break

    def _fresh(self) -> Iterator[Any]:
        with random_state_kept():  # a loader draws a seed even where it doesn't shuffle
            return iter(self._source)

    def _compare(self, index: int, batch: Any) -> None:
        found = digest(batch)
        if index == len(self._seen):
            self._seen.append(found)
        elif found != self._seen[index]:
            raise ValueError(
                f"Two passes over `data` gave {self._difference()}. Use a DataLoader with "
                "shuffle=False and no augmentation, or pass `list(loader)`."
            )

    def _difference(self) -> str:
        """Told by the examples of two more passes: the same ones where they are only shuffled."""
        with random_state_kept():
            first, second = (
                [digest(example) for batch in self._source for example in _examples(batch)]
                for _ in range(2)
            )
        if first == second:
            return "other batches, since the data were changed in between"
        if sorted(first) == sorted(second):
            return (
                "the examples in another order (shuffle=True?): the products would belong to "
                "different batches"
            )
        return (
            "examples with other contents (augmentation or random sampling?): each product would "
            "belong to another function"
        )


def as_batches(data: Any, batch_size: int, *, whole: bool) -> Batches:
    """A list of batches, a DataLoader, or the examples themselves, as tensors or arrays.

    A batch is (inputs, targets), or a mapping with ``labels`` or ``targets``; so are the examples.

    Raises:
        ValueError: if it shuffles, or if one pass exhausts it.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if _is_pair(data, whole):
        data = _cut(as_tensors(tuple(data)), batch_size)
    elif isinstance(data, Mapping):
        data = _cut_mapping(as_tensors(data), batch_size)
    elif not whole and _is_tensors(data) and len(data):
        raise TypeError(
            f"`data` holds {len(data)} tensors, and which of them are targets isn't known. Pass "
            "(inputs, targets), ((first, second), targets), or a list of such batches."
        )
    if isinstance(data, Dataset) or not _re_iterable(data):
        hint = "; wrap it in one: DataLoader(data, batch_size=…)" * isinstance(data, Dataset)
        raise TypeError(
            f"`data` must be batches (inputs, targets), a DataLoader or a pair of tensors, got "
            f"{type(data).__name__}{hint}."
        )
    with random_state_kept():
        exhaustible = iter(data) is data
    if exhaustible:
        raise ValueError(
            "`data` is an iterator, which one pass exhausts; curvature goes over it many times. "
            "Pass a list of batches or a DataLoader."
        )
    if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler):
        raise ValueError(
            "The DataLoader shuffles (shuffle=True), so the products would belong to different "
            "batches. Use a DataLoader with shuffle=False, or pass `list(loader)`."
        )
    batches = Batches(data, whole=whole)
    if not len(batches):
        raise ValueError("`data` holds no batch.")
    return batches


def examples(batch: tuple[Any, Any]) -> int:
    """How many examples a pair (inputs, targets) holds, by its targets."""
    return examples_in(batch[1]) or examples_in(batch[0])


def can_be_cut(batch: tuple[Any, Any]) -> bool:
    """Whether the inputs, too, lead with the examples (not with time, as in ``nn.LSTM``)."""
    return examples_in(batch[0]) == examples(batch) > 0


def _is_tensors(data: Any) -> bool:
    return isinstance(data, (tuple, list)) and all(isinstance(t, _ARRAY) for t in data)


def _is_pair(data: Any, whole: bool) -> bool:
    """Whether it is (inputs, targets), and no two batches: these are no tensors by themselves."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    if whole:
        return isinstance(data, tuple) and isinstance(data[1], _ARRAY)
    return isinstance(data[0], _ARRAY) or isinstance(data[1], _ARRAY)


def _cut_mapping(data: Any, batch_size: int) -> list[Any]:
    """Batches of the same keys; a single one where the tensors' lengths differ."""
    lengths = leading_dimensions(data)
    if not lengths:
        raise TypeError(
            "`data` is a mapping without tensors. Pass tensors (of a tokenizer: "
            "return_tensors='pt'), or a list of batches."
        )
    n = lengths.pop()
    if lengths:
        return [data]
    return [part_of(data, start, start + batch_size, n) for start in range(0, n, batch_size)]


def _cut(pair: tuple[Any, Any], batch_size: int) -> list[Any]:
    n = examples_in(pair[1])
    for part, what in zip(pair, ("inputs", "targets"), strict=True):
        if not leading_dimensions(part):
            raise TypeError(
                f"The {what} are a {type(part).__name__} without tensors or arrays in it: pass "
                "torch.tensor(…) of them."
            )
    if examples_in(pair[0]) != n:
        raise ValueError(f"There are {examples_in(pair[0])} inputs for {n} targets.")
    return [part_of(pair, start, start + batch_size, n) for start in range(0, n, batch_size)]


def _re_iterable(data: Any) -> bool:
    return hasattr(data, "__iter__") and not isinstance(data, (str, bytes, Mapping, *_ARRAY))


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        _refuse_one_example(batch[1])
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        key = next((key for key in _TARGETS if key in batch), None)
        if key is not None:
            return {k: v for k, v in batch.items() if k != key}, batch[key]
    size = f" of {len(batch)}" if isinstance(batch, Sized) else ""
    keys = f" with the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise TypeError(
        "A batch must be (inputs, targets), or a mapping with `labels` or `targets`; got a "
        f"{type(batch).__name__}{keys or size}. For another layout pass a loss that takes "
        "`(model, batch)`."
    )


def _refuse_one_example(target: Any) -> None:
    if isinstance(target, (int, float)) or (isinstance(target, Tensor) and not target.ndim):
        raise TypeError(
            f"The targets of a batch are the single value {float(target):g}: `data` seems to hold "
            "examples instead of batches. Wrap it: DataLoader(data, batch_size=…)."
        )


def _examples(batch: Any) -> list[Any]:
    tensors = as_tensors(batch)
    n = examples_in(tensors)
    return [part_of(tensors, i, i + 1, n) for i in range(n)] or [tensors]
