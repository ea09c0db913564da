"""Networks' names: short, and each its own."""

import pytest

from curvature.comparison.naming import distinguishing, named


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.pt"], ["a.pt"]),
        (["a.pt", "b.pt"], ["a.pt", "b.pt"]),
        (["runs/x/checkpoint.pt", "runs/y/checkpoint.pt"], ["x", "y"]),
        (["/data/sgd/0/last.pt", "/data/sam/0/last.pt"], ["sgd", "sam"]),
        (["a/net.pt", "b/net.pt", "c.pt"], ["a/net.pt", "b/net.pt", "c.pt"]),
        (["net.pt", "a/net.pt"], ["net.pt", "a/net.pt"]),
        (["x/a/net.pt", "y/a/net.pt", "y/b/net.pt"], ["x/a", "y/a", "b"]),
    ],
)
def test_the_shortest_path_that_tells_apart(paths: list[str], names: list[str]) -> None:
    assert distinguishing(paths) == names


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["SGD", "SAM"], {"a.pt": "SGD", "b=1.pt": "SAM"}),
        (["SAM=b=1.pt"], {"b=1.pt": "SAM"}),
        (["ρ=0.05=b=1.pt", "x=a.pt"], {"b=1.pt": "ρ=0.05", "a.pt": "x"}),
        (["lr=1", "lr=2"], {"a.pt": "lr=1", "b=1.pt": "lr=2"}),
        ([], {}),
    ],
)
def test_labels_name_paths_or_stand_in_their_order(
    labels: list[str], names: dict[str, str]
) -> None:
    assert named(["a.pt", "b=1.pt"], labels) == names


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["one"], "2 networks and 1 of `--label`"),
        (["x=a.pt", "y=c.pt"], "`y=c.pt` labels no path"),
        (["same", "same"], "`same` labels two paths"),
        (["", "b"], "A label is empty"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(["a.pt", "b.pt"], labels)
