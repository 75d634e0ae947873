"""CSV → examples: read and check a file with the columns `review,sentiment`."""

import csv
import html
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rope_gpt2.errors import InputError
from rope_gpt2.spreadsheets import MARK, QUOTES, unguard

LABELS = ("negative", "positive")
COLUMNS = ("review", "sentiment")
CONFIDENCE = "confidence"  # a column, where asked for

_TAG = re.compile(
    r"</?(?:a|b|blockquote|br|div|em|font|hr|i|li|ol|p|q|s|small|span|strong|u|ul)(?:\s+[\w-]+\s*=[^<>]*|\s*/)?\s*>", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Example:
    """One review with its label.

    Attributes:
        row: number of the review in its file, 1 for the first line below the header.
        review: the text, not empty.
        sentiment: one of `LABELS`.
        confidence: probability, in [0, 1], that this is its sentiment.
    """

    row: int
    review: str
    sentiment: str
    confidence: float = 1.0


def strip_html(text: str) -> str:
    """Text without HTML tags, entities resolved, white space folded; what is no tag ("a < b", "<3") stays.

    >>> strip_html("Dull.<br /><br />Really <i>dull</i> &amp; long <3")
    'Dull. Really dull & long <3'
    """
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


class ExampleFile:
    """The examples of a CSV, checked whole at once and read again, one at a time, by every iteration: memory stays flat.

    Args:
        path: UTF-8 CSV with a header that names `review` and `sentiment`; other columns are ignored.
        clean_html: remove HTML tags; None: only in a file where some review has them.
        limit: the first examples only, this many; 0 for all. All rows are checked.
        keep: hold the examples in memory instead of reading them again.
        confidence: read the column `confidence` too, which must stand there.

    Raises:
        InputError: for a file that cannot be read as described, with path, row, column and remedy.
    """

    def __init__(
        self, path: str | Path, clean_html: bool | None = None, limit: int = 0, keep: bool = False, confidence: bool = False
    ) -> None:
        self.path, self._confidence = Path(path), confidence
        self._kept: list[Example] | None = None
        if not self.path.exists():
            raise InputError(f"{path}: no such file; give the path of a CSV with the columns review,sentiment")
        if not self.path.is_file():
            kind = "folder" if self.path.is_dir() else "pipe or device"
            raise InputError(f"{path}: is a {kind}, not a file; give the path of a CSV with the columns review,sentiment")
        rows, tagged, kept = 0, False, []
        for example in self._read():
            rows += 1
            tagged = tagged or _TAG.search(example.review) is not None
            if keep and (not limit or rows <= limit):
                kept.append(example)
        if not rows:
            raise InputError(f"{path}: has a header and no rows; add at least one review with its sentiment")
        self._clean = tagged if clean_html is None else clean_html
        self._rows = rows
        if self._clean:
            for example in self:
                _refuse_empty(self.path, example)
        self._rows = min(rows, limit) if limit else rows
        self._kept = kept if keep else None

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Example]:
        for example in itertools.islice(self._read() if self._kept is None else self._kept, self._rows):
            yield replace(example, review=strip_html(example.review)) if self._clean else example

    def _read(self) -> Iterator[Example]:
        try:
            yield from _parse(self.path, self._confidence)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}, line {_first_undecodable_line(self.path)}: not UTF-8; save the file as UTF-8") from error
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror}); check its permissions") from error


def read_examples(path: str | Path, clean_html: bool | None = None, confidence: bool = False) -> list[Example]:
    """Every example of a CSV, in the order of the file, read once; see `ExampleFile`."""
    return list(ExampleFile(path, clean_html, keep=True, confidence=confidence))


def _parse(path: Path, with_confidence: bool) -> Iterator[Example]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        row, start = 0, 1
        try:
            header = next(reader, None)
            if header is None:
                raise InputError(f"{path}: is empty; the first line must name the columns review,sentiment")
            review_column, sentiment_column = (_find_column(path, header, name) for name in COLUMNS)
            confidence_column = _find_column(path, header, CONFIDENCE) if with_confidence else None
            mark_column = header.index(MARK) if header.count(MARK) == 1 else None
            start = reader.line_num + 1
            for fields in reader:
                if not fields:  # a blank line
                    start = reader.line_num + 1
                    continue
                row += 1
                if len(fields) != len(header):
                    raise InputError(f"{path}, row {row} (line {start}): {len(fields)} columns instead of {len(header)}; {QUOTES}")
                review = fields[review_column] if mark_column is None else unguard(fields[review_column], fields[mark_column])
                example = Example(row, review, fields[sentiment_column].strip().lower())
                if example.sentiment not in LABELS:
                    raise InputError(
                        f"{path}, row {row} (line {start}), column sentiment: unknown label {_shorten(fields[sentiment_column])!r}; "
                        f"write {' or '.join(LABELS)}"
                    )
                _refuse_empty(path, example)
                if confidence_column is not None:
                    example = replace(example, confidence=_probability(fields[confidence_column], f"{path}, row {row} (line {start})"))
                start = reader.line_num + 1
                yield example
        except csv.Error as error:
            raise InputError(f"{path}, row {row + 1} (line {start}): broken quoting ({error}); {QUOTES}") from error


def _find_column(path: Path, header: Sequence[str], column: str) -> int:
    names = [name.strip().lower() for name in header]
    if names.count(column) != 1:
        found = f"stands {names.count(column)} times" if column in names else "is missing"
        raise InputError(f"{path}, header: column {column} {found} (found: {_shorten(', '.join(header))!r}); it must stand there once")
    return names.index(column)


def _probability(field: str, where: str) -> float:
    try:
        probability = float(field)
    except ValueError:
        probability = math.nan
    if not 0 <= probability <= 1:
        raise InputError(f"{where}, column {CONFIDENCE}: {_shorten(field)!r}; write the probability of the label, from 0 to 1")
    return probability


def _refuse_empty(path: Path, example: Example) -> None:
    if not example.review.strip():
        raise InputError(f"{path}, row {example.row}, column review: empty review; write its text or delete the row")


def _first_undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return number


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
