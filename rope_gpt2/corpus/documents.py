"""Files and data sets → documents: plain text, one document a line or a file, read in pieces, so that memory stays flat."""

import csv
import glob
import gzip
import itertools
import logging
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rope_gpt2.corpus.sources import CorpusSource, find_sources
from rope_gpt2.errors import InputError
from rope_gpt2.spreadsheets import MARK, QUOTES, unguard

ROWS, WHOLE_FILES = 1024, 32  # documents in a piece
COLUMNS = ("text", "review")  # taken where none is named


@dataclass(frozen=True)
class Reading:
    """How documents are read.

    Attributes:
        column: of CSV, JSON lines and data sets; None for the first of `preferred` that is there, then the only column that holds text.
        split: of data sets.
        document: "line" or "file", of plain text files.
        drop: regular expressions whose matches are cut out of every document.
        clean: applied to every document before `drop`; a named function of a module.
        preferred: columns that are taken where none is named.
    """

    column: str | None = None
    split: str = "train"
    document: Literal["line", "file"] = "line"
    drop: tuple[str, ...] = ()
    clean: Callable[[str], str] | None = None
    preferred: tuple[str, ...] = COLUMNS

    def __post_init__(self) -> None:
        if self.document not in ("line", "file"):
            raise InputError(f"document must be line or file, got {self.document!r}; choose one of them")
        for pattern in self.drop:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"drop: {pattern!r} is no regular expression ({error}); correct it") from error


def read_documents(
    sources: str | Sequence[str],
    column: str | None = None,
    split: str = "train",
    document: Literal["line", "file"] = "line",
    drop: Sequence[str] = (),
) -> Iterator[str]:
    """Every document of the sources, in their order, without white space around it; blank lines are none.

    Args:
        sources: names that `find_sources` takes.
        column, split, document, drop: see `Reading`.

    Raises:
        InputError: for what cannot be read, with its path.
    """
    reading = Reading(column, split, document, tuple(drop))
    return itertools.chain.from_iterable(read_pieces(find_sources(sources), reading))


def read_pieces(sources: Sequence[CorpusSource], reading: Reading) -> Iterator[list[str]]:
    """The documents of the sources, in their order, some at a time.

    Raises:
        InputError: for what cannot be read, with its path.
    """
    patterns = [re.compile(pattern) for pattern in reading.drop]
    for source in sources:
        found = False
        for texts in _read(source, reading):
            documents = [text for text in (_clean(text, reading, patterns) for text in texts if text) if text]
            if documents:
                found = True
                yield documents
        if not found:
            raise InputError(f"{source.name}: holds no documents; give a source with text in it")


def _clean(text: str, reading: Reading, patterns: Sequence[re.Pattern[str]]) -> str:
    if reading.clean is not None:
        text = reading.clean(text)
    for pattern in patterns:
        text = pattern.sub("", text)
    return text.strip()


def _read(source: CorpusSource, reading: Reading) -> Iterator[list[str | None]]:
    """The texts of a source as they stand there; whatever goes wrong becomes a sentence."""
    files = [file for file in source.files if file.stat().st_size]
    if source.files and not files:
        raise InputError(f"{source.name}: is empty; give a file with text in it")
    whole = source.kind == "text" and reading.document == "file"
    # one call for all files of plain text; the columns of others may differ from file to file
    groups: list[list[Path]] = [files] if source.kind in ("text", "hub") else [[file] for file in files]
    for group in groups:
        where = str(group[0]) if len(group) == 1 else source.name
        try:
            with tempfile.TemporaryDirectory() as folder:  # for the lock files of the library
                tables = _load(source, group, reading, folder).with_format("arrow").iter(WHOLE_FILES if whole else ROWS)
                column: str | None = None
                for table in tables:
                    column = column or choose_column(table.schema, reading.column, where, reading.preferred)
                    texts = table.column(column).to_pylist()
                    if source.kind == "csv" and {MARK, column} == set(table.schema.names):  # a file of `label`
                        texts = [unguard(text or "", mark or "") for text, mark in zip(texts, table.column(MARK).to_pylist(), strict=True)]
                    yield texts
        except InputError:
            raise
        except Exception as error:  # the readers raise their own kinds: of pandas, pyarrow, gzip, the hub's client
            reason = _first_damage(group) or _reason(where, error)
            raise InputError(reason) from error


def _load(source: CorpusSource, files: Sequence[Path], reading: Reading, cache_dir: str) -> Any:
    """The source as a streamed data set of the `datasets` library."""
    import datasets

    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)  # what it logs stands in the error as well
    if source.kind == "hub" and not files:
        name = source.name.partition(":")[0]
        return datasets.load_dataset(name, source.config, split=reading.split, streaming=True, revision=source.revision)
    paths = [glob.escape(str(file.absolute())) for file in files]
    options: dict[str, Any] = {}
    builder = source.kind
    if source.kind == "text":
        options = {"sample_by": "document" if reading.document == "file" else "line", "encoding": "utf-8-sig"}
    elif source.kind == "csv":
        column = _csv_column(files[0], reading)
        # every field as it stands: "NA" and "12" are text
        columns = [column, MARK] if column == "review" and _has_marks(files[0]) else [column]
        features = datasets.Features({name: datasets.Value("string") for name in columns})
        options = {"features": features, "usecols": columns, "index_col": False}
        options |= {"keep_default_na": False, "na_filter": False, "encoding": "utf-8-sig"}
    elif source.kind == "hub":
        builder, paths = "parquet", _of_split(source.name, paths, reading.split)
    return datasets.load_dataset(builder, data_files={"train": paths}, split="train", streaming=True, cache_dir=cache_dir, **options)


def _of_split(name: str, paths: Sequence[str], split: str) -> list[str]:
    """Parquet files of a split, by the hub's custom of naming them split-00000-of-00001.parquet; all of them where none is so named."""
    splits = {path: re.split(r"[-_.]", Path(path).name)[0] for path in paths}
    named = {"train", "validation", "test", split}
    if not named & set(splits.values()):
        return list(paths)
    chosen = [path for path in paths if splits[path] == split]
    if not chosen:
        raise InputError(f"{name}: has no split {split!r} (found: {', '.join(sorted(set(splits.values())))}); choose one of them")
    return chosen


def choose_column(schema: Any, wanted: str | None, where: str, preferred: Sequence[str] = COLUMNS) -> str:
    """The column of an Arrow schema that holds the documents; see `Reading`.

    Raises:
        InputError: if there is none, or more than one to choose from.
    """
    import pyarrow.types as types

    texts = [field.name for field in schema if types.is_string(field.type) or types.is_large_string(field.type)]
    names = ", ".join(schema.names)
    if wanted is not None:
        if wanted not in schema.names:
            raise InputError(f"{where}: column {wanted!r} is missing (found: {names}); choose one of these")
        if wanted not in texts:
            raise InputError(f"{where}: column {wanted!r} holds {schema.field(wanted).type}, not text (found: {names}); choose another")
        return wanted
    for name in preferred:
        if name in texts:
            return name
    if len(texts) != 1:
        raise InputError(f"{where}: which column holds the documents is not clear (found: {names}); name it with column")
    return texts[0]


def _csv_column(path: Path, reading: Reading) -> str:
    import pandas as pd
    import pyarrow as pa

    _check_widths(path)
    table = pd.read_csv(path, nrows=1000, index_col=False, encoding="utf-8-sig", keep_default_na=False, na_filter=False)
    # a column that is chosen by its name is text, whatever stands in it
    table = table.astype({name: "string" for name in table.columns if name in (reading.column, *reading.preferred)})
    return choose_column(pa.Schema.from_pandas(table, preserve_index=False), reading.column, str(path), reading.preferred)


def _check_widths(path: Path) -> None:
    """Refuse a row with more or fewer fields than the header, of which pandas would cut one or fill the other, without a word."""
    csv.field_size_limit(2**31 - 1)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        width, row, start = len(next(reader, [])), 0, reader.line_num + 1
        for fields in reader:
            row += bool(fields)  # a blank line is none
            if fields and len(fields) != width:
                raise InputError(f"{path}, row {row} (line {start}): {len(fields)} columns instead of {width}; {QUOTES}")
            start = reader.line_num + 1


def _has_marks(path: Path) -> bool:
    import pandas as pd

    return MARK in pd.read_csv(path, nrows=0, index_col=False, encoding="utf-8-sig").columns


def _first_damage(files: Sequence[Path]) -> str | None:
    """What is wrong with the first file that is no UTF-8 or no whole gzip file; None where all are."""
    for path in files:
        number = 0
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                for line in file:
                    number += 1
                    if path.suffix != ".parquet":
                        line.decode("utf-8")
        except UnicodeDecodeError:
            return f"{path}, line {number}: not UTF-8; save the file as UTF-8"
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            return f"{path}: is no whole gzip file ({error}); compress or fetch it again"
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror}); check its permissions"
    return None


def _reason(where: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{where}: cannot be read ({lines[0] if lines else type(error).__name__}); correct it or give another source"
