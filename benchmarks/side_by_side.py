"""This package beside PyHessian, curvlinops and hessian-eigenthings: the same networks and images.

    make peers                                       # installs them into .venv-peers
    .venv-peers/bin/python benchmarks/side_by_side.py --cifar DIR \
        --checkpoint resnet20=FILE --out results
    .venv-peers/bin/python benchmarks/side_by_side.py --quick

PyHessian's ResNet-20 is the file of its repository; the other two lie in `benchmarks/networks`,
without their optimizers' states, as they came out of minutes of training:

    curv train --model vgg19:width=0.125 --data cifar10:DIR --optimizer msgd --lr 0.05 \
        --weight-decay 5e-4 --batch-size 128 --epochs 4 --schedule cosine --out vgg
    curv train --model vit_study:width=64,depth=4,mlp=128 --data cifar10:DIR --optimizer adam \
        --lr 1e-3 --batch-size 128 --epochs 6 --schedule cosine --out vit

What was measured stays in ``--out`` as JSON: the same command goes on where it stopped, and
``--again 'trace/*/ours/*'`` measures parts anew. The report and the picture are drawn from there.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import peers
import report
import subjects
from results import Results
from tables import eigmax, growth, hvp, memory, right, steps, trace
from unit import machine

NETWORKS = Path(__file__).parent / "networks"
TABLES = ("trace", "eigmax", "hvp", "memory", "growth", "steps", "right")


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tools = peers.installed()
    results = Results(Path(args.out or tempfile.mkdtemp()), tuple(args.again))
    results.part(
        "machine", lambda: {**machine(), "packages": peers.versions(), "remark": args.remark}
    )
    chosen = [subjects.tiny()] if args.quick else _subjects(args)
    for subject in chosen:
        results.part(
            f"subject/{subject.name}",
            lambda s=subject: {
                "title": s.title,
                "parameters": s.parameters,
                "images": s.images,
                "smooth": s.smooth,
            },
        )
        if "hvp" in args.only:
            hvp.measure(subject, tools, results, rounds=1 if args.quick else 2)
        for name, table in (("trace", trace), ("eigmax", eigmax)):
            if name in args.only and args.who in ("all", "peers"):
                table.measure_peers(subject, tools, results, quick=args.quick)
            if name in args.only and args.who in ("all", "ours"):
                table.measure_ours(subject, results, quick=args.quick, seconds=args.seconds)
    if "memory" in args.only:
        memory.measure(tools, results, quick=args.quick)
    if "growth" in args.only:
        growth.measure(results, quick=args.quick)
    if "steps" in args.only:
        steps.measure(results, quick=args.quick)
    if "right" in args.only:
        right.measure(tools, results, quick=args.quick)
    text = report.write(results, Path(args.report) if args.report else None)
    if args.quick:
        print(text)
    if args.picture:
        import picture

        picture.draw(results, Path(args.picture))


def _subjects(args: argparse.Namespace) -> list[subjects.Subject]:
    checkpoints = {path.stem: path for path in NETWORKS.glob("*.pt")} | {
        name: Path(path) for name, _, path in (c.partition("=") for c in args.checkpoint)
    }
    unknown = set(checkpoints) - set(subjects.CHECKPOINTS)
    if unknown:
        known = ", ".join(subjects.CHECKPOINTS)
        raise SystemExit(f"No network `{', '.join(unknown)}`; there are {known}.")
    names = args.subjects or [subjects.DIGITS, *subjects.CHECKPOINTS]
    found = [
        subjects.load(name, cifar=args.cifar, checkpoints=checkpoints, images=args.images)
        for name in names
    ]
    for name, subject in zip(names, found, strict=True):
        if subject is None:
            print(f"{name} is left out: give --cifar DIR and --checkpoint {name}=FILE.")
    return [subject for subject in found if subject is not None]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar", type=Path, help="folder of CIFAR-10's binary files")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--subjects", type=lambda text: text.split(","), help="of these alone")
    parser.add_argument("--images", type=int, help="of each network, instead of its own number")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(TABLES))
    parser.add_argument("--who", choices=("all", "peers", "ours"), default="all")
    parser.add_argument("--again", action="append", default=[], metavar="PATTERN")
    parser.add_argument("--out", help="folder of what was measured; by default a temporary one")
    parser.add_argument("--report", help="write the tables to this file (Markdown)")
    parser.add_argument("--remark", default="", help="what else to know, for the report's head")
    parser.add_argument("--picture", help="draw error against time into this file")
    parser.add_argument(
        "--seconds", type=float, default=300, help="of our seeds in a row, the processor's (300)"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="seconds: one tiny network")
    args = parser.parse_args()
    wrong = set(args.only) - set(TABLES)
    if wrong:
        parser.error(f"no table {', '.join(sorted(wrong))}; there are {', '.join(TABLES)}")
    return args


if __name__ == "__main__":
    main()
