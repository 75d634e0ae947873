"""Names → sources: files, folders, globs, and data sets of the Hugging Face hub."""

import glob
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rope_gpt2.errors import InputError

KINDS = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".parquet": "hub"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.-]+)?")


@dataclass(frozen=True)
class CorpusSource:
    """Files of one kind, or a data set.

    Attributes:
        name: as the user gave it.
        kind: "text", "json", "csv", or "hub" for a data set by its name or in a folder of Parquet files.
        files: in the order in which they are read; empty for a name of the hub.
        config: the data set's configuration; None for its only one.
        revision: the commit of a data set on the hub, so that what is read is what the cache's key names.
    """

    name: str
    kind: str
    files: tuple[Path, ...] = ()
    config: str | None = None
    revision: str | None = None


def find_sources(names: str | Sequence[str], revisions: Mapping[str, str] | None = None) -> list[CorpusSource]:
    """What the names stand for.

    Args:
        names: files (.txt, .jsonl, .csv, plain or as .gz), folders or globs of such, folders of Parquet files, and data sets of the hub
            as "owner/name" or "owner/name:config". Only the last asks the network.
        revisions: commits of data sets by name, for when the hub cannot be asked.

    Raises:
        InputError: if there is nothing of that name, or nothing in it that can be read.
    """
    sources: list[CorpusSource] = []
    for name in [names] if isinstance(names, str) else names:
        sources += _find(name, revisions or {})
    if not sources:
        raise InputError("no text was named to read; give a file, a folder, a glob or the name of a data set")
    return sources


def _find(name: str, revisions: Mapping[str, str]) -> list[CorpusSource]:
    path = Path(name).expanduser()
    if path.is_file():
        if _kind(path) is None:
            raise InputError(f"{name}: is of no kind that can be read; give a {_kinds()} file")
        return [CorpusSource(name, str(_kind(path)), (path,))]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    elif glob.has_magic(name):
        files = [file for file in map(Path, sorted(glob.glob(str(path), recursive=True))) if file.is_file()]
    elif _HUB_NAME.fullmatch(name) and _kind(path) is None:
        return [_find_on_hub(name, revisions)]
    else:
        raise InputError(f"{name}: no such file; give a file, a folder, a glob, or a data set of the hub as owner/name")
    by_kind: dict[str, list[Path]] = {}
    for file in files:
        kind = _kind(file)
        if kind is not None:
            by_kind.setdefault(kind, []).append(file)
    if not by_kind:
        raise InputError(f"{name}: holds no {_kinds()} file; put the text there or give another name")
    return [CorpusSource(name, kind, tuple(members)) for kind, members in sorted(by_kind.items())]


def _kind(path: Path) -> str | None:
    return KINDS.get(Path(path.stem).suffix if path.suffix == ".gz" else path.suffix)


def _kinds() -> str:
    return ", ".join(KINDS) + " (or .gz)"


def _find_on_hub(name: str, revisions: Mapping[str, str]) -> CorpusSource:
    from huggingface_hub import HfApi

    repository, _, config = name.partition(":")
    try:
        revision = HfApi().dataset_info(repository, timeout=20).sha
    except Exception as error:  # the hub's client raises many kinds, all of them meaning: not to be had
        revision = revisions.get(name)
        if revision is None:
            raise InputError(
                f"{name}: no such file or folder, and no data set of that name could be fetched from the hub ({type(error).__name__}); "
                "check the name and the connection"
            ) from error
    return CorpusSource(name, "hub", (), config or None, revision)
