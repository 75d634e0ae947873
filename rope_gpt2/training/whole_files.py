"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rope_gpt2.errors import InputError


@contextmanager
def open_whole(path: Path, option: str) -> Iterator[IO[str]]:
    """A UTF-8 file to write, beside its place; it is renamed once it is written, and removed if it cannot be.

    Line ends are written as they come. Missing folders are made.

    Args:
        path: where it goes.
        option: what names the place, for the message.

    Raises:
        InputError: if it cannot be written.
    """
    beside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            beside = Path(file.name)
            yield file
        beside.chmod(0o644)  # a temporary file is for the owner alone
        os.replace(beside, path)
        beside = None
    except OSError as error:
        raise _unwritable(path, option, error) from error
    finally:
        if beside is not None:
            with suppress(OSError):
                beside.unlink()


def check_writable(path: Path, option: str, sources: Iterable[str | Path] = ()) -> None:
    """Say now what `open_whole` would say when the work is done; a file that is there stays as it is, and no folder is left.

    Args:
        path: where a file will go.
        option: what names the place, for the message.
        sources: files that are read, or names of something else.

    Raises:
        InputError: if a folder stands there, one of the sources does, or no file can be written beside it.
    """
    check_no_source(path, option, sources)
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) != "0":
        return  # the first of several processes looks: another would take away the folders that it has begun to write into
    missing: list[Path] = []
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it with {option}")
        missing = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.with_name(f".{path.name}.12345678").lstat()  # too long a name is told
        with tempfile.TemporaryFile(dir=path.parent):  # without a name, where the system has such files: nothing is left by kill -9
            pass
    except OSError as error:
        raise _unwritable(path, option, error) from error
    finally:
        for folder in missing:  # the innermost first
            with suppress(OSError):
                folder.rmdir()


def check_no_source(path: Path, option: str, sources: Iterable[str | Path]) -> None:
    """Refuse to write what is read.

    Raises:
        InputError: if `path` is one of the sources, by whatever name.
    """
    with suppress(OSError):  # a name that is too long, say
        if path.exists() and any(os.path.exists(source) and path.samefile(source) for source in sources):
            raise InputError(f"{path}: is source and target at once; name another file with {option}")


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made or written into; it is not made yet.

    Raises:
        InputError: if a file stands there, or no file can be written in it.
    """
    if os.path.exists(folder) and not folder.is_dir():
        raise InputError(f"{option} {folder}: is a file; give a folder")
    try:
        check_writable(folder / "file", option)
    except InputError as error:
        if not isinstance(error.__cause__, OSError) or not os.path.isdir(folder):
            raise
        raise _unwritable(folder, option, error.__cause__) from error  # the folder, not the file that was tried


def _unwritable(path: Path, option: str, error: OSError) -> InputError:
    place = path if os.path.isdir(path.parent) else path.parent  # not for a name that is too long
    return InputError(f"{place}: cannot be written ({error.strerror or error}); choose another {option}")
