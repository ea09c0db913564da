"""Whatever a stranger's factory returns, as a `Dataset` or as batches."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate

from curvature.datasets.dataset import Constants, Dataset, constants

_ACCEPTED = (
    "a curvature.datasets.Dataset, (inputs, targets) as tensors or arrays, a mapping of such with "
    "labels or targets, a map-style torch Dataset of either, or an iterable of batches"
)


def adapt(value: Any, name: str) -> Dataset | Iterable[Any]:
    """``value`` as a ``Dataset``, where it can be one; a mapping, or an iterable of batches, as is.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(value, Dataset):
        return value
    if isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_array, value)):
        return from_arrays(value[0], value[1], name)
    if isinstance(value, IterableDataset):
        raise TypeError(
            f"`{name}` is an IterableDataset, of examples and not of batches: return "
            "DataLoader(dataset, batch_size=…)."
        )
    if isinstance(value, torch.utils.data.Dataset) or _is_map_style(value):
        return _stacked(value, name)
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Tensor):
        return value
    raise TypeError(f"`{name}` returned a {type(value).__name__}; expected {_ACCEPTED}.")


def from_arrays(
    inputs: Any, targets: Any, name: str, *, mean: Constants = None, std: Constants = None
) -> Dataset:
    """Two tensors or arrays as a ``Dataset``; floats become float32, whole numbers int64.

    uint8 inputs are images, (N, H, W), (N, H, W, C) or (N, C, H, W), and stay uint8: they are
    scaled to [0, 1] and normalised when taken.
    """
    x, y = _tensor(inputs, name), _tensor(targets, name)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(x) == 0:
        raise ValueError(
            f"`{name}` has inputs of shape {tuple(x.shape)} and targets of shape "
            f"{tuple(y.shape)}; expected the same number of each, at least one."
        )
    if x.dtype == torch.uint8:
        x = _channels_first(x)
    else:
        x = x.float() if x.is_floating_point() else x.long()
    y = y.float() if y.is_floating_point() else y.long()
    classes = None if y.is_floating_point() or y.ndim != 1 else int(y.max()) + 1
    return Dataset(name, x, y, classes, mean=constants(mean, "mean"), std=constants(std, "std"))


def _channels_first(x: Tensor) -> Tensor:
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        return x.movedim(3, 1).contiguous()
    return x


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _is_map_style(value: Any) -> bool:
    """Has a length and items but, unlike a list or a loader of batches, no ``__iter__``."""
    has = [hasattr(type(value), name) for name in ("__len__", "__getitem__", "__iter__")]
    return has == [True, True, False]


def _stacked(dataset: Any, name: str) -> Dataset | dict[str, Any]:
    inputs, targets = [], []
    for i in range(len(dataset)):
        example = dataset[i]
        if i == 0 and isinstance(example, Mapping):
            return _collated(dataset, name)
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise TypeError(
                f"Example {i} of `{name}` is a {type(example).__name__}; expected (x, y). "
                "Return batches instead (a DataLoader) for any other form."
            )
        inputs.append(_item(example[0], f"x of example {i} of `{name}`"))
        targets.append(_item(example[1], f"y of example {i} of `{name}`"))
    shapes = {tuple(x.shape) for x in inputs}
    if len(shapes) > 1:
        two = " and ".join(map(str, sorted(shapes)[:2]))
        raise ValueError(
            f"The examples of `{name}` differ in shape, {two}, and can't be stacked: resize them "
            "in the dataset's transform."
        )
    if not inputs:
        raise ValueError(f"`{name}` has no examples.")
    return from_arrays(torch.stack(inputs), torch.stack(targets), name)


def _collated(dataset: Any, name: str) -> dict[str, Any]:
    """All examples, which are mappings, as one of stacked tensors."""
    try:
        found: dict[str, Any] = default_collate([dict(dataset[i]) for i in range(len(dataset))])
    except (RuntimeError, TypeError, KeyError) as error:
        raise ValueError(
            f"The examples of `{name}` can't be stacked ({' '.join(str(error).split())}): pad them "
            "to one length, or return a DataLoader with the collator that you train with."
        ) from error
    return found


def _item(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic | int | float | bool):
        return torch.as_tensor(value)
    raise TypeError(
        f"The {what} is a {type(value).__name__}, not a tensor, an array or a number: give the "
        "dataset a transform (ToTensor())."
    )


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if value.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` has an array of type {value.dtype}; expected numbers.")
    if value.dtype.kind == "u" and value.dtype.itemsize > 1:
        value = value.astype(np.int64)  # torch computes little with wider unsigned types
    native = value.dtype.newbyteorder("=")
    return torch.from_numpy(np.ascontiguousarray(value, dtype=native))
