"""From a name and typed-in options to an optimizer."""

from typing import Any

import pytest
import torch
from torch import nn

from curvature.optimizers import OPTIMIZERS, SAM, SASAM, SASGD, SGD, Adam, Based, build, closure
from tests.optimizers.networks import batch, network


def weights() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2))]


def test_the_six_of_the_study_have_names() -> None:
    kinds = {name: type(build(name, weights(), lr=0.1, weight_decay=0.0)) for name in OPTIMIZERS}
    assert kinds == {
        "sgd": SGD,
        "msgd": SGD,
        "adam": Adam,
        "sam": SAM,
        "sa-sgd": SASGD,
        "sa-sam": SASAM,
    }


def test_defaults_are_the_studys() -> None:
    assert build("sgd", weights(), lr=0.1).param_groups[0]["momentum"] == 0.0
    assert build("msgd", weights(), lr=0.1).param_groups[0]["momentum"] == 0.9
    sam = build("sam", weights(), lr=0.1, weight_decay=0.01).param_groups[0]
    assert (sam["rho"], sam["momentum"], sam["weight_decay"]) == (0.05, 0.9, 0.01)
    assert not build("adam", weights(), lr=0.1).param_groups[0]["decoupled_weight_decay"]


def test_options_are_typed_in_as_key_and_value() -> None:
    sam = build("sam", weights(), lr=0.1, rho=0.2, options=["adaptive=true", "base=adam"])
    assert isinstance(sam, SAM)
    assert isinstance(sam.base, torch.optim.Adam)
    assert (sam.param_groups[0]["rho"], sam.param_groups[0]["adaptive"]) == (0.2, True)
    adam = build("adam", weights(), lr=0.1, options=["beta1=0.8", "beta2=0.99"])
    assert adam.param_groups[0]["betas"] == (0.8, 0.99)
    sa_sgd = build("sa-sgd", weights(), lr=0.1, options=["growth=0.02", "theta0=1"])
    assert (sa_sgd.formula.growth, sa_sgd.formula.theta0, sa_sgd.formula.damping) == (0.02, 1, 2)


def test_anybodys_optimizer_is_built_and_wrapped() -> None:
    model = network()
    optimizer = build(
        "torch.optim:AdamW", model.parameters(), lr=0.01, weight_decay=0.1, clip_norm=1.0
    )
    assert isinstance(optimizer, Based)
    assert isinstance(optimizer.base, torch.optim.AdamW)
    optimizer.step(closure(model, nn.functional.cross_entropy, [batch()]))
    sam = build("sam", weights(), lr=0.1, options=["base=torch.optim:RMSprop", "momentum=0.5"])
    assert isinstance(sam.base, torch.optim.RMSprop)
    assert sam.param_groups[0]["momentum"] == 0.5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sgd", {"rho": 0.05}, "optimizer `sgd` has no option `rho`. It has params, lr"),
        ("sa-sam", {"rho": 0.05}, "optimizer `sa-sam` has no option `rho`"),
        ("sa-sgd", {"options": ["rho_lag=true"]}, "no option `rho_lag`"),
        ("sgd", {"options": ["momentum=0.9"]}, "no option `momentum`"),
        ("sam", {"options": ["adaptive=perhaps"]}, "true or false"),
        ("sam", {"options": ["base=sgdm"]}, "Did you mean `sgd`?"),
        ("sam", {"options": ["base=adam", "momentum=0.9"]}, "no option `momentum`"),
        ("sam", {"options": ["adaptive"]}, "not of the form key=value"),
        ("sam", {"options": ["lr=0.3"]}, "`lr` is not an option"),
        ("sam", {"options": ["rho=0.2"], "rho": 0.1}, "`rho` is given twice: 0.1, and"),
        ("sa-sgd", {"sa_variant": "paper"}, "poster or released, got 'paper'"),
        ("sasam", {}, "Did you mean `sa-sam`?"),
        ("torch.optim:Rprop", {"weight_decay": 0.1}, "has no weight decay"),
    ],
)
def test_what_an_optimizer_does_not_take_is_refused_with_what_it_has(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        build(name, weights(), lr=0.1, **settings)
    assert message in str(caught.value)
