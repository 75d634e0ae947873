"""fit, validate, test, predict: LightningCLI with this package's parts."""

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from rope_gpt2.errors import InputError
from rope_gpt2.training.cli import run_cli
from rope_gpt2.training.notices import silence_notices

EXIT_INTERRUPTED = 130


def train(arguments: Sequence[str]) -> int:
    """Run one of LightningCLI's subcommands and return the exit code.

    Raises:
        InputError: for a wrong option, file or device.
    """
    sys.argv = [sys.argv[0], *arguments]  # LightningCLI reads sys.argv, and the processes that DDP starts repeat it
    silence_notices()
    try:
        run_cli()
    except ArgumentError as error:
        raise InputError(f"{_one_line(error.message or str(error))}; see --help") from error
    except MisconfigurationException as error:
        raise InputError(_one_line(str(error))) from error
    except SystemExit as error:
        # Lightning ends an interrupted fit by exit(1), after its checkpoint was saved
        if error.code == 1:
            return EXIT_INTERRUPTED
        raise
    return 0


def _one_line(text: str) -> str:
    return " ".join(text.split())
