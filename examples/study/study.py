"""The study's grid: six optimizers over learning rate × weight decay, on VGG-19 and ViT-Small.

    python examples/study/study.py CIFAR10_DIR CIFAR10C_DIR --scale gpu --out study

CIFAR10C_DIR has CIFAR-10-C as published; where it is CIFAR10_DIR again, images in its style are
made. What stands after these options goes to `curv sweep`: --jobs 2, --dry-run, and so on. The
same command again goes on where it was stopped. Scales: `gpu` is the study's own (216 runs of 200
epochs for each network), `cpu` the same grid with small networks and few images, `tiny` a trial.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SIX = "sgd,msgd,adam,sam,sa-sgd,sa-sam"


@dataclass(frozen=True)
class Scale:
    """What a machine can afford; ``images`` of CIFAR-10-C for each kind and severity."""

    models: dict[str, str]
    grid: tuple[str, ...]
    training: tuple[str, ...]
    images: int
    measuring: tuple[str, ...]
    optimizers: str = SIX


SCALES = {
    "gpu": Scale(
        {"vgg19": "vgg19", "vit": "vit_study"},
        ("--lr", "1e-3,1e-2,1e-1,1", "--weight-decay", "0,1e-4,1e-3", "--seeds", "3"),
        ("--epochs", "200", "--batch-size", "256"),
        images=500,
        measuring=("--examples", "2048"),
    ),
    "cpu": Scale(
        {"vgg19": "vgg19:width=0.125", "vit": "vit_study:width=64,depth=2,heads=4,mlp=64"},
        ("--lr", "1e-3,1e-2,1e-1,1", "--weight-decay", "0,1e-4,1e-3", "--seeds", "2"),
        ("--epochs", "3", "--batch-size", "256"),
        images=10,
        measuring=("--examples", "512", "--trace-rtol", "0.05"),
    ),
    "tiny": Scale(
        {"vgg19": "vgg19:width=0.05", "vit": "vit_study:width=16,depth=1,heads=2,mlp=16"},
        ("--lr", "1e-2", "--weight-decay", "1e-3"),
        ("--steps", "2", "--batch-size", "20"),
        images=1,
        measuring=("--examples", "20", "--max-passes", "8", "--max-products", "8"),
        optimizers="msgd,sa-sam",
    ),
}


def sweeps(scale: Scale, clean: str, corrupted: str, out: Path) -> dict[Path, list[str]]:
    """The arguments of `curv` for each network, by the folder of its runs."""
    cifar10c = f"cifar10c:{corrupted},images={scale.images}"
    return {
        out / name: [
            *("sweep", "--model", model, "--data", f"cifar10:{clean},augment=crop"),
            *("--optimizers", scale.optimizers, *scale.grid, *scale.training),
            *("--analyze-on", cifar10c, "--analyze-on", "train", "--analyze-on", "val"),
            *scale.measuring,
            *("--out", str(out / name)),
        ]
        for name, model in scale.models.items()
    }


def figures(runs: Path) -> list[list[str]]:
    """What is drawn of one network's runs: the corrupted images' accuracy and curvature."""
    on = ("--on", "cifar10c")
    maps = [
        ["heatmap", str(runs), "--metric", metric, *on, "--out", str(runs / f"{metric}.png")]
        for metric in ("accuracy", "trace", "eigmax")
    ]
    return [*maps, ["report", str(runs), *on, "--out", str(runs / "report.html")]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clean", metavar="CIFAR10_DIR")
    parser.add_argument("corrupted", metavar="CIFAR10C_DIR")
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--out", type=Path, default=Path("study"))
    asked, rest = parser.parse_known_args()
    for runs, sweep in sweeps(SCALES[asked.scale], asked.clean, asked.corrupted, asked.out).items():
        for command in [[*sweep, *rest], *(figures(runs) if "--dry-run" not in rest else [])]:
            print("curv", *command, flush=True)
            done = subprocess.run([sys.executable, "-m", "curvature_cli.main", *command])
            if done.returncode > 1:  # 1: some runs failed, which the figures show
                sys.exit(done.returncode)


if __name__ == "__main__":
    main()
