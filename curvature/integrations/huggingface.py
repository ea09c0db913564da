"""A callback of the Hugging Face Trainer: pip install 'curvature-toolkit[transformers]'."""

from __future__ import annotations

from typing import Any

from curvature.tracking import CurvatureTracker, scalars

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ImportError:
    raise ModuleNotFoundError(
        "transformers isn't installed: pip install 'curvature-toolkit[transformers]'."
    ) from None


class CurvatureCallback(TrainerCallback):
    """Measures after optimizer steps, as `CurvatureTracker`, and adds to the ``log_history``.

    Options are the tracker's; ``data`` is a list of batches, as the Trainer's collator makes them.
    """

    def __init__(self, loss: Any, data: Any, **options: Any) -> None:
        self.tracker = CurvatureTracker(None, loss, data, **options)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **about: Any
    ) -> None:
        """Measure where training begins."""
        self._measure(state, about)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **about: Any
    ) -> None:
        """Measure where one is due."""
        self._measure(state, about)

    def _measure(self, state: TrainerState, about: dict[str, Any]) -> None:
        optimizer = about.get("optimizer")
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper off
        rows = self.tracker.step(state.global_step, optimizer, model=about["model"])
        found = {f"curvature/{name}": value for row in rows for name, value in scalars(row).items()}
        if found:
            state.log_history.append({"step": state.global_step, **found})
