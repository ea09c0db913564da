"""Small networks for small inputs: a multilayer perceptron and a two-layer convolutional net."""

import math
from collections import OrderedDict
from typing import Literal

from torch import nn

from curvature.models.checks import at_least, image_shape
from curvature.models.initialization import he_normal

Activation = Literal["relu", "tanh", "gelu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    hidden: int = 64,
    depth: int = 2,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Multilayer perceptron of `depth` hidden layers (0: softmax regression); inputs flattened."""
    at_least(1, hidden=hidden)
    at_least(0, depth=depth)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(input_shape)
    for i in range(1, depth + 1):
        layers[f"hidden{i}"] = nn.Linear(width, hidden)
        layers[f"act{i}"] = _activation(activation)
        width = hidden
    layers["output"] = nn.Linear(width, classes)
    return _initialized(layers, activation)


def cnn(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 16,
    activation: Activation = "relu",
) -> nn.Sequential:
    """Two 3×3 convolutions, the second with stride 2, and a linear layer; without pooling.

    No pooling, so that it is smooth wherever its activation is.
    """
    at_least(1, width=width)
    channels, *sides = image_shape(input_shape, "`cnn`")
    pixels = math.prod((side + 1) // 2 for side in sides)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, width, 3, padding=1),
        act1=_activation(activation),
        conv2=nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        act2=_activation(activation),
        flatten=nn.Flatten(),
        output=nn.Linear(2 * width * pixels, classes),
    )
    return _initialized(layers, activation)


def _activation(name: str) -> nn.Module:
    if name not in _ACTIVATIONS:
        raise ValueError(f"`activation` is one of {', '.join(_ACTIVATIONS)}, not `{name}`.")
    return _ACTIVATIONS[name]()


def _initialized(layers: "OrderedDict[str, nn.Module]", activation: Activation) -> nn.Sequential:
    model = nn.Sequential(layers)
    he_normal(model, nonlinearity="tanh" if activation == "tanh" else "relu")
    return model
