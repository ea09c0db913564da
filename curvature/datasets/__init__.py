"""The data sets that can be named, and how one is loaded."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from curvature import names
from curvature.datasets.adapt import adapt
from curvature.datasets.cifar10 import cifar10
from curvature.datasets.cifar10c import cifar10c
from curvature.datasets.dataset import Dataset
from curvature.datasets.digits import digits
from curvature.datasets.files import images, npz

DATASETS: dict[str, Callable[..., Any]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10c": cifar10c,
    "npz": npz,
    "images": images,
}


def load(
    spec: str, split: str, *, seed: int = 0, report: Callable[[str], None] | None = None
) -> Dataset | Iterable[Any]:
    """The ``split`` (train, val or test) of NAME[:DIR][,key=value…], or of a module:factory.

    ``seed`` draws the parts of a data set that comes as one heap: the same seed for training and
    for measuring, or the test part holds what was trained on. Only a factory of one's own may
    give batches, for curvature alone; it is told split and seed where it has parameters for them.
    """
    parsed = names.parse(spec, DATASETS)
    function = names.resolve(parsed.name, DATASETS, "data set")
    kind = f"data set `{parsed.name}`"
    given: dict[str, Any] = {"split": split, "seed": seed, "report": report}
    if parsed.name in DATASETS:
        _check_options(function, parsed, kind)
    if parsed.directory is not None:
        given["path"] = parsed.directory
    return adapt(names.call(function, parsed.options, kind, **given), parsed.name)


def _check_options(function: Callable[..., Any], spec: names.Spec, kind: str) -> None:
    """Before anything is read: a place where one is needed, and only options that there are."""
    parameters = inspect.signature(function).parameters
    if "path" in parameters and spec.directory is None:
        raise ValueError(f"The {kind} needs its place on disk: write {spec.name}:PATH.")
    if "path" not in parameters and spec.directory is not None:
        raise ValueError(
            f"The {kind} takes no directory, got `{spec.directory}`; options are key=value."
        )
    known = [name for name in parameters if name not in ("path", "split", "report")]
    for name in spec.options:
        if name not in known:
            raise ValueError(f"The {kind} has no option `{name}`. It has {', '.join(known)}.")
