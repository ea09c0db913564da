"""The tables as Markdown, from what was measured."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optimizer_steps import EXPECTED
from results import Results
from tables import eigmax, growth, memory, trace
from tables.cases import CASES
from unit import middle

TITLES = {
    "ours": "**curvature**",
    "ours, staged": "**curvature**, `staged`",
    "pyhessian": "PyHessian",
    "curvlinops": "curvlinops",
    "eigenthings": "hessian-eigenthings",
}
TOOLS = ("pyhessian", "curvlinops", "eigenthings")
SUBJECTS = ("resnet20", "vgg19", "vit", "digits", "tiny")


def write(results: Results, path: Path | None) -> str:
    """All tables for which something was measured."""
    parts = [_head(results)]
    for name in SUBJECTS:
        subject = results.get(f"subject/{name}")
        if subject is not None:
            parts += [_trace(results, name, subject), _eigmax(results, name), _hvp(results, name)]
    parts += [_memory(results), _growth(results), _steps(results), _right(results)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    if path is not None:
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        os.replace(partial, path)
    return text


def _head(results: Results) -> str:
    found = results.get("machine") or {}
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return f"""# Measured side by side

Written by `benchmarks/side_by_side.py` on {found["date"]}: {found["processor"]}, \
{found["threads"]} thread, Python {found["python"]}, PyTorch {found["torch"]}, {packages}.
{found.get("remark", "")}

A *gradient* is one forward and one backward pass over the same images: the plain module in
evaluation mode, contiguous, batches of 128, in the same process, before and after each call. Times
are the processor's, which other programs on the machine disturb less than the clock on the wall;
ranges are the smallest and the largest over repetitions.

Where it says *extrapolated*, nothing ran for so long: for Hutchinson's probes the products are
(deviation of a probe / 1 %)², with the deviation over 40 probes at least; for Hutch++ and XTrace
the errors over random subsets of a pool of products, beyond it taken to fall as 1/products, which
favours them. Gradients and seconds are these products times what one product of the tool takes,
as measured in calls of its own function."""


def _trace(results: Results, name: str, subject: dict[str, Any]) -> str:
    pool = results.get(f"trace/{name}/pool")
    reference = results.get(f"trace/{name}/reference")
    title = (
        f"## {subject['title']}: {subject['parameters']:,} parameters, "
        f"{subject['images']:,} images\n\n"
    )
    if reference is None:
        measured = results.get(f"eigmax/{name}/ours") or results.get(f"hvp/{name}")
        return title.strip() if measured else ""
    ours = results.get(f"trace/{name}/ours/{trace.WANTED:g}")
    rows, best = [], None
    if ours:
        best = middle(run["gradients"] for run in ours)
        error = _rms(run["found"]["value"] / reference["value"] - 1 for run in ours)
        passes = middle(run["found"]["passes"] for run in ours)
        rows.append(
            [
                TITLES["ours"],
                f"{error:.2%} over {len(ours)} seeds",
                f"{passes:.3g} passes",
                "",
                _range(run["gradients"] for run in ours),
                f"{middle(run['cpu'] for run in ours):.3g}",
                "1",
            ]
        )
    for tool in TOOLS if pool else ():
        rows += _peer_traces(results, name, tool, pool, best)
    known = f"{reference['value']:.6g}"
    if reference["standard_error"]:
        known += f" ± {reference['standard_error']:.2g}"
    head = ["", "error", "to 1 %", "gradients a product", "gradients", "seconds", "× ours"]
    peers = (
        "; for the peers it is the deviation of one probe, and the products that it takes to bring "
        "it to 1 %"
    )
    return (
        f"{title}### Tr(H) to 1 %\n\nExact: {known}. The error is the root mean square over "
        f"seeds{peers if pool else ''}.\n\n{table(head, rows)}"
    )


def _peer_traces(
    results: Results, name: str, tool: str, pool: dict[str, Any], best: float | None
) -> Iterable[list[str]]:
    calls = results.get(f"trace/{name}/calls/{tool}")
    if calls is None:
        return
    if "failed" in calls:
        yield [TITLES[tool], f"failed: {calls['failed']}", *[""] * 5]
        return
    cost = middle(run["gradients"] for run in calls["runs"])
    seconds = middle(run["cpu"] for run in calls["runs"])
    methods = {"pyhessian": (), "curvlinops": ("hutch++", "xtrace"), "eigenthings": ("hutch++",)}
    for method in ("hutchinson", *methods[tool]):
        products, extrapolated = trace.products_needed(pool, method)
        if method == "hutchinson":
            error = f"{pool['deviation'] / abs(pool['value']):.1%} a probe"
        else:
            last = max(map(int, pool["errors"][method]))
            error = f"{pool['errors'][method][str(last)]:.1%} at {last} products"
        direct = results.get(f"trace/{name}/direct/{tool}/{method}")
        if direct and "error" in direct:
            error += f"; run: {direct['error']:.1%} at {direct['products']}"
        total = products * cost
        yield [
            f"{TITLES[tool]}, {method}",
            error,
            f"{products:,.0f} products" + " *extrapolated*" * extrapolated,
            f"{cost:.2f}",
            f"{total:,.0f}",
            f"{products * seconds:,.0f}",
            f"{total / best:,.0f}" if best else "",
        ]


def _eigmax(results: Results, name: str) -> str:
    reference = results.get(f"eigmax/{name}/reference")
    ours = results.get(f"eigmax/{name}/ours")
    by = ""
    if reference is None and ours:
        reference, by = ours[0]["found"], " by our Lanczos"
    if reference is None:
        return ""
    best = middle(run["gradients"] for run in ours) if ours else None
    rows = []
    for who, title in TITLES.items():
        runs = results.get(f"eigmax/{name}/{who}")
        if runs is None:
            continue
        if isinstance(runs, dict):
            rows.append([title, f"failed: {runs['failed']}", *[""] * 5])
            continue
        rows += _eigmax_rows(who, title, runs, reference["value"], best)
    if not rows:
        return ""
    head = ["", "stops by itself", "true error", "gradients", "seconds", "to 1e-3", "× ours"]
    return (
        f"### λ_max to 1e-3\n\nReference{by}: {reference['value']:.7g} with residual "
        f"{reference['residual']:.1g}.\n\n{table(head, rows)}"
    )


def _eigmax_rows(
    who: str, title: str, runs: list[dict[str, Any]], value: float, best: float | None
) -> Iterable[list[str]]:
    stops, errors, costs, seconds, needed = [], [], [], [], []
    for run in runs:
        found, each = run["found"], run["gradients"] / run["found"]["products"]
        products, last = found["products"], found["value"]
        if who == "pyhessian":
            products = eigmax.stopped_at(found["history"])
            last = found["history"][products - 2]  # it returns the value before
        stops.append(products)
        errors.append(abs(last / value - 1))
        costs.append(each * products)
        seconds.append(run["cpu"] / found["products"] * products)
        to = eigmax.products_needed(run, value)
        whole = not found.get("history")
        needed.append(None if to is None else run["gradients"] if whole else each * to)
    reached = [x for x in needed if x is not None]
    full = f"{middle(reached):.3g} gradients" if len(reached) == len(needed) else ""
    if who == "eigenthings":
        to = [eigmax.products_needed(run, value) for run in runs]
        stop = "told: " + ", ".join(f"{s} steps" for s in sorted(set(stops)))
        full = full and f"{full} ({max(x or 0 for x in to)} steps)"
    else:
        stop = f"{middle(stops):.3g} products"
    ratio = f"{middle(reached) / best:.2g}" if best and full else ""
    yield [
        title,
        stop,
        f"{max(errors):.1e}",
        _range(costs),
        f"{middle(seconds):.3g}",
        full or "not reached",
        ratio,
    ]


def _hvp(results: Results, name: str) -> str:
    found = results.get(f"hvp/{name}")
    if found is None:
        return ""
    titles = {
        "ours/kept": "**curvature**, graph kept",
        "ours/rebuilt": f"**curvature**, one product ({found['way']})",
        "ours/plain": "curvature, autograd twice as it is",
        "curvlinops/4 at once": "curvlinops, four vectors at once, of each",
    } | TITLES
    rows = []
    for who, runs in found["runs"].items():
        share = 4 if who.endswith("at once") else 1
        rows.append(
            [
                titles[who],
                _range(run["gradients"] / share for run in runs),
                _range(run["wall_gradients"] / share for run in runs),
                f"{middle(run['cpu'] for run in runs) / share:.3g}",
            ]
        )
    head = ["", "gradients", "by the wall clock", "seconds"]
    return f"### One product, {found['images']} images\n\n{table(head, rows)}"


def _memory(results: Results) -> str:
    rows = []
    for model in (*memory.MODELS, *memory.QUICK):
        step = results.get(f"memory/{model}/training step")
        if step is None:
            continue
        row = [model, f"{step['above'] / 1e6:.0f} MB"]
        for piece in memory.PIECES[1:]:
            found = results.get(f"memory/{model}/{piece}")
            if found is None:
                row.append("")
            elif "failed" in found:
                row.append("failed")
            else:
                row.append(f"{found['above'] / 1e6:.0f} MB, {found['above'] / step['above']:.2f}")
        rows.append(row)
    if not rows:
        return ""
    head = ["", *(TITLES.get(piece, piece) for piece in memory.PIECES)]
    return (
        "## Peak memory of a micro-batch of 128 images\n\nAbove the loaded network and "
        "images, each in a process of its own; and as a multiple of a training step's. Blocks of "
        "128 kB and more are mapped apart (`MALLOC_MMAP_THRESHOLD_=131072`), for all alike: "
        "glibc's heap with its holes takes up to twice as much, and differs from run to run.\n\n"
        f"{table(head, rows)}"
    )


def _growth(results: Results) -> str:
    parts = []
    for what, values in growth.SWEEPS.items():
        rows = []
        for value in (*growth.QUICK.get(what, ()), *values):
            found = results.get(f"growth/{what}/{value}")
            if found is None:
                continue
            runs = {name: each[0] for name, each in found["runs"].items()}
            rows.append(
                [
                    f"{value:,}",
                    f"{found['parameters']:,}",
                    f"{runs['product']['unit']:.3g}",
                    *(f"{runs[name]['gradients']:.3g}" for name in ("product", "trace", "eigmax")),
                ]
            )
        if rows:
            head = [what, "parameters", "seconds of a gradient", "product", "Tr(H)", "λ_max"]
            parts.append(table(head, rows))
    if not parts:
        return ""
    base = ", ".join(f"{value} {name}" for name, value in growth.BASE.items())
    return (
        "## Growth of our cost, in gradients\n\nA narrow ResNet-20 on random images after eight "
        f"steps; {base} where nothing else is said.\n\n" + "\n\n".join(parts)
    )


def _steps(results: Results) -> str:
    found = results.get("steps")
    if found is None:
        return ""
    rows = [
        [name, f"{middle:.3f}", f"{low:.3f}–{high:.3f}", f"{EXPECTED[name]:g}"]
        for name, (low, middle, high) in found["ratios"].items()
    ]
    return "## Optimizer steps, in gradients of training mode\n\n" + table(
        ["", "median", "quartiles", "expected"], rows
    )


def _right(results: Results) -> str:
    rows = []
    for case in CASES:
        found = results.get(f"right/{case.name}")
        if found is not None:
            cells = [_verdict(found["truth"], each) for each in found["tools"].values()]
            rows.append([case.name, *cells])
            tools = [TITLES[name] for name in found["tools"]]
    if not rows:
        return ""
    return (
        "## Right and wrong numbers\n\nSmall networks in float64 against the whole matrix by "
        "central differences: Hv to 1e-7, λ_max and the second eigenvalue to 1e-2, Tr(H) within "
        f"four standard errors.\n\n{table(['', *tools], rows)}"
    )


def _verdict(truth: dict[str, Any], found: dict[str, Any]) -> str:
    if isinstance(found["product"], dict):
        return f"fails: {found['product']['failed'].partition(':')[0]}"
    wrong = []
    if found["product"] > 1e-7:
        wrong.append(f"Hv off by {found['product']:.1%}")
    value, error = found["trace"]
    off = abs(value - truth["trace"])
    if off > 4 * (error or truth["deviation"]):
        wrong.append(f"Tr(H) {value:.4g}, not {truth['trace']:.4g}")
    first, second = truth["top"]
    if abs(found["eigmax"] - first) > 1e-2 * abs(first):
        wrong.append(f"λ_max {found['eigmax']:.4g}, not {first:.4g}")
    elif abs(found["top"][1] - second) > 1e-2 * abs(second):
        wrong.append(f"second eigenvalue {found['top'][1]:.4g}, not {second:.4g}")
    return "; ".join(wrong) or "right"


def _range(values: Iterable[float]) -> str:
    found = list(values)
    text = f"{middle(found):.3g}"
    return text if len(found) < 2 else f"{text} ({min(found):.3g}–{max(found):.3g})"


def _rms(errors: Iterable[float]) -> float:
    found = list(errors)
    return (sum(e * e for e in found) / len(found)) ** 0.5


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
