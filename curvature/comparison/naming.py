"""What networks are called: by the shortest ends of their paths that tell them apart."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath


def distinguishing(paths: Sequence[str]) -> list[str]:
    """Names for files: what ends all paths alike is left out, then what isn't needed in front.

    >>> distinguishing(["runs/sgd/7/last.pt", "runs/sam/7/last.pt"])
    ['sgd', 'sam']
    >>> distinguishing(["a/one.pt", "b/one.pt", "b/two.pt"])
    ['a/one.pt', 'b/one.pt', 'two.pt']
    """
    parts = [PurePath(path).parts or ("",) for path in paths]
    while len(parts) > 1 and len({p[-1] for p in parts}) == 1 and all(len(p) > 1 for p in parts):
        parts = [p[:-1] for p in parts]
    names = []
    for own in parts:
        for length in range(1, len(own) + 1):
            ends = Counter(other[-length:] for other in parts)
            if ends[own[-length:]] == 1:
                break
        names.append(str(PurePath(*own[-length:])))
    return names


def named(paths: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Path → label, from labels written NAME=PATH, or one for each path in their order.

    Raises:
        ValueError: if a label names no path, or two are alike.
    """
    pairs = [_split(label, paths) for label in labels]
    by_path = [pair for pair in pairs if pair]
    if by_path and len(by_path) < len(pairs):
        lost = labels[pairs.index(None)]
        raise ValueError(f"`{lost}` labels no path that was given: write NAME=PATH, PATH as given.")
    if not by_path and labels and len(labels) != len(paths):
        raise ValueError(
            f"There are {len(paths)} networks and {len(labels)} of `--label`: give one for each, "
            "or NAME=PATH."
        )
    found = {path: name for name, path in by_path} or dict(zip(paths, labels, strict=False))
    twice = [name for name, count in Counter(found.values()).items() if count > 1]
    if twice or "" in found.values():
        what = f"`{twice[0]}` labels two paths" if twice else "A label is empty"
        raise ValueError(f"{what}: give each a name of its own.")
    return found


def _split(label: str, paths: Sequence[str]) -> tuple[str, str] | None:
    """NAME=PATH at the equals sign behind which a given path stands."""
    for i, character in enumerate(label):
        if character == "=" and label[i + 1 :] in paths:
            return label[:i], label[i + 1 :]
    return None
