"""‖J_iᵀs_i‖² for a seed vector s_i per example, J_i the Jacobian of its outputs by the parameters.

One backward pass to the layers' outputs; rules turn (input, output gradient) into squared norms.
Parameters (1, …) that are broadcast over the examples get a row for each (`broadcast`).
What no rule covers is differentiated for all examples of the call at once: with independent
random signs in the seeds E‖Σ_i J_iᵀs_i‖² = Σ_i ‖J_iᵀs_i‖², for any module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from curvature.derivatives.broadcast import expanded, misread, places
from curvature.derivatives.layer_rules import Rule, rule_of
from curvature.derivatives.memory import is_out_of_memory

_ALONE = 4  # examples of a batch whose gradients are taken by themselves, to check the rules


@dataclass(frozen=True)
class _Use:
    """A call of a module that has a rule; ``names``: its parameters, by their own names.

    Or the rows that stand in for a parameter.
    """

    edge: GradientEdge
    names: dict[str, str]
    hook: RemovableHandle
    lengths: set[int]  # the first dimensions of the input and the output
    numbers: int  # in the output


@dataclass(frozen=True)
class Recording:
    """Outputs of some examples, with what is needed for their gradients' squared norms.

    ``rest`` are the parameters that the outputs depend on in other ways than one covered layer.
    ``largest``: numbers in the largest output of a layer that has a rule.
    """

    outputs: Tensor
    rest: dict[str, Tensor]
    covered: set[str]
    largest: int
    _innermost: list[GradientEdge]
    _received: dict[str, Tensor]

    def squared_norms(
        self, seeds: Tensor, *, retain_graph: bool = False, scaled: bool = False
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(‖∂(s_iᵀf_i)/∂θ‖² (N,) for covered θ, ‖∂(Σ_i s_iᵀf_i)/∂θ‖² for the ``rest``).

        ``scaled``: (2,) for the ``rest``, the second of them ‖θ ⊙ ∂(Σ_i s_iᵀf_i)/∂θ‖².
        """
        self._received.clear()
        wanted: list[Any] = [*self.rest.values(), *self._innermost]
        if not wanted:
            return {}, {}
        grads = torch.autograd.grad(
            self.outputs, wanted, seeds, retain_graph=retain_graph, allow_unused=True
        )
        nothing = seeds.new_zeros((2,) if scaled else ())
        together = {
            name: nothing if g is None else _squares(g, w if scaled else None)
            for (name, w), g in zip(self.rest.items(), grads, strict=False)
        }
        return {k: v for k, v in self._received.items() if k in self.covered}, together


def record(
    model: nn.Module,
    params: Mapping[str, Tensor],
    forward: Callable[[], Tensor],
    *,
    avoid: Collection[str] = (),
    by_example: bool = False,
    examples: int | None = None,
) -> Recording:
    """Run ``forward`` with hooks on every layer that has a rule.

    A parameter is left to ``rest`` if it is in ``avoid``, or if the graph uses it other than once
    in one such layer: counted in the graph itself, so functional uses and ties are found.
    ``by_example``: also if the layer's first dimension isn't that of the outputs.
    ``examples``: how many there are, for parameters (1, …) to get as many rows.
    """
    names = {id(p): name for name, p in params.items() if name not in avoid}
    uses: list[_Use] = []
    received: dict[str, Tensor] = {}
    hooks = []
    for module in model.modules():
        own = {k: names[id(p)] for k, p in module._parameters.items() if id(p) in names}
        rule = rule_of(module)
        if rule is not None and own and set(module._parameters) <= {"weight", "bias"}:
            hooks.append(module.register_forward_hook(_hook(rule, own, uses, received)))
    where = {} if examples is None else places(model, _without(avoid, params))
    try:
        try:
            with expanded(where, examples or 1) as rows:
                outputs = forward()
        except Exception as error:  # a size of image, say, for which none was checked
            if not where or is_out_of_memory(error):
                raise
            uses.clear()
            rows = {}
            outputs = forward()
    finally:
        for hook in hooks:
            hook.remove()
    of_rows = [_of_rows(name, t, received) for name, t in rows.items() if t.requires_grad]
    counts, nodes = _walk(outputs, {use.edge.node for use in [*uses, *of_rows]})
    uses += [use for use in of_rows if use.edge.node in nodes]  # the others weren't read
    recorded = Counter(name for use in uses for name in use.names.values())
    covered = {name for name, times in recorded.items() if times == counts[id(params[name])] == 1}
    if by_example:
        n = len(outputs)
        covered -= {name for use in uses if use.lengths != {n} for name in use.names.values()}
    innermost = []
    for use in uses:
        if covered.isdisjoint(use.names.values()):
            use.hook.remove()
        elif use.edge.node in nodes:
            innermost.append(use.edge)
    rest = {name: p for name, p in params.items() if counts[id(p)] and name not in covered}
    largest = max((use.numbers for use in uses), default=0)
    return Recording(outputs, rest, covered, largest, innermost, received)


def _hook(
    rule: Rule, own: dict[str, str], uses: list[_Use], received: dict[str, Tensor]
) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if len(args) != 1 or not isinstance(output, Tensor) or not output.requires_grad:
            return
        x = args[0].detach()

        @torch.no_grad()
        def take(g: Tensor) -> None:
            squares = rule(module, x, g)
            received.update({own[k]: v for k, v in squares.items() if k in own})

        # taken here: a later in-place operation gives the tensor another edge
        handle = output.register_hook(take)  # type: ignore[no-untyped-call]
        lengths = {t.shape[0] if t.ndim else -1 for t in (x, output)}
        uses.append(_Use(get_gradient_edge(output), own, handle, lengths, output.numel()))

    return hook


def _of_rows(name: str, rows: Tensor, received: dict[str, Tensor]) -> _Use:
    @torch.no_grad()
    def take(g: Tensor) -> None:
        received[name] = g.flatten(1).square().sum(1)

    handle = rows.register_hook(take)  # type: ignore[no-untyped-call]
    return _Use(get_gradient_edge(rows), {name: name}, handle, {len(rows)}, 0)


def _squares(g: Tensor, w: Tensor | None) -> Tensor:
    """‖g‖², and ‖w ⊙ g‖² where there is a w."""
    squares = g.double().square()
    if w is None:
        return squares.sum()
    return torch.stack([squares.sum(), (squares * w.detach().double().square()).sum()])


def _walk(outputs: Tensor, marked: set[Any]) -> tuple[Counter[int], set[Any]]:
    """How many edges lead to each leaf, by its id; the ``marked`` nodes with none beneath."""
    counts: Counter[int] = Counter()
    above: dict[Any, bool] = {}  # whether a marked node lies beneath
    innermost: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(outputs.grad_fn, False)] if outputs.grad_fn else []
    while stack:
        node, children_done = stack.pop()
        children = [child for child, _ in node.next_functions if child is not None]
        if children_done:
            above[node] = any(child in marked or above.get(child, False) for child in children)
            if node in marked and not above[node]:
                innermost.add(node)
        elif node not in above:
            above[node] = False
            stack.append((node, True))
            for child in children:
                if hasattr(child, "variable"):
                    counts[id(child.variable)] += 1
                else:
                    stack.append((child, False))
    return counts, innermost


def distrusted(
    model: nn.Module,
    params: Mapping[str, Tensor],
    forward: Callable[[int, int | None], Tensor],
    batches: Sequence[int],
    *,
    generator: torch.Generator,
    rtol: float,
) -> tuple[set[str], set[str]]:
    """The parameters whose rule isn't seen to give each example's gradient, and all in use.

    ``batches`` are small ones, told by their examples: ``forward(k, i)`` gives the outputs of
    example i of batch k alone, ``forward(k, None)`` those of batch k. Finds layers whose first
    dimension is not the examples, patched modules, examples that see each other, parameters that
    don't mean the same as rows (which a batch of one example can't show), and what no example
    reaches. Four of the first batch and one of each other are looked at alone, and more
    while there is a layer that none of them reached.
    """
    seen: set[str] = set()
    wrong: set[str] = set()
    used: set[str] = set()
    for k, examples in enumerate(batches):
        batch = partial(forward, k, None)
        wrong |= misread(model, _without(wrong, params), batch, examples, rtol=rtol)
        recording = record(model, params, batch, avoid=wrong, by_example=True, examples=examples)
        unproven = set(places(model, params)) if examples == 1 else set()
        used |= recording.covered | set(recording.rest)
        wrong |= set(recording.rest)
        seeds = torch.randn(recording.outputs.shape, generator=generator)
        seeds = seeds.to(recording.outputs.device, recording.outputs.dtype)
        if len(seeds) != examples:
            return set(params), used
        apart, _ = recording.squared_norms(seeds)
        spaced = range(0, examples, -(-examples // _ALONE))
        others = [i for i in range(examples) if i not in spaced]
        enough = 1 if k else len(spaced)
        for number, i in enumerate([*spaced, *others]):
            open_ = {name: params[name] for name in apart if name not in wrong}
            if not open_ or (number >= enough and seen >= set(open_)):
                break
            alone = record(model, open_, partial(forward, k, i), by_example=True, examples=1)
            wrong |= set(alone.rest)
            grads = torch.autograd.grad(
                alone.outputs, list(open_.values()), seeds[i : i + 1], materialize_grads=True
            )
            exact = {
                name: float(g.double().square().sum()) for name, g in zip(open_, grads, strict=True)
            }
            least = 1e-3 * sum(exact.values()) / max(1, len(exact))
            for name, square in exact.items():
                if not abs(float(apart[name][i]) - square) <= rtol * max(square, least):
                    wrong.add(name)
                elif square > 0 and name not in unproven:
                    seen.add(name)
    avoid = set(params) - (seen - wrong)
    rows = set(places(model, params))
    if rows & avoid and any(  # the others haven't been seen without these
        misread(model, _without(avoid, params), partial(forward, k, None), n, rtol=rtol)
        for k, n in enumerate(batches)
    ):
        avoid |= rows
    return avoid, used


def _without(names: Collection[str], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: p for name, p in params.items() if name not in names}
