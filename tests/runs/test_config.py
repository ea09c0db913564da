"""Configs: what they refuse, that their ids are stable, that JSON brings them back."""

import contextlib
import dataclasses
import json
import re
from typing import Any

import numpy as np
import pytest

from curvature.linalg.hutchinson import MIN_PASSES
from curvature.runs.config import AnalysisConfig, RunConfig, _Hashed
from curvature.runs.fields import option

nan, inf = float("nan"), float("inf")
THEIRS: dict[str, Any] = {"backend": "pyhessian"}


@dataclasses.dataclass(frozen=True)
class Small(_Hashed):
    _specs = ("data",)

    data: str = option("digits", "")
    lr: float = option(0.1, "")
    threads: int = option(1, "", in_id=False)


def test_ids_are_stable() -> None:
    """Another id for the same config orphans everybody's runs: raise FORMAT if it has to be."""
    assert Small().id == "13bcee3ebdc0"
    assert Small(data="cifar10:/d", lr=0.5, threads=8).id == "af1cd07c982f"


@pytest.mark.parametrize(
    ("config", "same"),
    [
        (RunConfig(data="cifar10:/a"), RunConfig(data="cifar10:/b")),
        (RunConfig(data="cifar10:/a,b=1,a=2"), RunConfig(data="cifar10,a=2,b=1")),
        (RunConfig(lr=1), RunConfig(lr=1.0)),
        (RunConfig(lr=np.float64(0.1)), RunConfig(lr=0.1)),
        (RunConfig(weight_decay=-0.0), RunConfig(weight_decay=0.0)),
        (RunConfig(seed=np.int64(3)), RunConfig(seed=3)),
        (RunConfig(optimizer_options=("a=1", "b=2")), RunConfig(optimizer_options=("b=2", "a=1"))),
        (AnalysisConfig(data="cifar10c:/a"), AnalysisConfig(data="cifar10c:/b")),
        (AnalysisConfig(device="cuda:1", micro_batch=4), AnalysisConfig()),
        (AnalysisConfig(params=("a*", "b*")), AnalysisConfig(params=("b*", "a*"))),
    ],
)
def test_what_does_not_change_the_result_is_not_in_the_id(config: Any, same: Any) -> None:
    assert config.id == same.id


@pytest.mark.parametrize("config", [RunConfig(), AnalysisConfig()], ids=lambda c: type(c).__name__)
def test_every_other_field_changes_the_id(config: Any) -> None:
    for field in dataclasses.fields(config):
        changed = with_another_value(config, field)
        assert (changed.id != config.id) == field.metadata["in_id"], field.name


def with_another_value(config: Any, field: Any) -> Any:
    for value in ("other", "cpu", "4GB", *field.metadata["choices"], 9, 0.5, True, ("k=v",)):
        with contextlib.suppress(TypeError, ValueError):
            changed = dataclasses.replace(config, **{field.name: value})
            if changed != config:
                return changed
    raise AssertionError(f"found no other value for `{field.name}`")


def test_own_data_of_another_name_is_another_run() -> None:
    assert RunConfig(data="npz:/a/moons.npz").id == RunConfig(data="npz:/b/moons.npz").id
    assert RunConfig(data="npz:/a/moons.npz").id != RunConfig(data="npz:/a/suns.npz").id


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(),
        RunConfig("vgg19:width=0.25", "cifar10:/data", rho=0.05, optimizer_options=("growth=1",)),
        AnalysisConfig(),
        AnalysisConfig(params=("conv*", "fc.*"), examples=2048, data="cifar10c:/d"),
    ],
)
def test_json_brings_a_config_back(config: Any) -> None:
    back = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert back.id == config.id


def test_an_older_file_without_a_field_has_its_default() -> None:
    assert RunConfig.from_dict({"lr": 0.5}) == RunConfig(lr=0.5)


def test_fields_from_the_future_are_named() -> None:
    with pytest.raises(ValueError, match="RunConfig has no field 'speed', 'warp'"):
        RunConfig.from_dict({"warp": 1, "speed": 2})


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (RunConfig, {"lr": 0}, "`lr` must be above 0, got 0.0."),
        (RunConfig, {"lr": -0.1}, "`lr` must be above 0, got -0.1."),
        (RunConfig, {"lr": nan}, "`lr` must be finite, got nan."),
        (RunConfig, {"lr": inf}, "`lr` must be finite, got inf."),
        (RunConfig, {"weight_decay": -1e-4}, "`weight_decay` must be at least 0, got -0.0001."),
        (RunConfig, {"weight_decay": nan}, "`weight_decay` must be finite"),
        (RunConfig, {"rho": -1}, "`rho` must be at least 0"),
        (RunConfig, {"rho": nan}, "`rho` must be finite"),
        (RunConfig, {"epochs": -1}, "`epochs` must be at least 0, got -1."),
        (RunConfig, {"steps": -1}, "`steps` must be at least 0"),
        (RunConfig, {"batch_size": 0}, "`batch_size` must be at least 1"),
        (RunConfig, {"warmup_epochs": -1}, "`warmup_epochs` must be at least 0"),
        (RunConfig, {"label_smoothing": 1}, "`label_smoothing` must be below 1, got 1.0."),
        (RunConfig, {"clip_norm": 0}, "`clip_norm` must be above 0"),
        (RunConfig, {"schedule": "step"}, "`schedule` is one of constant, cosine, not `step`."),
        (RunConfig, {"precision": "fp8"}, "`precision` is one of float32, bfloat16, not `fp8`."),
        (RunConfig, {"sa_variant": "mine"}, "`sa_variant` is one of poster, released"),
        (RunConfig, {"seed": -1}, "`seed` must be at least 0"),
        (RunConfig, {"seed": 2**63}, "`seed` must be below"),
        (RunConfig, {"model": ""}, "`model` is empty."),
        (RunConfig, {"optimizer": " "}, "`optimizer` is empty."),
        (RunConfig, {"model": "vgg19,small"}, "`small` in `vgg19,small` is not an option"),
        (RunConfig, {"data": "cifar10:/d,a=1,a=2"}, "`a` stands twice"),
        (RunConfig, {"optimizer_options": ("growth",)}, "`growth` is not an option"),
        (RunConfig, {"optimizer_options": ("a=1", "a=2")}, "`a` is given twice"),
        (RunConfig, {"optimizer_options": ("",)}, "`optimizer_options` has an empty entry."),
        (AnalysisConfig, {"trace_rtol": 0}, "`trace_rtol` must be above 0"),
        (AnalysisConfig, {"eigmax_rtol": -1}, "`eigmax_rtol` must be above 0"),
        (AnalysisConfig, {"max_products": 0}, "`max_products` must be at least 1"),
        (AnalysisConfig, {"top": 0}, "`top` must be at least 1, got 0."),
        (AnalysisConfig, {"batch_size": 0}, "`batch_size` must be at least 1"),
        (AnalysisConfig, {"micro_batch": 0}, "`micro_batch` must be at least 1"),
        (AnalysisConfig, {"examples": 0}, "`examples` must be at least 1"),
        (AnalysisConfig, {"first": 0}, "`first` must be at least 1"),
        (AnalysisConfig, {"examples": 2, "first": 2}, "`examples` and `first` both choose"),
        (AnalysisConfig, {"split": "dev"}, "`split` is one of train, val, test, not `dev`."),
        (AnalysisConfig, {"dtype": "float16"}, "`dtype` is one of float32, float64"),
        (AnalysisConfig, {"backend": "jax"}, "`backend` is one of curvature, pyhessian"),
        (AnalysisConfig, {"trace_method": "newton"}, "`trace_method` is one of auto, split"),
        (
            AnalysisConfig,
            {"eigmax_method": "qr"},
            "`eigmax_method` is one of lanczos, staged, power",
        ),
        (AnalysisConfig, {"device": "gpu"}, "`device` is auto, cpu, cuda, cuda:N or mps"),
        (AnalysisConfig, {"device": "cuda:x"}, "`device` is auto"),
        (AnalysisConfig, {"params": ("",)}, "`params` has an empty entry."),
        (AnalysisConfig, {"max_passes": MIN_PASSES - 1}, f"must be at least {MIN_PASSES}"),
        (AnalysisConfig, {"top": 9, "max_products": 8}, "`top` 9 takes more products"),
        (AnalysisConfig, {"top": 2, "eigmax_method": "power"}, "Power iteration finds one"),
        (AnalysisConfig, THEIRS | {"top": 2}, "PyHessian takes no `--top`"),
        (AnalysisConfig, THEIRS | {"eigmin": True}, "PyHessian takes no `--eigmin`"),
        (AnalysisConfig, THEIRS | {"with_weight_decay": True}, "takes no `--with-weight-decay`"),
        (AnalysisConfig, THEIRS | {"trace_method": "exact"}, "takes no `--trace-method exact`"),
    ],
)
def test_nonsense_is_refused_in_one_line(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        kind(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (RunConfig, {"lr": "0.1"}),
        (RunConfig, {"lr": None}),
        (RunConfig, {"lr": True}),
        (RunConfig, {"epochs": 2.5}),
        (RunConfig, {"seed": False}),
        (RunConfig, {"model": None}),
        (RunConfig, {"model": 3}),
        (RunConfig, {"optimizer_options": "a=1"}),
        (RunConfig, {"optimizer_options": (1,)}),
        (AnalysisConfig, {"trace": 1}),
        (AnalysisConfig, {"params": "conv*"}),
    ],
)
def test_another_kind_is_a_type_error_and_in_a_file_a_value_error(
    kind: Any, values: dict[str, Any]
) -> None:
    (name,) = values
    with pytest.raises(TypeError, match=f"`{name}` is"):
        kind(**values)
    with pytest.raises(ValueError, match=f"`{name}` is"):
        kind.from_dict(values)


@pytest.mark.parametrize(
    ("text", "size"), [("4GB", 4e9), ("1.5 mb", 1.5e6), ("500k", 5e5), ("0", 0.0), (None, None)]
)
def test_memory_is_a_size_and_in_no_id(text: str | None, size: float | None) -> None:
    config = AnalysisConfig(memory=text)
    assert config.memory_bytes == size
    assert config.id == AnalysisConfig().id


@pytest.mark.parametrize("text", ["much", "4 XB", "-1GB", "GB", "4GBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="500MB or 4GB"):
        AnalysisConfig(memory=text)
