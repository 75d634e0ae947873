"""fit, validate, test, predict: LightningCLI with this package's parts."""

import errno
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from rope_gpt2.commands.option_errors import one_line, option_sentence
from rope_gpt2.errors import InputError
from rope_gpt2.training.cli import run_cli
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.stopping import EXIT_INTERRUPTED, EXIT_TERMINATED

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def train(arguments: Sequence[str]) -> int:
    """Run one of LightningCLI's subcommands and return the exit code.

    Raises:
        InputError: for a wrong option, file or device.
    """
    sys.argv = [sys.argv[0], *arguments]  # LightningCLI reads sys.argv, and the processes that DDP starts repeat it
    silence_notices()
    try:
        with _threads_without_traces():
            run_cli()
    except ArgumentError as error:
        raise InputError(option_sentence(error.message or str(error))) from error
    except MisconfigurationException as error:
        raise InputError(f"{one_line(str(error)).rstrip('. ')}; change that option, see --help") from error
    except ValueError as error:
        if isinstance(error.__cause__, InputError):  # of a data module's constructor, which jsonargparse wraps
            raise error.__cause__ from error
        raise
    except OSError as error:  # of a log, say: what this package writes has told already
        if error.errno not in _FULL:
            raise
        raise InputError(f"{error.filename or 'a file of the run'}: cannot be written ({error.strerror}); make room, then go on") from error
    except RuntimeError as error:
        if not str(error).startswith("Early stopping conditioned on metric"):
            raise
        raise InputError(f"early_stopping.monitor: {one_line(str(error)).rstrip('. ')}; change it, or early_stopping.strict") from error
    except SIGTERMException:
        return EXIT_TERMINATED
    except SystemExit as error:
        # Lightning ends an interrupted fit by exit(1), after its checkpoint was saved
        if error.code == 1:
            return EXIT_INTERRUPTED
        raise
    return 0


@contextmanager
def _threads_without_traces() -> Iterator[None]:
    """A full disk that TensorBoard's thread meets is raised again where the next number is logged; it needs no trace as well."""
    before = threading.excepthook

    def tell(failed: threading.ExceptHookArgs) -> None:
        if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in _FULL):
            before(failed)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before
