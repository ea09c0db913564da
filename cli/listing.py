"""`curv models`, `curv datasets`, `curv optimizers`: what can be named, with its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import click

from .output import Output, output_options

Table = Mapping[str, Callable[..., Any]]


@click.command()
@output_options
def models(output: Output) -> None:
    """List the models, as in --model vgg19:width=0.25."""
    from curvature.models import MODELS

    _show(MODELS, ("input_shape", "classes"), output)


@click.command()
@output_options
def datasets(output: Output) -> None:
    """List the data sets, as in --data cifar10:DIR,augment=crop."""
    from curvature.datasets import DATASETS

    _show(DATASETS, ("split", "report"), output)


@click.command()
@output_options
def losses(output: Output) -> None:
    """List the losses, as in --loss cross_entropy:label_smoothing=0.1."""
    from curvature.losses import LOSSES

    _show(LOSSES, (), output)


@click.command()
@output_options
def optimizers(output: Output) -> None:
    """List the optimizers; options as in --optimizer sam --optimizer-option adaptive=true."""
    from curvature.optimizers import OPTIMIZERS

    common = ("params", "lr", "weight_decay", "variant", "clip_norm", "grad_scaler")
    _show(OPTIMIZERS, common, output)


def _show(table: Table, given: tuple[str, ...], output: Output) -> None:
    """``given``: the parameters that the program fills in, or that have flags of their own."""
    entries = [_entry(name, function, given) for name, function in table.items()]
    output.answer(entries)
    for entry in entries:
        place = ":PATH" if entry["path"] else ""
        output.lines([f"{entry['name']}{place}", f"    {entry['about']}"])
        if entry["options"]:
            options = " ".join(f"{key}={value}" for key, value in entry["options"].items())
            output.lines([f"    {options}"])


def _entry(name: str, function: Callable[..., Any], given: tuple[str, ...]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    options = {
        p.name: "…" if p.default is p.empty else _plain(p.default)
        for p in parameters
        if p.name not in (*given, "path")
    }
    about = (inspect.getdoc(function) or "").splitlines()[0].replace("``", "`")
    path = any(p.name == "path" for p in parameters)
    return {"name": name, "about": about, "path": path, "options": options}


def _plain(value: Any) -> Any:
    """A default as one types it."""
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else value
