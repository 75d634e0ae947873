"""One malformed input, the commands that it is given to, and what a refusal must look like."""

import contextlib
import io
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from running import call

Content = bytes | str | Callable[[Path], None]  # of a file, or what makes the file or folder at its path


@dataclass(frozen=True)
class Bad:
    """A malformed input.

    Attributes:
        name: what is wrong, after "the command refuses".
        command: as typed in the sandbox (see `conftest.py`).
        said: parts of the sentence: what is wrong, and where.
        files: to lay into the sandbox before, by their paths in it.
    """

    name: str
    command: str
    said: tuple[str, ...]
    files: Mapping[str, Content] = field(default_factory=dict)

    def lay_out(self, folder: Path) -> None:
        """Write the files."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(content.encode() if isinstance(content, str) else content)

    @property
    def arguments(self) -> list[str]:
        """The command, split as a shell does."""
        return shlex.split(self.command)


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that stands in a folder: kind and mode of each path, bytes of a file, target of a link."""
    return {str(path.relative_to(folder)): _state(path) for path in _walk(folder)}


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _state(path: Path) -> tuple[object, ...]:
    mode = path.lstat().st_mode
    if path.is_symlink():
        return mode, path.readlink()
    return (mode, path.read_bytes()) if path.is_file() else (mode,)


def run_in_process(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = call(arguments)
    return code, out.getvalue(), err.getvalue()


def assert_refusal(code: int, out: str, err: str, said: tuple[str, ...]) -> None:
    """Exit code 2 after one sentence on standard error, the last line there: the rule, the value, and behind a semicolon the remedy."""
    assert "Traceback" not in out + err
    assert code == 2, err
    sentences = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1, err
    assert err.endswith(sentences[0] + "\n")
    for part in said:
        assert part in sentences[0]
    rule, _, remedy = sentences[0].removeprefix("error: ").rpartition("; ")
    assert rule, f"no remedy: {sentences[0]}"
    assert len(remedy.split()) >= 2, f"no remedy: {sentences[0]}"
