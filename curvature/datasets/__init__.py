"""The data sets that can be named, and how one is loaded."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from curvature import names
from curvature.datasets.adapt import adapt
from curvature.datasets.cifar10 import cifar10
from curvature.datasets.dataset import Dataset
from curvature.datasets.digits import digits
from curvature.datasets.files import images, npz

DATASETS: dict[str, Callable[..., Any]] = {
    "digits": digits,
    "cifar10": cifar10,
    "npz": npz,
    "images": images,
}


def load(spec: str, split: str, *, seed: int = 0) -> Dataset | Iterable[Any]:
    """The ``split`` (train, val or test) of NAME[:DIR][,key=value…], or of a module:factory.

    ``seed`` draws the parts of a data set that comes as one heap: the same seed for training and
    for measuring, or the test part holds what was trained on. Only a factory of one's own may
    give batches, for curvature alone; it is told split and seed where it has parameters for them.
    """
    parsed = names.parse(spec, DATASETS)
    function = names.resolve(parsed.name, DATASETS, "data set")
    kind = f"data set `{parsed.name}`"
    for reserved in ("split", "directory", "file"):
        if reserved in parsed.options and parsed.name in DATASETS:
            raise ValueError(
                f"`{reserved}` is no option of a {kind}: the split is asked for apart, and a "
                f"directory is written {parsed.name}:DIR."
            )
    given = {"split": split, "seed": seed}
    if parsed.name in names.TAKE_A_DIRECTORY:
        if parsed.directory is None:
            raise ValueError(f"The {kind} needs its place: write {parsed.name}:DIR.")
        given["file" if parsed.name == "npz" else "directory"] = parsed.directory
    elif parsed.directory is not None:
        raise ValueError(
            f"The {kind} takes no directory, got `{parsed.directory}`; options are key=value."
        )
    keywords = names.arguments(function, parsed.options, kind, **given)
    _check_complete(function, keywords, kind)
    return adapt(function(**keywords), parsed.name)


def _check_complete(function: Callable[..., Any], keywords: dict[str, Any], kind: str) -> None:
    try:
        inspect.signature(function).bind(**keywords)
    except TypeError as error:
        raise ValueError(f"The {kind} can't be called: {error}. Add it as key=value.") from None
