"""`curv show`: what is in a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from curvature.runs.checkpoint import export_safetensors, load_checkpoint
from curvature.runs.describe import describe

from .output import WEIGHTS, Output, number, output_options


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--weights", default="auto", help=WEIGHTS)
@click.option(
    "--export",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.safetensors",
    help="Write the weights as safetensors too.",
)
@output_options
def show(files: tuple[Path, ...], weights: str, export: Path | None, output: Output) -> None:
    """Show what is in each FILE: a checkpoint of ours, or anyone's weights.

    A folder of Hugging Face's save_pretrained is one too. Nothing in a file is executed.
    """
    if export is not None and (len(files) > 1 or export.suffix != ".safetensors"):
        raise ValueError(f"`--export` writes one FILE to a name in .safetensors, got `{export}`.")
    found = []
    for path in files:
        checkpoint = load_checkpoint(path, weights=weights)
        about = {"file": str(path), "bytes": _bytes(path), **describe(checkpoint)}
        found.append(about)
        output.lines(_lines(about))
        if export is not None:
            export_safetensors(export, checkpoint)
            output.say(f"Wrote {export}.")
    output.answer(found)


def _lines(about: dict[str, Any]) -> list[str]:
    title = f"{about['file']}  {_size(about['bytes'])}"
    lines = [
        title,
        f"  weights     {about['entries']:,} entries in {len(about['tensors'])} tensors",
    ]
    lines.append(f"  hash        {about['hash']}")
    if about["kind"] == "curvature":
        lines += _run_lines(about)
    lines += [f"  note        {note}" for note in about["notes"]]
    width = max(len(tensor["name"]) for tensor in about["tensors"])
    for tensor in about["tensors"]:
        shape = "×".join(map(str, tensor["shape"])) or "scalar"
        lines.append(f"    {tensor['name']:<{width}}  {shape}  {tensor['dtype']}")
    return lines


def _run_lines(about: dict[str, Any]) -> list[str]:
    lines = [f"  run         {about['run']}, {about['status']} (format {about['format']})"]
    lines.append(f"  trained     {about['epoch']} epochs, {about['step']:,} steps")
    if about["config"]:
        settings = [f"{k}={_value(v)}" for k, v in about["config"].items() if v not in (None, ())]
        lines.append(f"  config      {' '.join(settings)}")
    metrics = [f"{k}={_value(v)}" for k, v in about["metrics"].items() if not isinstance(v, dict)]
    lines.append(f"  metrics     {' '.join(metrics)}")
    if about["optimizer"]:
        kept = [f"{k} ({n:,})" for k, n in about["optimizer"]["state"].items()]
        lines.append(f"  optimizer   keeps {', '.join(kept) or 'nothing'}")
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return [*lines, f"  written by  {versions}"]


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _bytes(path: Path) -> int:
    """Of a folder, its weights' alone."""
    files = path.glob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
