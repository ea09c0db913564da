"""From a spec to a data set: names, options, and what strangers' factories may return."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from curvature import names
from curvature.datasets import DATASETS, load
from curvature.datasets.dataset import Dataset
from curvature.models import MODELS

X, Y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])


class ListDataset(TorchDataset[Any]):
    """Examples as they are."""

    def __init__(self, examples: list[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int) -> Any:
        return self.examples[i]


class Pairs(TorchDataset[Any]):
    """A map-style data set whose labels are plain numbers, as torchvision's are."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return X[i], int(Y[i])


class Duck:
    """Map-style without being torch's."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.int64]:
        return X[i].numpy(), Y[i].numpy()[()]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X[0], Y[0])])


def of_split(split: str, seed: int, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    return X * scale + seed, Y if split == "test" else 1 + Y


def needs_root(root: str) -> Any:
    return X, Y


FORMS: dict[str, Any] = {
    "Dataset": Dataset("mine", X, Y, 3),
    "tensors": (X, Y),
    "list of two": [X, Y],
    "arrays": (X.numpy(), Y.numpy()),
    "double": (X.double(), Y.int()),
    "big-endian": (X.numpy().astype(">f8"), Y.numpy().astype(">u2")),
    "TensorDataset": TensorDataset(X, Y),
    "map-style": Pairs(),
    "duck": Duck(),
}
BATCHES: dict[str, Any] = {
    "list": [(X, Y), (X, Y)],
    "list of dicts": [{"x": X, "y": Y}],
    "mapping": {"x": X, "y": Y},
    "loader": DataLoader(TensorDataset(X, Y), batch_size=2),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "number": (3, "returned a int; expected"),
    "None": (None, "returned a NoneType; expected"),
    "text": ("x", "returned a str; expected"),
    "one tensor": (X, "returned a Tensor; expected"),
    "stream": (Stream(), "IterableDataset.*DataLoader"),
    "objects": ((np.array([{}]), np.array([0])), "array of type object"),
    "dicts": (TensorDataset(X), r"Example 0 of .* expected \(x, y\)"),
}


def factory(monkeypatch: pytest.MonkeyPatch, value: Any) -> str:
    monkeypatch.setattr(sys.modules[__name__], "made", lambda: value, raising=False)
    return f"{__name__}:made"


@pytest.mark.parametrize("form", FORMS)
def test_a_factory_may_return(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(factory(monkeypatch, FORMS[form]), "test")
    assert isinstance(data, Dataset)
    assert torch.equal(data.inputs, X)
    assert torch.equal(data.targets, Y)
    assert (data.inputs.dtype, data.targets.dtype, data.classes) == (torch.float32, torch.int64, 3)


@pytest.mark.parametrize("form", BATCHES)
def test_batches_are_returned_as_they_are(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(factory(monkeypatch, BATCHES[form]), "test") is BATCHES[form]


def test_examples_that_are_mappings_are_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = ListDataset([{"x": x, "y": int(y)} for x, y in zip(X, Y, strict=True)])
    data = load(factory(monkeypatch, examples), "test")
    assert isinstance(data, dict)
    assert torch.equal(data["x"], X)
    assert torch.equal(data["y"], Y)


def test_examples_of_unlike_lengths_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = ListDataset([{"x": torch.ones(2)}, {"x": torch.ones(3)}])
    with pytest.raises(ValueError, match=r"can't be stacked .*: pad them"):
        load(factory(monkeypatch, examples), "test")


@pytest.mark.parametrize("form", REFUSED)
def test_anything_else_is_refused(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value, message = REFUSED[form]
    with pytest.raises(TypeError, match=message):
        load(factory(monkeypatch, value), "test")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((X, Y[:3]), r"inputs of shape \(6, 2\) and targets of shape \(3,\)"),
        ((X[:0], Y[:0]), "at least one"),
        (Pairs.__new__(type("None_", (Pairs,), {"__len__": lambda self: 0})), "no examples"),
        (
            Pairs.__new__(
                type("Ragged", (Pairs,), {"__getitem__": lambda self, i: (torch.ones(i), 0)})
            ),
            r"differ in shape, \(0,\) and \(1,\)",
        ),
    ],
)
def test_examples_that_make_no_data_set_are_refused(
    value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=message):
        load(factory(monkeypatch, value), "test")


def test_an_image_without_transform_is_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Raw(Pairs):
        def __getitem__(self, i: int) -> Any:
            return object(), 0

    with pytest.raises(TypeError, match=r"x of example 0 .* a object.*ToTensor"):
        load(factory(monkeypatch, Raw()), "test")


@pytest.mark.parametrize("shape", [(5, 4, 4), (5, 4, 4, 3), (5, 3, 4, 4), (5, 4, 4, 1)])
def test_byte_images_get_their_channels_first(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load(factory(monkeypatch, (np.ones(shape, np.uint8), np.arange(5))), "test")
    assert isinstance(data, Dataset)
    assert data.inputs.shape == (5, 3 if 3 in shape else 1, 4, 4)
    assert data.normalized(data.inputs).max() == pytest.approx(1 / 255)


def test_a_factory_is_told_split_and_seed_and_takes_options() -> None:
    spec = f"{__name__}:of_split"
    assert torch.equal(load(spec, "test").targets, Y)  # type: ignore[union-attr]
    data = load(f"{spec},scale=2", "train", seed=5)
    assert torch.equal(data.inputs, 2 * X + 5)  # type: ignore[union-attr]
    assert torch.equal(data.targets, 1 + Y)  # type: ignore[union-attr]


def test_what_a_factory_lacks_is_asked_for() -> None:
    with pytest.raises(ValueError, match="needs the option `root`; write root="):
        load(f"{__name__}:needs_root", "test")
    assert len(load(f"{__name__}:needs_root,root=/x", "test")) == 6  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "no data set `digit`. Did you mean `digits`"),
        ("digits:/data", "`digits` takes no directory"),
        ("cifar10", "write cifar10:PATH"),
        ("cifar10,augment=crop", "write cifar10:PATH"),
        ("npz", "write npz:PATH"),
        ("digits:split=train", "no option `split`. It has seed"),
        ("cifar10:/x,path=/y", "no option `path`. It has seed"),
        ("digits:validation=half", "is a number, not `half`"),
        ("digits:color=1", "no option `color`. It has seed, validation, test"),
        ("no.such.module:thing", "can't be imported"),
    ],
)
def test_a_wrong_spec_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(spec, "test")


def test_what_takes_a_directory_is_what_the_grammar_thinks_does() -> None:
    named = {**DATASETS, **MODELS}
    takes = {name for name, made in named.items() if "path" in inspect.signature(made).parameters}
    assert takes == set(names.TAKE_A_DIRECTORY)


@pytest.mark.parametrize("name", DATASETS)
def test_a_split_that_is_none_is_refused(name: str) -> None:
    place = ":/nowhere" if name in names.TAKE_A_DIRECTORY else ""
    with pytest.raises(ValueError, match="train, val, test, not `valid`"):
        load(name + place, "valid")


def test_naming_the_data_sets_loads_no_heavy_package() -> None:
    code = (
        "import sys, curvature.datasets;"
        "print(*{'sklearn', 'scipy', 'PIL', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
