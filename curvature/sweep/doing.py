"""What a worker does: train a run and evaluate it, or analyse one that is trained."""

from curvature.analysis import analyze
from curvature.runs.checkpoint import load_checkpoint
from curvature.runs.config import AnalysisConfig
from curvature.runs.table import write_rows
from curvature.sweep.absent import absent_measures
from curvature.sweep.process import ending_gracefully, stopping
from curvature.sweep.work import Outcome, Work, outcome_of
from curvature.training import train


def train_run(work: Work) -> Outcome:
    """Train it, or go on with it, and evaluate it on every part that was not yet."""
    with ending_gracefully():
        result = train(
            work.config,
            work.root,
            device=work.device,
            evaluate_on=work.evaluate_on,
            stop=stopping,
        )
    return Outcome(result.status, result.message)


def analyze_run(work: Work, config: AnalysisConfig) -> Outcome:
    """Write the rows of an analysis; of a run that diverged, rows without values."""
    checkpoint = load_checkpoint(work.folder.checkpoint)
    name = f"{work.config.id}/{work.folder.checkpoint.name}"  # the whole folder may move
    if checkpoint.status == "diverged":
        message = checkpoint.metrics.get("message")
        rows = absent_measures(work, config, "diverged", message, step=checkpoint.step)
    else:
        try:
            rows = [{"checkpoint": name, **row} for row in analyze(checkpoint, config, trust=True)]
        except FloatingPointError as error:
            rows = absent_measures(work, config, "diverged", str(error), step=checkpoint.step)
    write_rows(work.rows[0], rows)
    return outcome_of(rows)
