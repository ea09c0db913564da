"""Normal initialisation by fan-in (He et al. 2015, "Delving deep into rectifiers")."""

from typing import Literal

from torch import nn


def he_normal(model: nn.Module, *, nonlinearity: Literal["relu", "tanh"] = "relu") -> None:
    """Draw W ~ N(0, gain² / fan-in) for every convolution and linear layer; zero their biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity=nonlinearity)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
