"""The bundled losses against torch.nn and against Hessians formed by autograd.functional."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from curvature.losses import LOSSES, Loss, as_loss, examples_in, whole_loss
from tests.corpus.case import Y, randn
from tests.corpus.layouts import of_model_and_batch
from tests.corpus.losses import BITS, LIKELY, OMEGA, REAL

SOME_IGNORED = torch.where(Y == 1, -100, Y)
LOGITS = 3 * randn(7, 3, seed=20)


@dataclass(frozen=True)
class Twin:
    module: nn.Module
    targets: Tensor
    outputs: Tensor = LOGITS

    def __str__(self) -> str:
        return f"{self.module}, targets {tuple(self.targets.shape)} {self.targets.dtype}"


TWINS = [
    Twin(nn.CrossEntropyLoss(), Y),
    Twin(nn.CrossEntropyLoss(OMEGA), Y),
    Twin(nn.CrossEntropyLoss(OMEGA, label_smoothing=0.3), Y),
    Twin(nn.CrossEntropyLoss(OMEGA), SOME_IGNORED),
    Twin(nn.CrossEntropyLoss(label_smoothing=0.3), SOME_IGNORED),
    Twin(nn.CrossEntropyLoss(OMEGA, ignore_index=2), Y),
    Twin(nn.CrossEntropyLoss(), LIKELY),
    Twin(nn.CrossEntropyLoss(OMEGA, label_smoothing=0.3), LIKELY),
    Twin(nn.CrossEntropyLoss(reduction="sum"), Y),
    Twin(nn.CrossEntropyLoss(), Y, 40 * LOGITS),  # saturated
    Twin(nn.MSELoss(), REAL),
    Twin(nn.MSELoss(reduction="sum"), REAL),
    Twin(nn.MSELoss(), REAL[:, 0], LOGITS[:, 0]),
    Twin(nn.MSELoss(), REAL.view(7, 3, 1), LOGITS.view(7, 3, 1)),
    Twin(nn.BCEWithLogitsLoss(), BITS),
    Twin(nn.BCEWithLogitsLoss(pos_weight=OMEGA), BITS),
    Twin(nn.BCEWithLogitsLoss(), LIKELY[:, 0], LOGITS[:, 0]),
    Twin(nn.HuberLoss(delta=0.7), REAL),
    Twin(nn.HuberLoss(reduction="sum"), REAL),
    Twin(nn.NLLLoss(), SOME_IGNORED, LOGITS.log_softmax(1)),
    Twin(nn.NLLLoss(OMEGA), Y, LOGITS.log_softmax(1)),
]
each_twin = pytest.mark.parametrize("twin", TWINS, ids=str)
WITH_ROOT = pytest.mark.parametrize(
    "twin", [t for t in TWINS if not isinstance(t.module, nn.NLLLoss)], ids=str
)


@each_twin
def test_sum_over_weight_is_what_torch_gives(twin: Twin) -> None:
    loss = as_loss(twin.module)
    total = loss.sum(twin.outputs, twin.targets)
    divisor = loss.weight(twin.outputs, twin.targets) if loss.reduction == "mean" else 1
    torch.testing.assert_close(total / divisor, twin.module(twin.outputs, twin.targets))


@each_twin
def test_sum_and_weight_add_up_over_parts(twin: Twin) -> None:
    loss = as_loss(twin.module)
    for quantity in (loss.sum, loss.weight):
        whole = quantity(twin.outputs, twin.targets)
        parts = [
            quantity(f, y)
            for f, y in zip(twin.outputs.split(3), twin.targets.split(3), strict=True)
        ]
        torch.testing.assert_close(sum(parts), whole, check_dtype=False)


@WITH_ROOT
def test_the_root_squares_to_the_hessian(twin: Twin) -> None:
    loss = as_loss(twin.module)
    assert loss.hessian_root is not None
    S = loss.hessian_root(twin.outputs, twin.targets)
    expected = hessian_blocks(loss, twin)
    torch.testing.assert_close(S @ S.mT, expected, atol=1e-12, rtol=1e-9)


@each_twin
def test_the_gradient_agrees_with_autograd_functional(twin: Twin) -> None:
    loss = as_loss(twin.module)

    def value(f: Tensor) -> Tensor:
        return loss.sum(f, twin.targets)

    g = torch.autograd.functional.jacobian(value, twin.outputs)
    torch.testing.assert_close(loss.gradient(twin.outputs, twin.targets), g)


def hessian_blocks(loss: Loss, twin: Twin) -> Tensor:
    H = torch.autograd.functional.hessian(lambda f: loss.sum(f, twin.targets), twin.outputs)
    n = len(twin.outputs)
    H = H.reshape(n, twin.outputs[0].numel(), n, -1)
    return torch.stack([H[i, :, i] for i in range(n)])


def test_saturated_logits_keep_a_root_in_float32() -> None:
    """1 − Σp² is 0 in float32 from a margin of 17 on."""
    f = torch.tensor([[20.0, 0.0, 0.0]])
    S = LOSSES["cross_entropy"]().hessian_root(f, torch.tensor([0]))  # type: ignore[misc]
    q = torch.exp(torch.tensor(-20.0, dtype=torch.float64))
    trace = float((S.double() ** 2).sum())
    assert trace == pytest.approx(float(4 * q), rel=1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_saturated_logits_keep_their_slope_in_float32(loss: str) -> None:
    f = torch.tensor([[17.0, 0.5, -1.0], [-2.0, 16.0, 1.0]])
    y = torch.tensor([0, 1]) if loss == "cross_entropy" else (f > 15).float()
    if loss == "bce":
        f = torch.where(y > 0, f, -f.abs() - 15)
    found = LOSSES[loss]().gradient(f, y)
    exact = LOSSES[loss]().gradient(f.double(), y.double() if loss == "bce" else y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=0)
    assert LOSSES[loss]().sum(f, y).dtype == torch.float64
    image = torch.zeros(2, 3, 128, 128)
    labels = torch.zeros(2, 128, 128).long() if loss == "cross_entropy" else image
    assert LOSSES[loss]().sum(image, labels).dtype == torch.float32


@pytest.mark.parametrize("name", LOSSES)
def test_a_name_makes_a_loss(name: str) -> None:
    assert as_loss(name).name == name
    assert as_loss(name).additive
    assert as_loss(f"{name}:reduction=sum").reduction == "sum"


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, f: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(f, y, reduction="none")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (F.cross_entropy, "cross_entropy"),
        (F.huber_loss, "huber"),
        ("torch.nn.functional:mse_loss", "mse"),
        ("torch.nn:HuberLoss,delta=2.0", "huber"),
        (nn.L1Loss(), "L1Loss"),
        (nn.L1Loss(reduction="sum"), "L1Loss"),
        (nn.BCEWithLogitsLoss(weight=OMEGA), "BCEWithLogitsLoss"),
        (Unhashable(), "Unhashable"),
        (LOSSES["mse"](), "mse"),
    ],
)
def test_what_people_pass_becomes_a_loss(given: Any, name: str) -> None:
    assert as_loss(given).name == name


def test_a_sum_by_torch_stays_a_sum() -> None:
    assert as_loss(nn.L1Loss(reduction="sum")).reduction == "sum"
    assert as_loss(nn.L1Loss(reduction="none")).reduction == "mean"


@pytest.mark.parametrize(
    ("loss", "whole"),
    [
        (of_model_and_batch, True),
        (lambda net, batch: 0, True),
        (lambda f, y: 0, False),
        (nn.MSELoss(), False),
        ("mse", False),
        ("tests.corpus.layouts:of_model_and_batch", True),
        (len, False),
    ],
)
def test_a_whole_loss_is_known_by_its_first_parameter(loss: Any, whole: bool) -> None:
    assert (whole_loss(loss) is not None) is whole


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: as_loss("cross_entropy:smoothing=1"), "has no option `smoothing`"),
        (lambda: as_loss("torch.nn:NoSuchLoss"), "can't be imported"),
        (lambda: as_loss(lambda f, y: 3.0).sum(LOGITS, Y), "returned a float, not a tensor"),
        (
            lambda: LOSSES["cross_entropy"]().hessian_root(LOGITS[..., None], Y),  # type: ignore
            r"takes logits \(N, C\)",
        ),
        (lambda: as_loss("cross_entropy").sum(LOGITS, Y + 2), "outputs for 3 classes, .* 0 to 2"),
        (lambda: as_loss("cross_entropy").sum(LOGITS, Y - 1), "Target -1 is out of bounds"),
        (
            lambda: as_loss("nll").sum(LOGITS.log_softmax(1), Y + 2),
            "`nll` got outputs for 3 classes",
        ),
        (lambda: as_loss("cross_entropy").sum(LOGITS, Y.float()), "class indices as whole numbers"),
        (lambda: as_loss("cross_entropy").sum(LOGITS, Y[:, None]), "class indices of shape"),
    ],
)
def test_what_cannot_be_a_loss_is_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        make()


def test_examples_are_the_first_tensors_rows() -> None:
    assert examples_in({"a": "text", "b": (torch.tensor(1.0), REAL)}) == 7
    assert examples_in("abc", 3, torch.tensor(2)) == 0


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3)])
def test_nll_of_logits_is_refused_whatever_comes_later(shape: tuple[int, ...]) -> None:
    loss = as_loss("nll")
    logits = randn(*shape, seed=3)
    targets = torch.zeros(logits.movedim(1, -1).shape[:-1], dtype=torch.int64)
    for _ in range(2):
        with pytest.raises(ValueError, match="logits, perhaps"):
            loss.sum(logits, targets)
    assert float(loss.sum(logits.log_softmax(1), targets)) > 0


@pytest.mark.parametrize("parameter", ["model", "net", "m", "my_model", "_module", "network"])
def test_a_loss_of_a_model_is_known_by_its_first_parameter(parameter: str) -> None:
    assert whole_loss(eval(f"lambda {parameter}, batch: None")) is not None


def test_a_loss_of_a_model_is_known_by_its_annotation() -> None:
    def of_a_module(f: nn.Module, batch: Any) -> Tensor: ...
    def of_outputs(model: Tensor, targets: Any) -> Tensor: ...
    def of_anything(model: Any, batch: Any) -> Tensor: ...

    of_a_module.__annotations__["f"] = nn.Module
    of_outputs.__annotations__["model"] = Tensor
    of_anything.__annotations__["model"] = Any
    assert whole_loss(of_a_module) is of_a_module
    assert whole_loss(of_outputs) is None
    assert whole_loss(of_anything) is of_anything
    assert whole_loss(lambda outputs, targets: None) is None


TOKENS = torch.tensor([[1, 2, 0, 3, -100], [4, 4, 1, -100, -100], [0, 3, 2, 1, 4]])


def test_next_token_is_the_mean_over_the_labels_that_count() -> None:
    loss, f = as_loss("next_token"), randn(3, 5, 5, seed=21)
    log_p = f.log_softmax(2)
    pairs = [(i, t, int(TOKENS[i, t + 1])) for i in range(3) for t in range(4)]
    counted = [-log_p[i, t, y] for i, t, y in pairs if y != -100]
    assert len(counted) == int(loss.weight(f, TOKENS))
    torch.testing.assert_close(loss.sum(f, TOKENS), torch.stack(counted).sum())


def test_the_root_of_next_token_squares_to_its_hessian() -> None:
    loss, f = as_loss("next_token"), randn(3, 5, 5, seed=21)
    assert loss.root_product is not None
    H = torch.autograd.functional.hessian(lambda f: loss.sum(f, TOKENS), f).view(3, 25, 3, 25)
    unit = torch.eye(25, dtype=torch.float64).view(25, 1, 5, 5).expand(25, 3, 5, 5)
    S = loss.root_product(f, TOKENS, unit).reshape(25, 3, 25).permute(1, 2, 0)  # (N, C, K)
    torch.testing.assert_close(S @ S.mT, torch.stack([H[i, :, i] for i in range(3)]))


def test_next_token_names_the_shapes_that_it_cannot_take() -> None:
    with pytest.raises(ValueError, match=r"got \(3, 5\) and \(3, 5\)"):
        as_loss("next_token").sum(randn(3, 5), TOKENS)
