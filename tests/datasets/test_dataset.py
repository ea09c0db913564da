"""What a data set promises: its hash, its selection, its normalisation."""

from dataclasses import replace

import pytest
import torch

from curvature.datasets.dataset import Dataset

DATA = Dataset(
    "small",
    torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2),
    torch.tensor([1, 0]),
    2,
    (0.5, 0.25, 0.125),
    (0.25, 0.5, 1.0),
    groups={"kind": (torch.tensor([0, 1]), ("a", "b"))},
)


def test_the_hash_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert DATA.hash == "899b84d4c075"


@pytest.mark.parametrize(
    "changed",
    [
        {"inputs": DATA.inputs + 1},
        {"inputs": DATA.inputs.view(2, 3, 4)},
        {"inputs": DATA.inputs.char()},
        {"targets": DATA.targets.flip(0)},
        {"mean": (0.5, 0.25, 0.126)},
        {"mean": None, "std": None},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_the_hash_tells_what_changes_a_number(changed: dict[str, object]) -> None:
    assert replace(DATA, **changed).hash != DATA.hash


def test_the_hash_ignores_name_and_memory_layout() -> None:
    strided = DATA.inputs.movedim(1, 3).contiguous().movedim(3, 1)
    assert replace(DATA, name="other", inputs=strided).hash == DATA.hash


def test_images_are_scaled_and_normalised_by_channel() -> None:
    x = DATA.normalized(DATA.inputs)
    assert x.dtype == torch.float32
    assert x[1, 2, 1, 1].item() == pytest.approx(23 / 255 - 0.125, abs=1e-6)
    assert x[0, 0, 0, 1].item() == pytest.approx((1 / 255 - 0.5) / 0.25, abs=1e-6)


def test_floats_keep_their_type_and_token_numbers_are_left_alone() -> None:
    table = Dataset("table", torch.rand(4, 3, dtype=torch.float64), torch.zeros(4))
    assert table.normalized(table.inputs) is table.inputs
    tokens = Dataset("tokens", torch.ones(4, 3).long(), torch.zeros(4))
    assert tokens.normalized(tokens.inputs).dtype == torch.int64


def test_a_selection_is_in_the_order_asked_for() -> None:
    picked = DATA.select(torch.tensor([1, 0, 1]))
    assert picked.targets.tolist() == [0, 1, 0]
    assert picked.groups["kind"][0].tolist() == [1, 0, 1]
    assert DATA.select(slice(1, None)).inputs.flatten()[0] == 12
    assert picked.input_shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"std": None}, "go together"),
        ({"mean": None}, "go together"),
        ({"std": (0.5, 0.0, 0.5)}, "`std` is positive"),
        ({"mean": (0.5, 0.5)}, r"`mean` has 2 numbers, but .* shape \(3, 2, 2\)"),
        ({"inputs": DATA.inputs[:, :1]}, r"`mean` has 3 numbers, but .* shape \(1, 2, 2\)"),
    ],
)
def test_constants_that_fit_no_channels_are_refused(
    changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(DATA, **changed)


def test_one_constant_serves_all_channels() -> None:
    x = replace(DATA, mean=(0.5,), std=(0.5,)).normalized(DATA.inputs)
    assert torch.allclose(x, DATA.inputs / 255 * 2 - 1)


def test_inputs_without_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="`bad` has 3 inputs but 2 targets"):
        Dataset("bad", torch.zeros(3), torch.zeros(2))
