"""Which examples are chosen, in which batches, and what augmentation does to them."""

import itertools

import pytest
import torch
from torch import Tensor

from curvature.datasets.batches import choose, fixed, shifted, shuffled
from curvature.datasets.dataset import Dataset
from tests.conftest import seeded


def images(count: int = 10, augment: str = "none", size: int = 8) -> Dataset:
    pixels = torch.randint(1, 256, (count, 3, size, size), generator=seeded(7), dtype=torch.uint8)
    targets = torch.arange(count) % 5
    return Dataset("images", pixels, targets, 5, (0.5,) * 3, (0.25,) * 3, augment)


def grouped(per_cell: int = 3) -> Dataset:
    """7 kinds × 3 severities × 5 classes, ordered as CIFAR-10-C: kind, severity, example."""
    cells = list(itertools.product(range(7), range(3), range(per_cell * 5)))
    kind, severity, example = torch.tensor(cells).unbind(1)
    return Dataset(
        "grouped",
        torch.arange(len(cells)),
        example % 5,
        5,
        groups={
            "corruption": (kind, tuple("abcdefg")),
            "severity": (severity, ("1", "2", "3")),
        },
    )


def spread(codes: Tensor, levels: int) -> int:
    counts = codes.bincount(minlength=levels)
    return int(counts.max() - counts.min())


@pytest.mark.parametrize("count", [1, 5, 7, 21, 50, 104, 105, 106, 210, 300, 315])
def test_a_choice_is_balanced_over_classes_kinds_and_severities(count: int) -> None:
    chosen = choose(grouped(), examples=count, generator=seeded(0))
    assert len(chosen.inputs.unique()) == count
    assert spread(chosen.targets, 5) <= 1
    assert spread(chosen.groups["corruption"][0], 7) <= 1
    assert spread(chosen.groups["severity"][0], 3) <= 1


def test_a_choice_keeps_targets_and_groups_beside_their_inputs() -> None:
    data = grouped()
    chosen = choose(data, examples=40, generator=seeded(0))
    assert torch.equal(chosen.targets, data.targets[chosen.inputs])
    for name, (codes, labels) in chosen.groups.items():
        assert torch.equal(codes, data.groups[name][0][chosen.inputs])
        assert labels == data.groups[name][1]


def test_a_smaller_choice_is_the_start_of_a_larger_one() -> None:
    few, many = (choose(grouped(), examples=n, generator=seeded(3)).inputs for n in (60, 200))
    assert torch.equal(few, many[:60])


def test_a_choice_depends_on_the_seed_alone() -> None:
    hashes = [choose(images(50), examples=20, generator=seeded(s)).hash for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_choice_takes_what_rare_classes_have_and_fills_up_with_the_others() -> None:
    targets = torch.tensor([0] * 2 + [1] * 30 + [2] * 30)
    data = Dataset("rare", torch.arange(62), targets, 3)
    chosen = choose(data, examples=32, generator=seeded(0))
    assert chosen.targets.bincount().tolist() == [2, 15, 15]


@pytest.mark.parametrize("targets", [torch.rand(20), torch.rand(20, 3), torch.ones(20, 4).long()])
def test_targets_that_are_no_classes_are_chosen_from_evenly(targets: Tensor) -> None:
    data = Dataset("regression", torch.arange(20), targets)
    assert len(choose(data, examples=7, generator=seeded(0)).inputs.unique()) == 7


def test_the_first_examples_come_in_file_order() -> None:
    assert choose(grouped(), first=4, generator=seeded(0)).inputs.tolist() == [0, 1, 2, 3]


def test_nothing_asked_for_is_everything() -> None:
    data = images()
    assert choose(data, generator=seeded(0)) is data


@pytest.mark.parametrize("count", [0, -1, 11])
@pytest.mark.parametrize("how", ["examples", "first"])
def test_more_examples_than_there_are_is_refused(how: str, count: int) -> None:
    with pytest.raises(ValueError, match=rf"{count} examples .* `images` has 10"):
        choose(images(10), generator=seeded(0), **{how: count})


def test_examples_and_first_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        choose(images(), examples=1, first=1, generator=seeded(0))


def test_fixed_batches_are_normalised_in_order_and_can_be_gone_over_again() -> None:
    data = images(10)
    batches = fixed(data, 4)
    assert [len(y) for _, y in batches] == [4, 4, 2] == [len(y) for _, y in batches]
    assert len(batches) == 3
    x = torch.cat([x for x, _ in batches])
    assert x.dtype == torch.float32
    assert torch.allclose(x, (data.inputs / 255 - 0.5) / 0.25, atol=1e-6)
    assert torch.equal(torch.cat([y for _, y in batches]), data.targets)


def test_batches_are_taken_by_their_number() -> None:
    batches = fixed(images(10), 4)
    assert torch.equal(batches[-1][0], batches[2][0])
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            batches[beyond]


def test_a_batch_of_no_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        fixed(images(), 0)


def test_an_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    data = Dataset("numbers", torch.arange(100.0)[:, None], torch.arange(100))
    generator = seeded(0)
    epochs = [torch.cat([y for _, y in shuffled(data, 32, generator=generator)]) for _ in range(2)]
    assert not torch.equal(*epochs)
    assert all(torch.equal(epoch.sort().values, data.targets) for epoch in epochs)


def test_shuffled_inputs_stay_with_their_targets() -> None:
    data = Dataset("numbers", torch.arange(100.0)[:, None], torch.arange(100))
    for x, y in shuffled(data, 32, generator=seeded(0)):
        assert torch.equal(x[:, 0], y.float())


def test_the_generator_advances_alike_however_many_batches_are_taken() -> None:
    states = []
    for taken in (0, 1, 3):
        generator = seeded(0)
        batches = shuffled(images(10, "crop-flip"), 4, generator=generator)
        for i in range(taken):
            batches[i]
        states.append(generator.get_state())
    assert all(torch.equal(state, states[0]) for state in states)


def test_a_crop_moves_the_image_and_black_moves_in() -> None:
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    down, right = shifted(image, torch.tensor([[1, 0]])), shifted(image, torch.tensor([[0, 2]]))
    assert down[0, 0].tolist() == [[0, 0, 0, 0], *image[0, 0, :3].tolist()]
    assert right[0, 0, 0].tolist() == [0, 0, 1, 2]
    up = shifted(image, torch.tensor([[-4, 0]]))
    assert not up.any()


def test_every_image_of_a_batch_is_moved_and_mirrored_by_its_own_draw() -> None:
    pixels = images(200).inputs
    shifts = torch.randint(-4, 5, (200, 2), generator=seeded(1))
    flips = torch.randint(2, (200,), generator=seeded(2)).bool()
    moved = shifted(pixels, shifts, flips)
    for image, (down, right), flip, result in zip(pixels, shifts, flips, moved, strict=True):
        expected = torch.nn.functional.pad(image, (4, 4, 4, 4))
        expected = expected[:, 4 - down : 12 - down, 4 - right : 12 - right]
        assert torch.equal(result, expected.flip(-1) if flip else expected)


@pytest.mark.parametrize(("augment", "kinds"), [("none", 1), ("crop", 81), ("crop-flip", 162)])
def test_training_sees_every_shift_and_flip(augment: str, kinds: int) -> None:
    data = images(1, augment).select(torch.zeros(4000, dtype=torch.int64))
    seen = torch.cat([x for x, _ in shuffled(data, 500, generator=seeded(0))])
    assert len(seen.flatten(1).unique(dim=0)) == kinds


def test_augmentation_can_be_left_out() -> None:
    data = images(20, "crop-flip")
    x = torch.cat([x for x, _ in shuffled(data, 6, augment=False, generator=seeded(0))])
    rows = data.normalized(data.inputs).flatten(1).unique(dim=0)
    assert torch.equal(x.flatten(1).unique(dim=0), rows)


def test_only_images_are_cropped() -> None:
    data = Dataset("table", torch.rand(4, 3), torch.arange(4), augment="crop")
    with pytest.raises(ValueError, match=r"augment=none"):
        shuffled(data, 2, generator=seeded(0))


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="not `mirror`"):
        shuffled(images(4, "mirror"), 2, generator=seeded(0))
