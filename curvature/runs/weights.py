"""The state dict in whatever was saved: found, freed of wrappers, hashed, checked for NaN."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from curvature.runs.messages import GATHER, listed, printable

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
PREFIXES = (  # DataParallel, torch.compile, Lightning, FSDP, Lightning's Fabric
    *("module.", "_orig_mod.", "model.", "_fsdp_wrapped_module.", "_forward_module."),
)
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # at any depth
STRAYS = ("n_averaged", "total_ops", "total_params")  # of SWA and of profilers; not weights
DEPTH = 3  # of the tables in tables that are searched

_EMA = re.compile(r"(^|_)ema(_|$)", re.IGNORECASE)
_EMA_PREFIX = re.compile(r"(\w+\.)?(\w+_)?ema(_\w+)?\.", re.IGNORECASE)
_ELSEWHERE = re.compile(r"optimi[sz]er|(^|_)optim(_|$)|sched|scaler|_extra_state|(^|_)rng|random")
_Path = tuple[str, ...]


def find_weights(found: Any, wanted: str = "auto") -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in ``found``, without wrappers' prefixes, and a note on each thing done.

    ``wanted``: auto; ema; the key it lies under; or a prefix, as ``encoder.``, of its names.
    """
    if isinstance(found, Tensor) or not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}, not a state dict")
    candidates = dict(_state_dicts(found))
    if not candidates:
        raise ValueError(f"it holds no tensors under a name: there is {listed(found) or 'nothing'}")
    path, notes = _choose(candidates, wanted)
    if path:
        notes.insert(0, f"took the weights under `{printable('.'.join(path))}`")
        aside = [key for key in found if key != path[0]]
        if aside:
            notes.insert(1, f"left aside {listed(aside, most=6)}")
    weights, more = _tensors(candidates[path])
    notes += more
    if wanted.endswith("."):
        inside = {k.removeprefix(wanted): v for k, v in weights.items() if k.startswith(wanted)}
        if not inside:
            raise ValueError(f"no name in it starts with `{wanted}`")
        notes.append(f"took the {len(inside)} of {len(weights)} keys with prefix `{wanted}`")
        weights = inside
    elif not any(map(_is_ema, path)):
        weights, more = _without_copy(weights, wanted == "ema")
        if wanted == "ema" and not more:
            raise ValueError(_nothing_under(wanted, candidates))
        notes += more
    weights, more = strip(weights)
    return weights, notes + more


def strip(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove the prefixes that wrappers put before every key, and what they keep beside them."""
    names, notes = short_names(weights)
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
        if not tensor.is_floating_point():
            continue
        values = tensor if tensor.element_size() > 1 else tensor.float()  # float8 has no isfinite
        if bad := int((~values.isfinite()).sum()):
            found.append(f"`{printable(name)}` ({bad} of {tensor.numel()})")
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise FloatingPointError(
            f"NaN or infinite weights in {', '.join(found[:3])}{more}: the training that saved "
            "them had diverged, so take an earlier checkpoint."
        )


def short_names(weights: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """From each name to the name without the prefixes, strays left out."""
    notes: list[str] = []
    strays = [name for name in weights if name.rpartition(".")[2] in STRAYS]
    names = {name: name for name in weights if name not in strays}
    if strays and names:
        notes.append(f"dropped {listed(strays)}")
    prefix: str | None = ""
    while prefix is not None and names:
        prefix = next((p for p in PREFIXES if all(k.startswith(p) for k in names.values())), None)
        if prefix is not None:
            names = {name: short.removeprefix(prefix) for name, short in names.items()}
            notes.append(f"removed the prefix `{prefix}` from {len(names)} keys")
    names, more = _unwrapped_inside(names)
    return names, notes + more


def _unwrapped_inside(names: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """The names without what wraps modules in the model; as they were where two would clash."""
    notes = []
    for wrapper in INSIDE:
        inside = re.compile(rf"(^|(?<=\.)){re.escape(wrapper)}")
        shorter = {name: inside.sub("", short) for name, short in names.items()}
        count = sum(shorter[name] != short for name, short in names.items())
        if count and len(set(shorter.values())) == len(shorter):
            names = shorter
            notes.append(f"removed `{wrapper}` inside {count} names")
    return names, notes


def _without_copy(weights: dict[str, Tensor], wanted: bool) -> tuple[dict[str, Tensor], list[str]]:
    """Of a state dict that holds an EMA copy too, under names such as ``model_ema.``, one of both.

    ``wanted``: the copy. It is one where each of its names is there without the prefix too.
    """
    copies: dict[str, str] = {}  # from a name of the copy to the prefix that says so
    for name in weights:
        prefix = _EMA_PREFIX.match(name)
        if prefix:
            copies[name] = prefix[0]
    plain = {name: value for name, value in weights.items() if name not in copies}
    copy = {name.removeprefix(prefix): weights[name] for name, prefix in copies.items()}
    known = set(strip(plain)[0])
    known |= {name.partition(".")[2] for name in known}  # net.fc beside net_ema.fc
    if not copy or not set(strip(copy)[0]) <= known:
        return weights, []
    shown = listed(dict.fromkeys(copies.values()))
    if wanted:
        return copy, [f"took the EMA copy, {len(copy)} of {len(weights)} names, under {shown}"]
    return plain, [f"left aside the EMA copy under {shown}: `--weights ema` takes it"]


def _is_ema(key: str) -> bool:
    return bool(_EMA.search(key))


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
    ema = [path for path in candidates if any(map(_is_ema, path))]
    plain = [path for path in candidates if path not in ema]
    notes = []
    if wanted == "ema" and ema:
        chosen = ema
    elif wanted in ("auto", "ema") or wanted.endswith("."):
        chosen = plain or ema
        if plain and ema:
            notes = [f"there is an EMA copy too (`{printable('.'.join(ema[0]))}`): `--weights ema`"]
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
    if not chosen:
        raise ValueError(_nothing_under(wanted, candidates))
    raise ValueError(f"it holds several sets of weights; choose one of {_there(candidates)}")


def _nothing_under(wanted: str, candidates: Iterable[_Path]) -> str:
    there = _there(candidates) or "one state dict, without a name"
    return f"it holds no weights under `{printable(wanted)}`; there is {there}"


def _there(candidates: Iterable[_Path]) -> str:
    return ", ".join(f"`{printable('.'.join(path))}`" for path in candidates if path)


def _tensors(found: Mapping[Any, Any]) -> tuple[dict[str, Tensor], list[str]]:
    weights: dict[str, Tensor] = {}
    others = []
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            others.append(name)
        elif hasattr(value, "to_local"):
            raise ValueError(f"it holds sharded tensors (DTensor), `{printable(name)}`. {GATHER}")
        elif value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(f"`{printable(name)}` is sparse, quantized or without values")
        else:
            weights[name] = value.detach()
    notes = [f"dropped {listed(others)}, no tensors"] if others else []
    half = [v for v in weights.values() if v.is_floating_point() and v.element_size() < 4]
    if half:
        kinds = ", ".join(sorted({str(v.dtype).removeprefix("torch.") for v in half}))
        notes.append(f"{len(half)} tensors are in half precision or less ({kinds})")
    return weights, notes
