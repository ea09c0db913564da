"""An optimizer of torch's made to take closures, loss scales and clipping as ours do."""

from typing import Any

from torch.optim import Optimizer

from curvature.optimizers.step import ClosureOptimizer


class Based(ClosureOptimizer):
    """An optimizer around a ``torch.optim`` one: the same groups, the same state, the same keys.

    So schedulers may hold either, and a state dict is the base optimizer's own.
    """

    _own = (*ClosureOptimizer._own, "base", "_extra")

    def __init__(self, base: Optimizer, extra: dict[str, Any] | None = None, **common: Any) -> None:
        if not isinstance(base, Optimizer):
            raise TypeError(
                f"`base` is a {type(base).__name__}; pass an optimizer that holds the parameters, "
                "such as torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)."
            )
        self._extra = dict(extra or {})
        self.base: Optimizer | None = None
        super().__init__(base.param_groups, dict(self._extra), **common)
        self.base = base
        self._share()

    def _share(self) -> None:
        assert self.base is not None
        self.param_groups = self.base.param_groups
        self.state = self.base.state
        self.defaults = {**self.base.defaults, **self._extra}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add it to the base optimizer, whose groups are ours."""
        if self.base is None:
            super().add_param_group(param_group)
            return
        self.base.add_param_group(param_group)
        for key, value in self._extra.items():
            self.param_groups[-1].setdefault(key, value)

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's."""
        assert self.base is not None
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load it into the base optimizer."""
        assert self.base is not None
        self.base.load_state_dict(state_dict)
        for group in self.base.param_groups:
            for key, value in self._extra.items():
                group.setdefault(key, value)
        self._share()

    def _step(self, closure: Any) -> Any:
        """One gradient, one step of the base optimizer: w ← base(w, ∇L(w))."""
        assert self.base is not None
        loss = None
        if closure is None:
            self._unscale(self._weights())
        else:
            loss = self._call(closure)
        norm = self._settle()
        self._require_finite(loss, norm, 1)
        self.base.step()
        self._record(norm, 1, active="fixed")
        return loss
