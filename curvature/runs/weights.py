"""Find a state dict in whatever was saved, tell what it is, and load it into a module."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from curvature.runs.files import printable

WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
PREFIXES = ("module.", "_orig_mod.", "model.")  # DataParallel, torch.compile, Lightning
STRAYS = ("n_averaged", "total_ops", "total_params")  # of SWA and of profilers; not weights
DEPTH = 3  # of the tables in tables that are searched

_EMA = re.compile(r"(^|_)ema(_|$)")
_ELSEWHERE = re.compile(r"optim|sched|scaler|_extra_state|rng|random")
_Path = tuple[str, ...]


def find_weights(found: Any, wanted: str = "auto") -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in ``found``, without wrappers' prefixes, and a note on each thing done.

    ``wanted``: auto; ema; the key it lies under; or a prefix, as ``encoder.``, of its names.
    """
    if isinstance(found, Tensor) or not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, not a state dict")
    candidates = dict(_state_dicts(found))
    if not candidates:
        listed = ", ".join(f"`{printable(key)}`" for key in list(found)[:5]) or "nothing"
        raise ValueError(f"it holds no tensors under a name: there is {listed}")
    path, notes = _choose(candidates, wanted)
    if path:
        notes.insert(0, f"took the weights under `{printable('.'.join(path))}`")
        aside = [printable(key) for key in found if key != path[0]]
        if aside:
            notes.insert(1, f"left aside {', '.join(f'`{key}`' for key in aside[:6])}")
    weights, more = _tensors(candidates[path])
    notes += more
    if wanted.endswith("."):
        inside = {k.removeprefix(wanted): v for k, v in weights.items() if k.startswith(wanted)}
        if not inside:
            raise ValueError(f"no name in it starts with `{wanted}`")
        notes.append(f"took the {len(inside)} of {len(weights)} keys with prefix `{wanted}`")
        weights = inside
    weights, more = strip(weights)
    return weights, notes + more


def strip(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove the prefixes that wrappers put before every key, and what they keep beside them."""
    names, notes = _short_names(weights)
    return {short: weights[name] for name, short in names.items()}, notes


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits of SHA-256 over names (prefixes apart), dtypes, shapes, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(strip(weights)[0].items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:12]


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse NaN and infinity: curvature there is not a number either.

    Raises:
        FloatingPointError: naming the tensors and how many of their entries.
    """
    found = []
    for name, tensor in weights.items():
        if tensor.is_floating_point() and (bad := int((~tensor.float().isfinite()).sum())):
            found.append(f"`{printable(name)}` ({bad} of {tensor.numel()})")
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise FloatingPointError(
            f"NaN or infinite weights in {', '.join(found[:3])}{more}: the training that saved "
            "them had diverged, so take an earlier checkpoint."
        )


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Load ``weights`` into ``model``, every name and shape matching; return notes.

    Raises:
        ValueError: listing missing and unexpected names and wrong shapes; the model is unchanged.
    """
    own = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    weights, notes = strip(weights)
    full = {short: name for name, short in _short_names(own)[0].items()}
    given = {full.get(name, name): tensor for name, tensor in weights.items()}
    notes += _tolerated(own, given)
    _refuse_mismatch(own, given)
    for dtype in dict.fromkeys(tensor.dtype for tensor in given.values()):
        other = [k for k, v in given.items() if v.dtype == dtype and own[k].dtype != dtype]
        if other:
            notes.append(f"converted {len(other)} tensors from {dtype} to {own[other[0]].dtype}")
    model.load_state_dict(given, strict=False)
    return tuple(notes)


def _short_names(weights: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """From each name to the name without the prefixes, strays left out."""
    notes: list[str] = []
    strays = [name for name in weights if name.rpartition(".")[2] in STRAYS]
    names = {name: name for name in weights if name not in strays}
    if strays and names:
        notes.append(f"dropped {_listed(strays)}")
    prefix: str | None = ""
    while prefix is not None and names:
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in names.values())), None)
        if prefix is not None:
            names = {name: short.removeprefix(prefix) for name, short in names.items()}
            notes.append(f"removed the prefix `{prefix}` from {len(names)} keys")
    return names, notes


def _state_dicts(found: Mapping[Any, Any], path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Every table of named tensors in tables, the innermost that are not an optimizer's."""
    nested = False
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or len(path) == DEPTH:
            continue
        if not _ELSEWHERE.search(key):
            for candidate in _state_dicts(value, (*path, key)):
                nested = True
                yield candidate
    if not nested and any(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        yield path, found


def _choose(candidates: Mapping[_Path, Any], wanted: str) -> tuple[_Path, list[str]]:
    ema = [path for path in candidates if any(_EMA.search(key) for key in path)]
    plain = [path for path in candidates if path not in ema]
    notes = []
    if wanted == "ema":
        chosen = ema
    elif wanted == "auto" or wanted.endswith("."):
        chosen = plain or ema
        if plain and ema:
            notes = [f"there is an EMA copy too (`{printable('.'.join(ema[0]))}`): weights='ema'"]
        elif ema:
            notes = ["these are averaged (EMA) weights: there are no others"]
        if len(chosen) > 1:
            known = [p for wrapper in WRAPPERS for p in chosen if p[0] == wrapper]
            chosen = [p for p in known if p[0] == known[0][0]] or chosen
    else:
        chosen = [
            path for path in candidates if wanted in (".".join(path), path[0] if path else "")
        ]
    if len(chosen) == 1:
        return chosen[0], notes
    there = ", ".join(f"`{printable('.'.join(path))}`" for path in candidates if path)
    if not chosen:
        raise ValueError(
            f"it holds no weights under `{printable(wanted)}`; there is "
            f"{there or 'one state dict, without a name'}"
        )
    raise ValueError(f"it holds several sets of weights; choose one of {there}")


def _tensors(found: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    weights: dict[str, Tensor] = {}
    others = []
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            others.append(printable(name))
        elif value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"`{printable(name)}` is sparse, quantized or without values")
        else:
            weights[name] = value.detach()
    notes = [f"dropped {_listed(others)}, no tensors"] if others else []
    half = [v for v in weights.values() if v.is_floating_point() and v.element_size() < 4]
    if half:
        kinds = ", ".join(sorted({str(v.dtype).removeprefix("torch.") for v in half}))
        notes.append(f"{len(half)} tensors are in half precision or less ({kinds})")
    return weights, notes


def _tolerated(own: Mapping[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    """Fill in what a file may lack: the counters of old BatchNorms, the other name of a tied."""
    notes = []
    missing = [name for name in own if name not in given]
    counters = [name for name in missing if name.rpartition(".")[2] == "num_batches_tracked"]
    if counters:
        given.update({name: own[name] for name in counters})
        notes.append(f"the file has no {_listed(counters)}, which curvature doesn't need")
    tied: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, tensor in own.items():
        if tensor.data_ptr():
            tied.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    for group in tied.values():
        there = [name for name in group if name in given]
        if len({weights_hash({"": given[name]}) for name in there}) > 1:
            raise ValueError(f"The model ties {_listed(group)}, but they differ in the file.")
        for name in set(group) - set(there) if there else ():
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
    if not (missing or unexpected or shapes):
        return
    parts = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if names
    ]
    raise ValueError(
        f"The weights don't fit the model: of its {len(own)} tensors, {'; '.join(parts)}. "
        "Name the model, width and number of classes that they were saved from."
    )


def _first(names: Sequence[str]) -> str:
    return ", ".join(printable(name) for name in names[:3]) + (", …" if len(names) > 3 else "")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{printable(name)}`" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
