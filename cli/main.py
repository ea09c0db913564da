"""The command `curv` itself: its subcommands, and how errors are shown."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from typing import Any

import click

from curvature import __version__

from .errors import BAD_INPUT, INTERRUPTED, one_line

COMMANDS = {
    "train": "Train a network to a checkpoint.",
    "sweep": "Train and measure a grid of networks.",
    "analyze": "Measure the curvature at checkpoints: Tr(H) and λ_max, with their uncertainty.",
    "show": "Show what is in a checkpoint, anyone's.",
    "table": "Gather the rows of a study into one table.",
    "curves": "Draw training over its epochs, with the curvature that was tracked.",
    "heatmap": "Draw a metric over learning rate and weight decay.",
    "compare": "Compare networks under one protocol, or optimizers at their best settings.",
    "report": "Write a study on one HTML page.",
    "models": "List the models that can be named.",
    "datasets": "List the data sets that can be named.",
    "losses": "List the losses that can be named.",
    "optimizers": "List the optimizers that can be named.",
}
LISTINGS = ("models", "datasets", "losses", "optimizers")  # in one file


class _Commands(click.Group):
    """Subcommands that are imported when they are called: `curv --help` loads no torch."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        file = "listing" if name in LISTINGS else name
        module = importlib.import_module(f"{__package__}.{file}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, context: click.Context) -> Any:
        """Bad input is one line and exit code 2; CURV_TRACEBACK=1 shows where it was found."""
        try:
            return super().invoke(context)
        except (click.exceptions.Exit, click.Abort):  # RuntimeErrors by descent
            raise
        except click.UsageError as error:
            command = (error.ctx or context).command_path
            raise _Refused(f"{error.format_message()} See `{command} --help`.") from error
        except KeyboardInterrupt as error:
            raise _Interrupted("interrupted.") from error
        except BAD_INPUT as error:
            closed = isinstance(error, OSError) and error.errno == errno.EPIPE
            if closed or os.environ.get("CURV_TRACEBACK"):  # click leaves quietly, as with `| head`
                raise
            raise _Refused(one_line(error)) from error


class _Refused(click.ClickException):
    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"curv: {self.message}", err=True)


class _Interrupted(_Refused):
    exit_code = INTERRUPTED


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Where an error's one line is not enough, CURV_TRACEBACK=1 shows where it came from.",
)
@click.version_option(__version__, prog_name="curv")
def main() -> None:
    """Measure how curved the loss of a trained PyTorch network is."""


if __name__ == "__main__":
    sys.exit(main())
