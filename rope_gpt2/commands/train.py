"""fit, validate, test, predict: LightningCLI with this package's parts."""

from collections.abc import Sequence

from rope_gpt2.training.cli import run_cli


def train(arguments: Sequence[str]) -> int:
    """Run one of LightningCLI's subcommands and return the exit code."""
    run_cli(list(arguments))
    return 0
