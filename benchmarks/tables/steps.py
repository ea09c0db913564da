"""Steps of the optimizers in gradients of training mode."""

import optimizer_steps
from results import Results


def measure(results: Results, *, quick: bool) -> None:
    results.part("steps", lambda: optimizer_steps.measure(quick=quick))
