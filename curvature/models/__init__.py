"""The networks that can be named, and how one is built."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from curvature import names
from curvature.models.checks import at_least
from curvature.models.huggingface import huggingface, usual_loss
from curvature.models.mlp import cnn, mlp
from curvature.models.resnet import resnet20, resnet32, resnet56
from curvature.models.vgg import vgg11, vgg16, vgg19
from curvature.models.vit import vit_small, vit_study

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
    "hf": huggingface,
    "mlp": mlp,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet56": resnet56,
    "vgg11": vgg11,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vit_small": vit_small,
    "vit_study": vit_study,
}


def fitting(spec_text: str, weights: Iterable[str]) -> str:
    """The spec with what the names of the ``weights`` tell of a ResNet's shortcuts.

    Both kinds are in use under one name: convolutions (B) are named in the weights, padding (A)
    is not.
    """
    spec = names.parse(spec_text, MODELS)
    convolutions = any(".downsample." in name or ".shortcut." in name for name in weights)
    if not spec.name.startswith("resnet") or "shortcut" in spec.options or not convolutions:
        return spec_text
    return str(replace(spec, options={**spec.options, "shortcut": "B"}))


def build(
    spec_text: str,
    *,
    input_shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Build ``NAME[:key=value,…]`` or ``module:factory[,key=value…]`` for these data.

    The weights are drawn by ``generator`` and the global random state is left as it was; without
    one they are drawn by torch's global generator. A factory gets `input_shape` and `classes`
    only where it has parameters of these names; where the data don't tell, they can be typed:
    ``resnet20:input_shape=3x32x32,classes=10``.
    """
    spec = names.parse(spec_text, MODELS)
    factory = names.resolve(spec.name, MODELS, "model")
    if isinstance(factory, nn.Module):
        raise TypeError(
            f"`{spec.name}` is a {type(factory).__name__} itself; name a function or a class that "
            "makes one."
        )
    place = _place(factory, spec)
    known = {"input_shape": input_shape, "classes": classes, "path": place}
    keywords = _keywords(factory, spec, known)
    with names.named(factory, f"model `{spec.name}`"):
        model = _seeded(lambda: factory(**keywords), generator)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{spec.name}` gave a {type(model).__name__}, not a torch.nn.Module.")
    return model


def loss_of(spec_text: str) -> str | None:
    """The loss that a model's kind is trained with, where that is known."""
    spec = names.parse(spec_text, MODELS)
    return usual_loss(spec.directory) if spec.name == "hf" and spec.directory else None


def _place(factory: Callable[..., nn.Module], spec: names.Spec) -> str | None:
    """The directory in the name, for the one kind of model that is read from one."""
    takes = spec.name in MODELS and "path" in inspect.signature(factory).parameters
    if spec.directory is not None and not takes:
        raise ValueError(
            f"`{spec.directory}` in `{spec}` is not an option; a model's are key=value."
        )
    if takes and spec.directory is None:
        raise ValueError(f"The model `{spec.name}` needs its folder: write {spec.name}:DIR.")
    return spec.directory


def _keywords(
    factory: Callable[..., nn.Module], spec: names.Spec, data: Mapping[str, Any]
) -> dict[str, Any]:
    """The typed-in options and, of what the data tell, what the factory has parameters for."""
    options: dict[str, Any] = dict(spec.options)
    known = {name: value for name, value in data.items() if value is not None}
    if spec.name in MODELS:
        for name in sorted(known.keys() & options.keys()):
            raise ValueError(f"`{name}` of `{spec.name}` comes from the data; leave it out.")
        if "input_shape" in options:
            options["input_shape"] = _shape(options["input_shape"])
    keywords = names.arguments(factory, options, f"model `{spec.name}`", **known)
    if spec.name in MODELS:
        _check(**keywords)
    try:
        inspect.signature(factory).bind(**keywords)
    except TypeError as error:
        example = names.Spec(spec.name, None, {**spec.options, "key": "value"})
        raise ValueError(
            f"The model `{spec.name}` can't be called: {error}; give it as an option, `{example}`."
        ) from error
    return keywords


def _shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(x\d+)*", text):
        raise ValueError(f"`input_shape` is written like 3x32x32, not `{text}`.")
    return tuple(int(side) for side in text.split("x"))


def _check(*, input_shape: tuple[int, ...] = (1,), classes: int = 1, **_: Any) -> None:
    at_least(1, classes=classes)
    if not input_shape or min(input_shape) < 1:
        raise ValueError(f"`input_shape` must have sides of at least 1, got {tuple(input_shape)}.")


def _seeded(make: Callable[[], nn.Module], generator: torch.Generator | None) -> nn.Module:
    """Run ``make`` with torch's CPU generator seeded by ``generator``, and put it back after."""
    if generator is None:
        return make()
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs too
        return make()
