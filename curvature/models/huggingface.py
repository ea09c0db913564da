"""Hugging Face models from a local folder of save_pretrained; nothing is ever downloaded."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

_LOSSES = {  # of an architecture, by the end of its name
    "ForCausalLM": "next_token",
    "LMHeadModel": "next_token",
    "ForMaskedLM": "each_token",
    "ForTokenClassification": "each_token",
    "ForSequenceClassification": "cross_entropy",
    "ForImageClassification": "cross_entropy",
}


def huggingface(path: str) -> nn.Module:
    """Hugging Face model of a local save_pretrained folder (config.json and safetensors).

    In float32, with plain attention and without a cache; code in the folder is never run.

    Raises:
        ValueError: if the folder lacks weights, or asks for code of its own.
    """
    folder = Path(path).expanduser()
    about = _config(folder)
    try:
        import transformers
    except ImportError as error:
        raise ModuleNotFoundError(
            "`hf:` needs transformers: pip install 'curvature-toolkit[transformers]'."
        ) from error
    name = _architecture(about, folder)
    kind = getattr(transformers, name, None)
    if not isinstance(kind, type) or not issubclass(kind, transformers.PreTrainedModel):
        raise ValueError(
            f"{folder} holds a `{name}`, which transformers {transformers.__version__} hasn't, "
            "and code in a folder is not run. Import the class in a factory of yours."
        )
    load: Any = kind.from_pretrained
    with _offline_and_quiet(transformers):
        try:
            model, loaded = load(
                folder,
                local_files_only=True,
                use_safetensors=True,
                attn_implementation="eager",
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, KeyError) as error:
            raise ValueError(f"{folder} can't be loaded: {_first_line(error)}.") from error
    _refuse_gaps(loaded, folder, name)
    model.config.use_cache = False
    found: nn.Module = model
    return found


def usual_loss(path: str) -> str | None:
    """The loss that the architecture in a folder is trained with, where its name tells."""
    about = _config(Path(path).expanduser())
    name = _architecture(about, Path(path))
    kind = about.get("problem_type")
    if name.endswith("ForSequenceClassification") and kind == "multi_label_classification":
        return "bce"
    if name.endswith("ForSequenceClassification") and (
        kind == "regression" or len(about.get("id2label", "01")) == 1
    ):
        return None  # its outputs (N, 1) and labels (N,) need someone's own function
    return next((loss for end, loss in _LOSSES.items() if name.endswith(end)), None)


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no folder of save_pretrained: there is no {path}.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({_first_line(error)}).") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} is not the config of a model.")
    if "quantization_config" in about:
        raise ValueError(f"{folder} holds quantized weights, which have no derivatives.")
    return about


def _architecture(about: dict[str, Any], folder: Path) -> str:
    found = about.get("architectures")
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise ValueError(
            f"{folder / 'config.json'} doesn't say its `architectures`: save the model again with "
            "`save_pretrained(folder)`."
        )
    return found[0]


def _refuse_gaps(loaded: dict[str, Any], folder: Path, name: str) -> None:
    """What transformers would draw at random, or leave out, with no more than a warning."""
    for what, key in (
        ("doesn't have", "missing_keys"),
        ("has, and the model hasn't,", "unexpected_keys"),
        ("has in another shape", "mismatched_keys"),
    ):
        found = sorted(map(str, loaded.get(key) or ()))
        if found:
            shown = ", ".join(f"`{each}`" for each in found[:3]) + ", …" * (len(found) > 3)
            raise ValueError(
                f"{folder} {what} {shown} of a {name} ({len(found)} in all): save the model again "
                "as the class that it is."
            )


@contextmanager
def _offline_and_quiet(transformers: Any) -> Iterator[None]:
    """No request, no progress bar, no advice, for the length of a call."""
    from huggingface_hub import constants

    logger = logging.getLogger("transformers")
    bar = transformers.utils.logging
    was = constants.HF_HUB_OFFLINE, logger.level, bar.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    logger.setLevel(logging.CRITICAL)
    bar.disable_progress_bar()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was[0]
        logger.setLevel(was[1])
        if was[2]:
            bar.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
