"""One product with the Hessian of a network at full width, and the memory that it takes.

    python benchmarks/full_width.py --model vgg19 --data cifar10:DIR --examples 10000
    python benchmarks/full_width.py --model vit_study --data cifar10:DIR --examples 10000

The weights are drawn at random: time and memory don't depend on them. The gradient is measured on
some of the images, before and after the product. Measured on one thread of an AMD EPYC:

    vgg19      20,040,522 parameters    448 s of the processor, 3.7 gradients    2.28 GB at most
    vit_study   9,523,722 parameters  1,289 s, with --memory 3e9, 3.1 gradients  2.50 GB at most
"""

import argparse
import json
import statistics

import torch

import curvature
from curvature import datasets, models
from curvature.datasets.batches import choose, fixed
from curvature.measures.plan import plan
from unit import BATCH, gradient, machine, peak_bytes, timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--data", required=True, help="cifar10:DIR, or digits")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--memory", default=4e9, type=float, help="bytes that a product may take")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = choose(
        datasets.load(args.data, "test"),
        examples=args.examples,
        generator=torch.Generator().manual_seed(0),
    )
    classes = int(data.targets.max()) + 1
    model = models.build(
        args.model,
        input_shape=data.input_shape,
        classes=classes,
        generator=torch.Generator().manual_seed(0),
    ).eval()
    some = list(fixed(data.select(slice(0, 4 * BATCH)), BATCH))
    found = {**machine(), "model": args.model, "examples": len(data)}
    found["parameters"] = sum(p.numel() for p in model.parameters())

    def per_image() -> float:
        return timed(lambda: gradient(model, some))[1].cpu / sum(len(y) for _, y in some)

    per_image()  # the first warms up
    gradients = [per_image() for _ in range(2)]
    model.zero_grad(set_to_none=True)
    found["peak_bytes_before"] = peak_bytes()
    H, setup = timed(
        lambda: curvature.hessian(
            model, "cross_entropy", fixed(data, BATCH), memory=int(args.memory)
        )
    )
    found["plan"] = str(plan(H, trace=False, eigenvalues=1))
    v = torch.randn(H.size, generator=torch.Generator().manual_seed(1))
    print(json.dumps(found), flush=True)
    _, seconds = timed(lambda: H @ v)
    found["peak_bytes"] = peak_bytes()
    gradients += [per_image() for _ in range(2)]
    unit = statistics.median(gradients) * len(data)
    found |= {
        "method": H.method,
        "setup_seconds": setup.cpu,
        "product_seconds": seconds.cpu,
        "product_wall_seconds": seconds.wall,
        "gradient_seconds": unit,
        "product_in_gradients": seconds.cpu / unit,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
