"""Anyone's batches, taken as they are, twice the same or refused."""

from __future__ import annotations

import random
import time
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from curvature.empirical_risk.batches import Batches, as_batches
from curvature.empirical_risk.evaluation import random_state
from curvature.empirical_risk.nested import as_tensors, digest, leading_dimensions, moved, part_of
from tests.corpus.case import VECTORS, Y, uneven

Point = namedtuple("Point", "a b")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Record:
    x: Tensor
    name: str


class Changing:
    """The same batches until told otherwise."""

    def __init__(self) -> None:
        self.batches: list[Any] = uneven(VECTORS, Y)

    def __iter__(self) -> Any:
        return iter(self.batches)


def batches_of(data: Any) -> Batches:
    return as_batches(data, 3, whole=False)


@pytest.mark.parametrize(
    "data",
    [
        uneven(VECTORS, Y),
        tuple(uneven(VECTORS, Y)),
        (VECTORS, Y),
        (VECTORS.numpy(), Y.numpy()),
        DataLoader(TensorDataset(VECTORS, Y), 3),
        Changing(),
        [[x, y] for x, y in uneven(VECTORS, Y)],
        [{"x": x, "y": y} for x, y in uneven(VECTORS, Y)],
    ],
    ids=lambda data: type(data).__name__,
)
def test_every_pass_gives_the_same_pairs_and_draws_nothing(data: Any) -> None:
    state = random_state()
    batches = batches_of(data)
    for _ in range(2):
        seen = list(batches)
        assert len(seen) == len(batches) == 3
        inputs = [x["x"] if isinstance(x, dict) else x for x, _ in seen]
        assert torch.equal(torch.cat(inputs), VECTORS)
        assert torch.equal(torch.cat([y for _, y in seen]), Y)
    assert random_state() == state


def test_a_pass_that_differs_later_is_refused() -> None:
    data = Changing()
    batches = batches_of(data)
    list(batches)
    data.batches = uneven(VECTORS.flip(0), Y.flip(0))
    with pytest.raises(ValueError, match="changed in between"):
        list(batches)
    data.batches = [*uneven(VECTORS, Y)[:2]]
    with pytest.raises(ValueError, match="gave 2 batches instead of 3"):
        list(batches)


def test_a_changed_last_batch_is_refused() -> None:
    data = Changing()
    batches = batches_of(data)
    list(batches)
    data.batches = [*data.batches[:2], (VECTORS[6:] + 1, Y[6:])]
    with pytest.raises(ValueError, match="changed in between"):
        list(batches)


def test_fifty_thousand_images_are_hashed_in_a_moment() -> None:
    images = torch.zeros(50_000, 3, 32, 32, dtype=torch.uint8)
    start = time.process_time()
    digest((images, torch.zeros(50_000, dtype=torch.long)))
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize(
    "changed",
    [
        {"x": VECTORS + 1e-9, "n": 3, "s": "a"},
        {"x": VECTORS, "n": 4, "s": "a"},
        {"x": VECTORS, "n": 3, "s": "b"},
        {"x": VECTORS.float(), "n": 3, "s": "a"},
        {"x": VECTORS.view(4, 7), "n": 3, "s": "a"},
    ],
    ids=["value", "number", "string", "dtype", "shape"],
)
def test_a_digest_sees_every_change(changed: Any) -> None:
    batch = {"x": VECTORS, "n": 3, "s": "a"}
    assert digest(batch) == digest({"x": VECTORS.numpy(), "n": 3, "s": "a"})
    assert digest(batch) != digest(changed)


def test_parts_are_cut_in_every_nested_layout() -> None:
    batch = {"a": VECTORS, "p": Point(VECTORS, [Y, 3]), "r": Record(VECTORS, "r"), "c": VECTORS.T}
    part = part_of(batch, 2, 4, 7)
    assert part["a"].shape == part["p"].a.shape == part["r"].x.shape == (2, 4)
    assert torch.equal(part["p"].b[0], Y[2:4])
    assert part["p"].b[1] == 3
    assert part["r"].name == "r"
    assert part["c"].shape == (4, 7)


def test_moving_casts_floats_alone() -> None:
    packed = pack_sequence([VECTORS[:3], VECTORS[:1]])
    x, y, p = moved((VECTORS, Y, packed), CPU, torch.float32)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert isinstance(p, PackedSequence)


def test_arrays_that_torch_dislikes_are_taken() -> None:
    array = np.arange(6.0).reshape(2, 3)[:, ::-1]
    array.flags.writeable = False
    assert torch.equal(as_tensors(array), torch.tensor([[2.0, 1.0, 0.0], [5.0, 4.0, 3.0]]))
    assert leading_dimensions({"a": array, "b": 3, "c": torch.tensor(1)}) == {2}


def test_random_states_of_python_and_numpy_count() -> None:
    state = random_state()
    random.random()
    assert random_state() != state
    state = random_state()
    np.random.rand()
    assert random_state() != state
