"""From a spec to a model: options, errors, randomness, strangers' factories."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from curvature.models import MODELS, build
from tests.conftest import seeded
from tests.models.cases import count


def built(spec: str, shape: tuple[int, ...] = (3, 32, 32), classes: int = 10) -> nn.Module:
    return build(spec, input_shape=shape, classes=classes, generator=seeded(0))


@pytest.mark.parametrize(
    ("spec", "layers"),
    [
        ("mlp:hidden=9,depth=1,activation=tanh", {"Linear": 2, "Tanh": 1}),
        ("mlp:depth=0", {"Linear": 1, "ReLU": 0}),
        ("cnn:activation=gelu", {"GELU": 2, "ReLU": 0}),
        ("vgg19:width=0.1", {"Conv2d": 16, "BatchNorm2d": 16, "Linear": 1, "MaxPool2d": 5}),
        ("vgg19:width=0.1,batchnorm=false", {"Conv2d": 16, "BatchNorm2d": 0}),
        ("vgg16:width=0.1", {"Conv2d": 13}),
        ("vgg11:width=0.1", {"Conv2d": 8}),
        ("resnet20:width=4", {"Conv2d": 19, "Linear": 1}),
        ("resnet20:width=4,shortcut=B", {"Conv2d": 21}),
        ("vit_small:width=96,depth=4,heads=3", {"LayerNorm": 9, "Linear": 17, "Conv2d": 1}),
    ],
)
def test_options_make_the_layers(spec: str, layers: dict[str, int]) -> None:
    kinds = [type(module).__name__ for module in built(spec).modules()]
    assert {kind: kinds.count(kind) for kind in layers} == layers


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("vgg9", (3, 32, 32), "There is no model `vgg9`"),
        ("vgg19_bn", (3, 32, 32), "Did you mean `vgg19`"),
        ("vgg19:depth=3", (3, 32, 32), "The model `vgg19` has no option `depth`"),
        ("vgg19:width", (3, 32, 32), "`width` in `vgg19:width` is not an option"),
        ("vgg19:width=0", (3, 32, 32), "`width` = 0 leaves a layer of 64 without channels"),
        ("vgg19:width=nan", (3, 32, 32), "`width` = nan"),
        ("vgg19:width=inf", (3, 32, 32), "`width` = inf"),
        ("vgg19:width=-1", (3, 32, 32), "`width` = -1"),
        ("vgg19:batchnorm=maybe", (3, 32, 32), "is true or false"),
        ("vgg19", (1, 8, 8), "at least 32×32, but here they are 8×8"),
        ("resnet20:width=0", (3, 32, 32), "`width` must be at least 1, got 0"),
        ("resnet20:width=0.5", (3, 32, 32), "is a whole number"),
        ("resnet20:shortcut=C", (3, 32, 32), "is one of A, B, not `C`"),
        ("resnet20", (64,), r"`mlp` takes any shape"),
        ("vit_small:heads=7", (3, 32, 32), "`heads` = 7 doesn't divide `width` = 384"),
        ("vit_small:heads=0", (3, 32, 32), "`heads` must be at least 1"),
        ("vit_small:patch=5", (3, 32, 32), "`patch` = 5 doesn't divide .* 32×32"),
        ("vit_study:depth=0", (3, 32, 32), "`depth` must be at least 1"),
        ("vit_study", (3, 9, 8), "`patch` = 4 doesn't divide .* 9×8"),
        ("mlp:hidden=0", (8,), "`hidden` must be at least 1"),
        ("mlp:depth=-1", (8,), "`depth` must be at least 0"),
        ("mlp:activation=swish", (8,), "is one of relu, tanh, gelu"),
        ("cnn:width=-3", (1, 8, 8), "`width` must be at least 1"),
        ("cnn", (8, 8), r"takes images \(channels, height, width\)"),
        ("mlp:classes=2", (8,), "`classes` of `mlp` comes from the data"),
        ("vgg19:input_shape=3", (3, 32, 32), "`input_shape` of `vgg19` comes from the data"),
        ("mlp", (), "`input_shape` must have sides"),
        ("mlp", (3, 0), "`input_shape` must have sides"),
    ],
)
def test_a_bad_spec_is_refused_in_one_line(spec: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        built(spec, shape)
    assert "\n" not in str(caught.value)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="`classes` must be at least 1"):
        built("mlp", classes=0)


def test_what_the_data_do_not_tell_can_be_typed() -> None:
    model = build("resnet20:input_shape=1x8x6,classes=3,width=2")
    assert model(torch.zeros(2, 1, 8, 6)).shape == (2, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet20", "missing a required argument: 'input_shape'; .* `resnet20:key=value`"),
        ("mlp:hidden=3,input_shape=8", "argument: 'classes'; .*`mlp:hidden=3,input_shape=8,key="),
        ("mlp:input_shape=(8),classes=2", r"`input_shape` is written like 3x32x32, not `\(8\)`"),
        ("mlp:input_shape=3x0,classes=2", "`input_shape` must have sides"),
        ("mlp:input_shape=8,classes=0", "`classes` must be at least 1"),
        ("mlp:input_shape=8,classes=two", "is a whole number, not `two`"),
    ],
)
def test_what_is_told_by_nobody_or_wrongly_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_typing_error_in_python_is_refused_too(shortcut: str) -> None:
    with pytest.raises(ValueError, match="`shortcut` is A or B"):
        MODELS["resnet20"](input_shape=(3, 8, 8), classes=2, shortcut=shortcut.lower())
    with pytest.raises(ValueError, match="`activation` is one of"):
        MODELS["mlp"](input_shape=(3,), classes=2, activation="elu")


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    built("mlp", (8,))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_generator_draws_different_models_in_turn() -> None:
    generator = seeded(0)
    first, second = (
        build("mlp", input_shape=(8,), classes=2, generator=generator) for _ in range(2)
    )
    assert not torch.equal(first.output.weight, second.output.weight)


def test_without_a_generator_the_global_one_draws() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(0)
        weights.append(build("mlp", input_shape=(8,), classes=2).output.weight)
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], build("mlp", input_shape=(8,), classes=2).output.weight)


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "stranger.py").write_text(
        "from torch import nn\n"
        "def plain(width: int = 3): return nn.Linear(4, width)\n"
        "def told(input_shape, classes): return nn.Linear(input_shape[0], classes)\n"
        "def needy(width: int): return nn.Linear(4, width)\n"
        "def wrong(): return 3\n"
        "made = nn.Linear(4, 3)\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, classes: int, bias: bool = True):\n"
        "        super().__init__(4, classes, bias)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return "stranger"


@pytest.mark.parametrize(
    ("spec", "parameters"),
    [
        ("plain", 15),
        ("plain,width=5", 25),
        ("told", 35),
        ("told,classes=2", 10),
        ("needy,width=1", 5),
        ("Net,bias=false", 28),
    ],
)
def test_a_stranger_gets_what_it_has_parameters_for(
    stranger: str, spec: str, parameters: int
) -> None:
    models = [built(f"{stranger}:{spec}", (4,), classes=7) for _ in range(2)]
    assert count(models[0]) == parameters
    assert torch.equal(models[0].weight, models[1].weight)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("needy", ValueError, "missing a required argument: 'width'; .*stranger:needy,key=value"),
        ("plain,depth=3", ValueError, "has no option `depth`"),
        ("absent", ValueError, "can't be imported"),
        ("wrong", TypeError, "gave a int, not a torch.nn.Module"),
        ("made", TypeError, "`.*:made` is a Linear itself; name a function or a class"),
    ],
)
def test_a_strangers_mistake_is_named(
    stranger: str, spec: str, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        built(f"{stranger}:{spec}")
