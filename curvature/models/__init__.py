"""The networks that can be named, and how one is built."""

import inspect
from collections.abc import Callable

import torch
from torch import nn

from curvature import names
from curvature.models.checks import at_least
from curvature.models.mlp import cnn, mlp
from curvature.models.resnet import resnet20, resnet32, resnet56
from curvature.models.vgg import vgg11, vgg16, vgg19
from curvature.models.vit import vit_small, vit_study

MODELS: dict[str, Callable[..., nn.Module]] = {
    "cnn": cnn,
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
    only where it has parameters of these names, and the data tell them.
    """
    given = {"input_shape": input_shape, "classes": classes}
    if classes is not None:
        at_least(1, classes=classes)
    if input_shape is not None and (not input_shape or min(input_shape) < 1):
        raise ValueError(f"`input_shape` must have sides of at least 1, got {tuple(input_shape)}.")
    spec = names.parse(spec_text, MODELS)
    factory = names.resolve(spec.name, MODELS, "model")
    if spec.directory is not None:
        raise ValueError(
            f"`{spec.directory}` in `{spec_text}` is not an option; a model's are key=value."
        )
    keywords = names.arguments(
        factory,
        spec.options,
        f"model `{spec.name}`",
        **{name: value for name, value in given.items() if value is not None},
    )
    try:
        inspect.signature(factory).bind(**keywords)
    except TypeError as error:
        raise ValueError(
            f"The model `{spec.name}` can't be called: {error}; give it as an option, "
            f"`{spec.name},key=value`."
        ) from error
    model = _seeded(lambda: factory(**keywords), generator)
    if not isinstance(model, nn.Module):
        raise TypeError(f"`{spec.name}` gave a {type(model).__name__}, not a torch.nn.Module.")
    return model


def _seeded(make: Callable[[], nn.Module], generator: torch.Generator | None) -> nn.Module:
    """Run ``make`` with torch's CPU generator seeded by ``generator``, and put it back after."""
    if generator is None:
        return make()
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the GPUs too
        return make()
