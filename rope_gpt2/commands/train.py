"""fit, validate, test, predict: LightningCLI with this package's parts."""

import errno
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jsonargparse import ArgumentError
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from rope_gpt2.errors import InputError
from rope_gpt2.training.cli import run_cli
from rope_gpt2.training.notices import silence_notices
from rope_gpt2.training.stopping import EXIT_INTERRUPTED, EXIT_TERMINATED

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

# What jsonargparse says of an option of the data module, among all that it could have been
_DATA_OPTION = re.compile(r"^Parser key \"data\":.*?Problem with given class_path '([\w.]+)': (.*?) - Expected a <class 'NoneType'>")
_DATA_MODULE = re.compile(r"^Parser key \"data\":.*Given value: (\S+)$")


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
        raise InputError(_sentence(error.message or str(error))) from error
    except MisconfigurationException as error:
        raise InputError(f"{_one_line(str(error)).rstrip('. ')}; change that option, see --help") from error
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
        raise InputError(f"early_stopping.monitor: {_one_line(str(error)).rstrip('. ')}; change it, or early_stopping.strict") from error
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


def _sentence(message: str) -> str:
    """What is wrong with an option; of one of a data module without the list of what else it could have been."""
    line = _one_line(message)
    wrong = _DATA_MODULE.search(line)
    if found := _DATA_OPTION.search(line):
        path, reason = found.groups()
        name = path.rpartition(".")[2]
        for pattern, words in (
            (r"^Option '(.+?)' is not accepted.*", rf"{name} has no option data.\1"),
            (r"^unrecognized arguments: --(\S+?)[= ].*", rf"{name} has no option data.\1"),
            (r"^the following arguments are required: ", f"{name} needs data."),
            (r'^Parser key "(.+?)": ', r"data.\1: "),
        ):
            reason, count = re.subn(pattern, words, reason)
            if count:
                return f"{reason}; see --data.help {name}"
        return f"--data {path}: {reason}; give --data SentimentDataModule or CorpusDataModule"
    if wrong:
        return f"--data {wrong[1]} is no data module; give SentimentDataModule or CorpusDataModule"
    return f"{line}; see --help"


def _one_line(text: str) -> str:
    return " ".join(text.split())
