"""Two processes that train as one: gradients, step sizes, perturbations (gloo, CPU)."""

import contextlib
import datetime
import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parallel import DistributedDataParallel

from curvature.optimizers import SAM, SASAM, SASGD, build, closure

pytestmark = pytest.mark.distributed
RANKS = 2
UNEVEN = (slice(0, 10), slice(10, 24))  # each rank's examples


def in_two_processes() -> dict[str, list[Any]]:
    """What each function of WORK returns on each rank, or the exception it raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [
        context.Process(target=_work_through, args=(rank, port, queue)) for rank in range(RANKS)
    ]
    for process in processes:
        process.start()
    by_rank = dict(queue.get(timeout=240) for _ in processes)
    for process in processes:
        process.join(30)
    return {work.__name__: [by_rank[rank][work.__name__] for rank in range(RANKS)] for work in WORK}


def _work_through(rank: int, port: int, queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=100),
    )
    results: dict[str, Any] = {}
    for work in WORK:
        try:
            results[work.__name__] = work(rank)
        except Exception as error:
            results[work.__name__] = f"{type(error).__name__}: {error}"
    queue.put((rank, results))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results() -> dict[str, list[Any]]:
    return in_two_processes()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double()


def examples(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(24, 6, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :3].argmax(1)


def flat(model: nn.Module) -> list[float]:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()]).tolist()


def micro_batches(step: int, rank: int | None) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = examples(step)
    part = slice(None) if rank is None else UNEVEN[rank]
    inputs, targets = inputs[part], targets[part]
    return [(inputs[:6], targets[:6]), (inputs[6:], targets[6:])]


def train(name: str, variant: str, rank: int | None, *, ddp: bool) -> tuple[list[float], Any]:
    """Five steps on all examples, of which each rank holds its own, unequal part."""
    model: nn.Module = network()
    if ddp:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = build(name, model.parameters(), lr=0.1, sa_variant=variant, clip_norm=0.6)
    for step in range(5):
        loss = optimizer.step(
            closure(model, nn.functional.cross_entropy, micro_batches(step, rank))
        )
    return flat(model), (float(loss), optimizer.last_step.eta)


RUNS = [
    ("msgd", "poster"),
    ("adam", "poster"),
    ("sam", "poster"),
    ("sa-sgd", "poster"),
    ("sa-sam", "poster"),
    ("sa-sgd", "released"),
    ("sa-sam", "released"),
]


def every_run(rank: int) -> list[Any]:
    return [train(*run, rank, ddp=ddp) for run in RUNS for ddp in (True, False)]


def test_two_ranks_train_as_one_process_with_all_examples(results: dict[str, list[Any]]) -> None:
    """With DistributedDataParallel, whose buckets each pass overwrites, and without it."""

    first, second = results["every_run"]
    alone = [train(*run, None, ddp=False) for run in RUNS for _ in (True, False)]
    assert first == second  # bitwise: all ranks take the same η
    for (weights, numbers), (expected, expected_numbers) in zip(first, alone, strict=True):
        assert weights == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert numbers == pytest.approx(expected_numbers, rel=1e-9)


def unaveraged(rank: int) -> str:
    model = network()
    optimizer = SASGD(model.parameters(), lr=0.1)

    def unaware() -> Tensor:
        inputs, targets = micro_batches(0, rank)[1]
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    optimizer.step(unaware)
    with pytest.raises(RuntimeError, match="Wrap the model in DistributedDataParallel"):
        optimizer.step(unaware)
    return "refused"


def test_gradients_that_nobody_averaged_are_refused_on_all_ranks(
    results: dict[str, list[Any]],
) -> None:
    assert results["unaveraged"] == ["refused"] * 2


def independent_runs(rank: int) -> list[float]:
    groups = [dist.new_group([0]), dist.new_group([1])]
    model = network()
    optimizer = SASGD(model.parameters(), lr=0.1, process_group=groups[rank])
    for step in range(3 + rank):
        batches = micro_batches(step, rank)
        optimizer.step(
            closure(model, nn.functional.cross_entropy, batches, process_group=groups[rank])
        )
    return flat(model)


def test_independent_runs_beside_each_other_have_a_group_of_one_rank_each(
    results: dict[str, list[Any]],
) -> None:
    first, second = results["independent_runs"]
    assert first != second


def manual_local_sam(momentum: float) -> list[float]:
    """m-sharpness in one process: each part climbs its own gradient, their mean descends."""
    model = network()
    weights = list(model.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=momentum)
    for step in range(4):
        inputs, targets = examples(step)
        total = [torch.zeros_like(p) for p in weights]
        for part in UNEVEN:
            start = [p.detach().clone() for p in weights]
            g = part_gradient(model, inputs[part], targets[part])
            length = torch.cat([x.reshape(-1) for x in g]).norm()
            with torch.no_grad():
                for p, x in zip(weights, g, strict=True):
                    p += 0.2 * x / length
            climbed = part_gradient(model, inputs[part], targets[part])
            with torch.no_grad():
                for p, w, t, x in zip(weights, start, total, climbed, strict=True):
                    p.copy_(w)
                    t += x * len(targets[part]) / len(targets)
        for p, t in zip(weights, total, strict=True):
            p.grad = t
        optimizer.step()
    return flat(model)


def part_gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(model(inputs), targets)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def local_sam(rank: int) -> list[list[float]]:
    ends = []
    for ddp in (True, False):
        model: nn.Module = network()
        if ddp:
            model = DistributedDataParallel(model)
        base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = SAM(base, rho=0.2, perturbation="local")
        for step in range(4):
            batches = micro_batches(step, rank)
            optimizer.step(closure(model, nn.functional.cross_entropy, batches, average=False))
        ends.append(flat(model))
    return ends


def test_with_local_perturbations_each_rank_climbs_its_own_gradient(
    results: dict[str, list[Any]],
) -> None:
    first, second = results["local_sam"]
    assert first == second
    expected = manual_local_sam(0.9)
    for weights in first:
        assert weights == pytest.approx(expected, rel=1e-9, abs=1e-9)


def local_sa_sam(rank: int) -> tuple[list[float], list[float]]:
    model = network()
    optimizer = SASAM(model.parameters(), lr=0.1, perturbation="local")
    etas = []
    for step in range(4):
        batches = micro_batches(step, rank)
        optimizer.step(closure(model, nn.functional.cross_entropy, batches, average=False))
        etas.append(optimizer.last_step.eta)
    return flat(model), etas


def test_local_perturbations_of_sa_sam_still_take_one_eta(results: dict[str, list[Any]]) -> None:
    first, second = results["local_sa_sam"]
    assert first == second
    globally = train("sa-sam", "poster", None, ddp=False)[0]
    assert first[0] != pytest.approx(globally, rel=1e-6)


def disagreements(rank: int) -> int:
    refused = 0
    for perturbation, average in (("local", True), ("global", False)):
        model = network()
        optimizer = SASAM(model.parameters(), lr=0.1, perturbation=perturbation)
        batches = micro_batches(0, rank)
        with contextlib.suppress(ValueError):
            optimizer.step(closure(model, nn.functional.cross_entropy, batches, average=average))
            refused -= 1
        refused += 1
    return refused


def test_a_closure_and_an_optimizer_that_would_both_or_neither_average_are_refused(
    results: dict[str, list[Any]],
) -> None:
    assert results["disagreements"] == [2, 2]


def overflow_on_one_rank(rank: int) -> list[tuple[str, bool, float]]:
    outcomes = []
    for name in ("sam", "sa-sam"):
        model = network().float()
        scaler = GradScaler("cpu", init_scale=8.0)
        options = ["perturbation=local"]
        optimizer = build(name, model.parameters(), lr=0.1, options=options, grad_scaler=scaler)
        before = flat(model)
        batches = [(x.float(), y) for x, y in micro_batches(0, rank)]
        inner = closure(
            model, nn.functional.cross_entropy, batches, average=False, grad_scaler=scaler
        )

        def overflow(model: Any = model, inner: Any = inner) -> Tensor:
            loss = inner()
            if rank == 1:
                model[0].weight.grad[0, 0] = float("inf")
            return loss

        optimizer.step(overflow)
        same = flat(model) == before
        outcomes.append((optimizer.last_step.active, same, scaler.get_scale()))
    return outcomes


def test_an_overflow_on_one_rank_skips_the_step_on_both(results: dict[str, list[Any]]) -> None:
    assert results["overflow_on_one_rank"] == [[("skipped", True, 4.0)] * 2] * 2


def gradient_on_one_rank(rank: int) -> list[float]:
    model = nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)]).double()
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p)

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = model[0](batch[0])
        outputs = outputs + model[1](batch[0]) if rank == 0 else outputs
        return nn.functional.cross_entropy(outputs, batch[1])

    optimizer = build("msgd", model.parameters(), lr=0.1, weight_decay=0.1)
    unused = flat(model[2])
    optimizer.step(closure(model, loss, micro_batches(0, rank), batch_loss=True))
    assert flat(model[2]) == unused
    return flat(model)


def test_a_gradient_that_only_one_rank_has_is_averaged_with_zero(
    results: dict[str, list[Any]],
) -> None:
    first, second = results["gradient_on_one_rank"]
    assert first == second


WORK = (
    every_run,
    unaveraged,
    independent_runs,
    local_sam,
    local_sa_sam,
    disagreements,
    overflow_on_one_rank,
    gradient_on_one_rank,
)
