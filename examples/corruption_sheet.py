"""A contact sheet of the generated corruptions: one row for each kind, one column a severity.

    python examples/corruption_sheet.py CIFAR10_DIR corruptions.png [IMAGE]

Left of each row is the clean image (number IMAGE of the test images; 0 where none is given).
"""

import argparse

import matplotlib
import numpy as np

from curvature.datasets import load
from curvature.datasets.corruptions import KINDS, SEVERITIES, corrupt


def sheet(image: np.ndarray, index: int) -> np.ndarray:
    """All corruptions of one (32, 32, 3) image, as a picture of 19 rows and 6 columns."""
    rows = []
    for kind in KINDS:
        corrupted = [corrupt(image[None], kind, s, seed=0, indices=[index])[0] for s in SEVERITIES]
        rows.append(np.concatenate([image, *corrupted], axis=1))
    return np.concatenate(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="where CIFAR-10 lies")
    parser.add_argument("path", help="the picture to write")
    parser.add_argument("index", nargs="?", type=int, default=0, help="which test image")
    args = parser.parse_args()
    directory, path, index = args.directory, args.path, args.index
    data = load(f"cifar10:{directory}", "test")
    picture = sheet(data.inputs[index].permute(1, 2, 0).numpy(), index)

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 15), dpi=120)
    axes.imshow(picture)
    axes.set_yticks(16 + 32 * np.arange(len(KINDS)), list(KINDS))
    axes.set_xticks(16 + 32 * np.arange(6), ["clean", *map(str, SEVERITIES)])
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    figure.savefig(path, bbox_inches="tight")


if __name__ == "__main__":
    main()
