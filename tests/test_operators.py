"""H, G and H − G of every model in the table, against oracles that trust no second derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from curvature.empirical_risk import EmpiricalRisk
from curvature.measures.trace import trace
from curvature.operators import functional_hessian, ggn, hessian
from tests.conftest import seeded
from tests.corpus.architectures import ARCHITECTURES
from tests.corpus.case import VECTORS, Case, Y, f64, mean_cross_entropy, uneven
from tests.corpus.layouts import LAYOUTS, STRUCTURED, WHOLE, Logits, of_a_tuple
from tests.corpus.losses import LOSSES, OMEGA
from tests.corpus.modules import SquareInFloat32, mlp, with_function, wrap
from tests.corpus.refusals import REFUSALS
from tests.oracles import ggn_by_differences, hessian_by_differences

SPLIT = [*ARCHITECTURES, *LOSSES, *LAYOUTS, *STRUCTURED]
CASES = [*SPLIT, *WHOLE]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.name)


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def risk_of(case: Case, **options: Any) -> EmpiricalRisk:
    return EmpiricalRisk(case.build(), case.loss, case.data, **case.options | options)


def probes(risk: EmpiricalRisk, k: int = 3) -> Tensor:
    return torch.randn(risk.size, k, generator=seeded(3), dtype=f64)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-10))


def flat(predictions: Any) -> Tensor:
    tensors = [t for t in tree_leaves(predictions) if t.is_floating_point()]
    return torch.cat([t.reshape(-1) for t in tensors])


def shaped(f: Tensor, like: Any) -> Any:
    """The flat vector as outputs again."""
    entries = iter(f.split([t.numel() for t in tree_leaves(like) if t.is_floating_point()]))
    return tree_map(lambda t: next(entries).view_as(t) if t.is_floating_point() else t, like)


@each(CASES)
def test_hessian_agrees_with_differences_of_the_gradient(case: Case) -> None:
    risk = risk_of(case)
    V = probes(risk)
    HV = hessian(risk) @ V
    assert case.reference is not None
    model = risk.model.eval()
    expected = hessian_by_differences(lambda: case.reference(model), risk.leaves, V)
    assert error(HV, expected) < 1e-8
    assert risk.value == pytest.approx(float(case.reference(model).detach()), rel=1e-10, abs=1e-12)


@each(SPLIT)
def test_ggn_agrees_with_differences_and_the_rest_adds_up(case: Case) -> None:
    risk = risk_of(case)
    V = probes(risk, 2)
    GV, HV, RV = (operator(risk) @ V for operator in (ggn, hessian, functional_hessian))
    expected = torch.zeros_like(GV)
    with risk.evaluating():
        for part in risk.all_parts():
            expected += risk.scale * ggn_by_differences(
                lambda part=part: flat(risk.predictions(part)),
                lambda f, part=part: risk.loss.sum(shaped(f, risk.predictions(part)), part[1]),
                risk.leaves,
                V,
            )
    assert error(GV, expected) < 1e-5
    assert error(GV + RV, HV) < 1e-10


@each(SPLIT)
def test_micro_batches_and_float32_change_nothing_beyond_rounding(case: Case) -> None:
    risk = risk_of(case)
    v = probes(risk, 1)[:, 0]
    Hv = hessian(risk) @ v
    if case.name != "time before examples":
        assert error(hessian(risk_of(case, micro_batch=2)) @ v, Hv) < 1e-10
    if case.name != "several dtypes":
        model = case.build().float()
        H = hessian(model, case.loss, case.data, **case.options)
        assert H.dtype == torch.float32
        assert error((H @ v.float()).double(), Hv) < 1e-4


@each(REFUSALS)
def test_what_would_be_wrong_is_refused(case: Case) -> None:
    state = torch.manual_seed(0).get_state()
    with pytest.raises(
        (ValueError, TypeError, RuntimeError, FloatingPointError), match=case.refused
    ) as refusal:
        hessian(case.build(), case.loss, case.data, **case.options)
    assert "\n" not in str(refusal.value)
    assert torch.equal(torch.get_rng_state(), state)


def dense(operator: Any) -> Tensor:
    matrix: Tensor = operator @ torch.eye(operator.size, dtype=operator.dtype)
    return matrix


def test_batch_norm_in_training_mode_is_right_in_a_single_batch_and_restored() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    before = {name: b.clone() for name, b in model.named_buffers()}
    risk = EmpiricalRisk(model, "cross_entropy", [(VECTORS, Y)], mode="train")
    V = probes(risk)
    HV = hessian(risk) @ V
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    model.train()
    value = mean_cross_entropy(VECTORS, Y)
    expected = hessian_by_differences(lambda: value(model), risk.leaves, V)
    assert error(HV, expected) < 1e-8


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_the_hessian_scales_with_the_loss(scale: float) -> None:
    data = uneven(VECTORS, Y)
    H = hessian(mlp_of_zero(), "cross_entropy", data)
    v = torch.randn(H.size, generator=seeded(0), dtype=f64)
    scaled = hessian(
        mlp_of_zero().float(), lambda f, y: scale * F.cross_entropy(f, y, reduction="none"), data
    )
    assert error((scaled @ v.float()).double() / scale, H @ v) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_analysed_in_float32_on_a_copy(dtype: torch.dtype) -> None:
    model = mlp()().to(dtype)
    H = hessian(model, "cross_entropy", uneven(VECTORS, Y))
    name = str(dtype).removeprefix("torch.")
    assert H.risk.notes == (f"{name} weights are analysed in float32",)
    wide = hessian(mlp_like(model), "cross_entropy", uneven(VECTORS, Y))
    torch.testing.assert_close(dense(H), dense(wide))
    assert {p.dtype for p in model.parameters()} == {dtype}


def mlp_like(model: nn.Module) -> nn.Module:
    twin = mlp()()
    twin.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    return twin


@pytest.mark.parametrize(
    "compiled",
    [
        lambda model: torch.compile(model, backend="aot_eager"),
        lambda model: nn.Sequential(*model[:2], torch.compile(model[2], backend="aot_eager")),
        lambda model: (model.compile(backend="aot_eager"), model)[1],
    ],
    ids=["wrapped", "in parts", "in place"],
)
@pytest.mark.filterwarnings("ignore")  # those of the compiler
def test_compiled_models_are_run_plainly(compiled: Callable[[nn.Module], nn.Module]) -> None:
    expected = dense(hessian(mlp_of_zero(), "cross_entropy", uneven(VECTORS, Y)))
    torch._dynamo.reset()  # after many recompilations it would run plainly by itself
    model = compiled(mlp_of_zero())
    model(VECTORS)  # compiles it
    torch.testing.assert_close(dense(hessian(model, "cross_entropy", uneven(VECTORS, Y))), expected)


def mlp_of_zero() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return mlp()().double()


def test_inference_mode_around_it_changes_nothing() -> None:
    H = hessian(mlp_of_zero(), "cross_entropy", uneven(VECTORS, Y))
    expected = dense(H)
    model = mlp_of_zero()
    with torch.inference_mode():
        inside = hessian(model, "cross_entropy", [(x + 0, y) for x, y in H.risk.batches])
        torch.testing.assert_close(dense(inside).clone(), expected.clone())


def test_the_older_weight_norm_is_right_and_can_be_copied() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 3)))
    model(VECTORS.float())
    risk = EmpiricalRisk(model, "cross_entropy", uneven(VECTORS, Y), dtype=f64)
    V = probes(risk)
    HV = hessian(risk) @ V
    value = mean_cross_entropy(VECTORS, Y)
    expected = hessian_by_differences(lambda: value(risk.model), risk.leaves, V)
    assert error(HV, expected) < 1e-8


def test_a_custom_function_that_cannot_be_checked_is_noted() -> None:
    model = with_function(SquareInFloat32)()
    H = hessian(model, "cross_entropy", uneven(VECTORS, Y))
    assert "SquareInFloat32 not checked by differences in float64" in H.risk.notes[0]


def test_ggn_of_a_whole_loss_is_refused_by_name() -> None:
    case = named("loss of model and batch")
    with pytest.raises(ValueError, match="`ggn` needs the outputs and targets apart"):
        ggn(case.build(), case.loss, case.data)


def test_ggn_of_a_loss_that_sees_more_than_tensors_is_refused() -> None:
    """As of keys and values in a cache: what the loss takes from there, G would leave out."""
    case = named("a tuple of outputs")
    hiding = wrap(lambda m, x: (m.net(x), Logits(m.net[0](x))), net=mlp())
    whole = Case("", hiding, lambda f, y: of_a_tuple((f[0], f[1].logits), y), case.data)
    torch.testing.assert_close(dense(hessian(risk_of(whole))), dense(hessian(risk_of(case))))
    with pytest.raises(ValueError, match="`ggn` isn't known"):
        ggn(risk_of(whole))


def test_the_trace_of_a_loss_of_several_outputs_is_had_by_probes() -> None:
    H = hessian(risk_of(named("two heads in a mapping, targets in a tuple")))
    found = trace(H, rtol=0.3)
    assert found.method == "hutchinson"
    assert abs(found.value - float(dense(H).trace())) < 4 * found.standard_error
    with pytest.raises(ValueError, match="no root"):
        trace(H, method="split")
    R = functional_hessian(H.risk)
    rest = trace(R, max_passes=50)
    assert abs(rest.value - float(dense(R).trace())) < 5 * rest.standard_error


def test_a_risk_takes_no_second_loss() -> None:
    risk = risk_of(LOSSES[0])
    with pytest.raises(TypeError, match="already has its loss"):
        hessian(risk, "mse")
    with pytest.raises(TypeError, match="`loss` and `data`"):
        hessian(mlp()())


def test_ggn_is_positive_semidefinite_though_the_hessian_is_not() -> None:
    risk = risk_of(LOSSES[0])
    assert torch.linalg.eigvalsh(dense(hessian(risk)))[0] < -1e-3
    assert torch.linalg.eigvalsh(dense(ggn(risk)))[0] > -1e-12


def test_class_weights_weigh_the_batches() -> None:
    """A batch of rare, heavy classes counts by its weight, not by its examples."""
    data = [(VECTORS[:6], torch.zeros(6, dtype=torch.long)), (VECTORS[6:], torch.tensor([2]))]
    risk = EmpiricalRisk(mlp_of_zero(), nn.CrossEntropyLoss(OMEGA), data)
    assert risk.survey.weight == pytest.approx(6 * 0.5 + 3.0)
    assert risk.survey.examples == 7


def test_rounding_in_a_nearly_dead_network_is_no_asymmetry() -> None:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        for p in net.parameters():
            p *= 12.0
        inputs = torch.randn(8, 6)
        targets = net(inputs).argmax(1)  # all right and sure: H is tiny, its float32 product noise
    assert hessian(net, "cross_entropy", (inputs, targets)).size == 452
