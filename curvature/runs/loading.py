"""Load weights into a module: every name and shape has to match, and what is converted is told."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from curvature.runs.messages import listed, printable
from curvature.runs.weights import short_names, strip, weights_hash


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load ``weights`` into ``model``, every name and shape matching; return notes.

    Raises:
        ValueError: listing missing and unexpected names and wrong shapes; the model is unchanged.
    """
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    weights, notes = strip(weights)
    weights = _renamed(model, weights)
    full = {short: name for name, short in short_names(own)[0].items()}
    given = {full.get(name, name): tensor for name, tensor in weights.items()}
    notes += _tolerated(own, given)
    _refuse_mismatch(own, given)
    for dtype in dict.fromkeys(tensor.dtype for tensor in given.values()):
        other = [k for k, v in given.items() if v.dtype == dtype and own[k].dtype != dtype]
        if other:
            notes.append(f"converted {len(other)} tensors from {dtype} to {own[other[0]].dtype}")
    model.load_state_dict(given, strict=False)
    return tuple(notes)


def _renamed(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that the model's own loading hooks give them."""
    given = dict(weights)
    for hook in model._load_state_dict_pre_hooks.values():
        hook(given, "", {}, True, [], [], [])
    return given


def _tolerated(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """Fill in what a file may lack: the counters of old BatchNorms, the other name of a tied."""
    notes = []
    missing = [name for name in own if name not in given]
    counters = [name for name in missing if name.rpartition(".")[2] == "num_batches_tracked"]
    if counters:
        given.update({name: own[name] for name in counters})
        notes.append(f"the file has no {listed(counters)}, which curvature doesn't need")
    tied: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, tensor in own.items():
        if tensor.data_ptr():
            tied.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    for group in tied.values():
        there = [name for name in group if name in given]
        if len({weights_hash({"": given[name]}) for name in there}) > 1:
            raise ValueError(f"The model ties {listed(group)}, but they differ in the file.")
        for name in [name for name in group if there and name not in there]:
            given[name] = given[there[0]]
            notes.append(f"`{name}` is tied to `{there[0]}`")
    return notes


def _refuse_mismatch(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    shapes = [
        f"{printable(name)}: {tuple(tensor.shape)}, not {tuple(own[name].shape)}"
        for name, tensor in given.items()
        if name in own and tensor.shape != own[name].shape
    ]
    kinds = [
        f"{printable(name)}: {tensor.dtype}, not {own[name].dtype}"
        for name, tensor in given.items()
        if name in own and own[name].is_floating_point() and not tensor.is_floating_point()
    ]
    if not (missing or unexpected or shapes or kinds):
        return
    parts = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
            ("of another kind", kinds),
        )
        if names
    ]
    raise ValueError(
        f"The weights don't fit the model: of its {len(own)} tensors, {'; '.join(parts)}. "
        f"{_hint(own, given)}"
    )


def _hint(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    first = next(iter(own), "")
    for name in given:
        prefix = name.removesuffix(first)
        if prefix.endswith(".") and all(prefix + each in given for each in own):
            shown = printable(prefix)
            return f"All its names are there after `{shown}`: load with `--weights {shown}`."
    return "Name the model, width and number of classes that they were saved from."


def _first(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:3]) + (", …" if len(names) > 3 else "")
