"""The command `curv` itself: its subcommands, and how errors are shown."""

import click

from curvature import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="curv")
def main() -> None:
    """Measure how curved the loss of a trained PyTorch network is."""
