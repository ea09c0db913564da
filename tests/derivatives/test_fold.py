"""What is folded, what is left as it is, and that the model is afterwards what it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from curvature.derivatives.awaited import OtherOrderError
from curvature.derivatives.fold import recorded
from tests.conftest import seeded

X = torch.randn(3, 2, 6, 6, generator=seeded(0))


class Reused(nn.Module):
    """Whose convolution is used by something else than its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.conv(x)))


class Gated(nn.Module):
    """Whose convolution is read beside its BatchNorm, at a weight that is 0 so far."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.when = when

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        gate = torch.zeros(())
        early = gate * h if self.when == "before" else 0
        y = self.norm(h)
        late = {"after": h.sin, "detached": h.detach, "view": lambda: h[:1]}
        found: Tensor = y + (gate * late[self.when]() if self.when in late else early)
        return found


def with_hook() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    model[1].register_forward_hook(lambda module, args, output: 2 * output)
    return model


def in_training() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    model[1].train()
    return model


def sequence(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers).eval()


CASES: dict[str, tuple[Callable[[], nn.Module], list[bool]]] = {  # folded or not, in order
    "folded": (sequence(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), [True]),
    "no bias, no scale": (
        sequence(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False)),
        [True],
    ),
    "in groups": (sequence(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), [True]),
    "two": (
        sequence(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)),
        [True, True],
    ),
    "no BatchNorm": (sequence(nn.Conv2d(2, 3, 3), nn.ReLU()), [False]),
    "something between": (sequence(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)), [False]),
    "no running statistics": (
        sequence(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
        [False],
    ),
    "BatchNorm first": (sequence(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)), [False]),
    "training": (in_training, [False]),
    "called twice": (lambda: Reused().eval(), [False]),
    **{
        f"read {when}": (partial(lambda when: Gated(when).eval(), when), [False])
        for when in ("before", "after", "detached", "view")
    },
    "hooked": (with_hook, [False]),
    "other padding": (
        sequence(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3)),
        [],
    ),
    "padding by name": (sequence(nn.Conv2d(2, 3, 3, padding="same"), nn.BatchNorm2d(3)), []),
    "parametrized": (
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(2, 3, 3))).eval(),
        [],
    ),
    "no convolution": (sequence(nn.Flatten(), nn.Linear(72, 2)), []),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_is_replaced_and_that_outputs_stay(case: Any) -> None:
    build, expected = case
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build()
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point() and not name.endswith("var"):
            t.data += 0.3 * torch.randn(t.shape, generator=seeded(len(name)))
    before = model(X).detach()
    attributes = [dict(vars(m)) for m in model.modules()]
    folding = recorded(model, lambda: model(X))
    assert [norm is not None for _, norm in folding.pairs] == expected
    with folding.applied():
        torch.testing.assert_close(model(X), before, rtol=1e-5, atol=1e-5)
    assert [vars(m) for m in model.modules()] == attributes
    assert not any(m._forward_hooks for m in model.modules()) or build is with_hook


def test_the_model_is_restored_after_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    folding = recorded(model, lambda: model(X))
    with pytest.raises(RuntimeError), folding.applied():
        model(X[:, :1])
    assert not any("forward" in vars(m) for m in model.modules())


def test_a_batch_norm_called_on_something_else_is_noticed() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2)).eval()
    folding = recorded(model, lambda: model(X))
    assert folding.folded == 1
    with folding.applied(), pytest.raises(OtherOrderError, match="no longer follows"):
        model[1](X)


class Rarely(Gated):
    """Which reads it so once it is told to."""

    told = False

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.told else self.norm(self.conv(x))


@pytest.mark.parametrize("when", ["before", "after", "detached", "view"])
def test_a_reading_that_was_not_there_before_is_noticed(when: str) -> None:
    model = Rarely(when).eval()
    folding = recorded(model, lambda: model(X))
    assert folding.folded == 1
    model.told = True
    with folding.applied(), pytest.raises(OtherOrderError, match="didn't read it before"):
        model(X)


def test_what_is_no_reading_of_numbers_may_come_before_the_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    expected = model(X)

    def told(y: Tensor) -> list[Any]:
        return [*y.shape, y.dim(), len(y), y.dtype, y.requires_grad, y.stride(), torch.numel(y)]

    with recorded(model, lambda: model(X)).applied():
        y = model[0](X)
        assert told(y) == told(y.value)
        dropped = nn.functional.dropout(y, 0.5, False)
        assert all(same is y for same in (y.contiguous(), y.float(), y.to(X.device), dropped))
        torch.testing.assert_close(model[1](y), expected)
        for other in (y.double, y.detach, y.sum, y.tolist, lambda: y.relu_()):
            with pytest.raises(OtherOrderError):
                other()


def test_a_single_example_without_its_dimension() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3)).eval()
    expected = model(X[0])
    with recorded(model, lambda: model(X[0])).applied():
        torch.testing.assert_close(model(X[0]), expected)
