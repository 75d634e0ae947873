"""Pieces of work → the folder that a run leaves, and the folder → scores. Rows are in the order of conditions and of the file.

manifest.json        what it takes to run it again: command, options, versions, hashes, device, precision, time
conditions.json      every condition with its demonstrations; the content-free inputs
scores.parquet       condition, row, sentiment, predicted, logprob_negative, logprob_positive
content_free.parquet condition, kind, text, logprob_negative, logprob_positive
reviews.parquet      row, review, sentiment
predictions.csv      scores.parquet with the condition's settings written out
metrics.json         what is computed from the scores, as are report.html and plots/*.png

A run may have millions of rows under many conditions, so nothing but the arrays of `Scores` is ever held whole.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.pieces import MANIFEST, METRICS, Pieces, write_json, write_whole
from rope_gpt2.fewshot.scores import Demonstration, ScoredCondition, Scores

CONDITIONS, SCORES = "conditions.json", "scores.parquet"
CONTENT_FREE, REVIEWS, PREDICTIONS = "content_free.parquet", "reviews.parquet", "predictions.csv"
PAGE, PLOTS = "report.html", "plots"
PLOT_NAMES = ("accuracy", "spread", "controls", "confusion", "reliability", "calibrations")  # all that may stand in plots/, as PNG

_NAMES = (*LABELS, "uncertain")
_COUNTS = ("prompts_dropped", "demonstrations_dropped", "prompts_trimmed")
_SETTINGS = ("shots", "demonstration_seed", "order", "demonstration_labels", "selection")
_BATCH = 65_536  # rows that are read at a time
_CSV_HEADER = ("row", "sentiment", "predicted", "condition", *(name.replace("demonstration_seed", "seed") for name in _SETTINGS))


@dataclass(frozen=True, slots=True)
class Run:
    """What `read_run` finds.

    Attributes:
        scores: label log-probabilities.
        manifest: how they were made.
        folder: where.
    """

    scores: Scores
    manifest: dict[str, Any]
    folder: Path

    def reviews(self, rows: Iterable[int]) -> dict[int, str]:
        """The texts of some rows.

        Raises:
            InputError: if the file is damaged or lacks one of the rows.
        """
        if not (wanted := sorted(set(rows))):
            return {}
        try:
            table = pq.read_table(self.folder / REVIEWS, columns=["row", "review"], filters=[("row", "in", wanted)])
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{self.folder}: its reviews cannot be read ({_reason(error)}); run evaluate again") from error
        found = dict(zip(table["row"].to_pylist(), table["review"].to_pylist(), strict=True))
        if missing := next((row for row in wanted if row not in found), None):
            raise InputError(f"{self.folder}: its reviews lack row {missing}; run evaluate again")
        return found


def own_files(folder: Path) -> list[Path]:
    """All that a run and its report may leave in a folder."""
    names = (MANIFEST, CONDITIONS, SCORES, CONTENT_FREE, REVIEWS, PREDICTIONS, METRICS, PAGE)
    return [*(folder / name for name in names), *(folder / PLOTS / f"{name}.png" for name in PLOT_NAMES)]


def write_reviews(examples: Iterable[Example], path: Path) -> None:
    """reviews.parquet, streamed."""
    schema = pa.schema([("row", pa.int64()), ("review", pa.string()), ("sentiment", pa.string())])

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, schema, compression="zstd") as writer:
            for some in _chunks(examples, 16_384):
                columns = ([item.row for item in some], [item.review for item in some], [item.sentiment for item in some])
                writer.write_table(pa.table([pa.array(column) for column in columns], schema=schema))

    write_whole(path, write)


def write_scores(
    folder: Path,
    pieces: Pieces,
    windows: int,
    conditions: Sequence[Condition],
    demonstrations: Sequence[tuple[Demonstration, ...] | None],
    content_free: Sequence[tuple[str, str]],
    generated: bool = False,
) -> None:
    """Join the pieces: conditions.json, scores.parquet, content_free.parquet, predictions.csv.

    Args:
        folder: of the run.
        pieces: all of them.
        windows: number of windows of rows.
        conditions: the grid.
        demonstrations: of each condition; None where every query has its own.
        content_free: (kind, text) of the inputs with the rows -1, -2, ....
        generated: whether labels were generated.
    """
    described = []
    for index, (condition, shown) in enumerate(zip(conditions, demonstrations, strict=True)):
        counts = [pieces.counts(Item(window, index)) for window in range(windows)]
        total = {name: sum(count[name] for count in counts) for name in _COUNTS}
        described.append(asdict(condition) | {"demonstrations": None if shown is None else [asdict(item) for item in shown]} | total)
    listed = [{"kind": kind, "text": text} for kind, text in content_free]
    write_json({"conditions": described, "content_free": listed, "generated": generated}, folder / CONDITIONS)
    items = [Item(window, index) for index in range(len(conditions)) for window in range(windows)]
    write_whole(folder / SCORES, lambda path: _write_table(path, pieces, items))
    write_whole(folder / CONTENT_FREE, lambda path: pq.write_table(_content_free_table(pieces, conditions, content_free), path))
    write_whole(folder / PREDICTIONS, lambda path: write_predictions(path, pieces, items, conditions))


def write_predictions(path: Path, pieces: Pieces, items: Sequence[Item], conditions: Sequence[Condition]) -> None:
    """predictions.csv, streamed piece by piece."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*_CSV_HEADER, "logprob_negative", "logprob_positive"))
        for item in items:
            settings = [item.condition, *(getattr(conditions[item.condition], name) for name in _SETTINGS)]
            for row in _rows(pieces.read(item)).to_pylist():
                names = (_NAMES[row["sentiment"]], _NAMES[row["predicted"]])
                logprobs = (f"{row[label]:.9g}" for label in LABELS)  # reads back as the same float32
                writer.writerow((row["row"], *names, *settings, *logprobs))


def read_run(folder: Path) -> Run:
    """The scores of a run.

    Raises:
        InputError: if there is no finished run, or it is damaged, or a score is not finite.
    """
    for name in (MANIFEST, CONDITIONS, SCORES, CONTENT_FREE, REVIEWS):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: holds no finished run ({name} is missing); give a folder of evaluate")
    try:
        pq.read_schema(folder / REVIEWS)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError(f"{MANIFEST} holds no object")
        described = json.loads((folder / CONDITIONS).read_text(encoding="utf-8"))
        conditions = tuple(_scored_condition(dict(entry)) for entry in described["conditions"])
        kinds = dict.fromkeys(entry["kind"] for entry in described["content_free"])
        free = pq.read_table(folder / CONTENT_FREE)
        content_free = {kind: _of_kind(free, kind, len(conditions)) for kind in kinds}
        with pq.ParquetFile(folder / SCORES) as file:
            return Run(_read_scores(file, conditions, bool(described["generated"]), content_free), manifest, folder)
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{folder}: its files are damaged or do not belong together ({_reason(error)}); run evaluate again") from error


def _read_scores(
    file: pq.ParquetFile, conditions: tuple[ScoredCondition, ...], has_generated: bool, content_free: dict[str, np.ndarray]
) -> Scores:
    """Batch by batch: rows and labels are the same under every condition, so those of the first are kept."""
    total = file.metadata.num_rows
    if not conditions or not total or total % len(conditions):
        raise ValueError(f"{total} scores of {len(conditions)} conditions")
    n = total // len(conditions)
    rows, sentiments = np.empty(n, np.int64), np.empty(n, np.int8)
    logprobs, generated = np.empty((total, 2), np.float32), np.empty(total if has_generated else 0, np.int8)
    columns = ["condition", *(f"logprob_{label}" for label in LABELS), *(["predicted"] if has_generated else [])]
    for start, batch in _batches(file, columns):
        stop = start + len(batch)
        if not np.array_equal(batch["condition"].to_numpy(), np.arange(start, stop) // n):
            raise ValueError(f"{SCORES} is not of these {len(conditions)} conditions")
        for place, label in enumerate(LABELS):
            logprobs[start:stop, place] = batch[f"logprob_{label}"].to_numpy()
        if has_generated:
            generated[start:stop] = _indices(batch["predicted"])
    for start, batch in _batches(file, ["row", "sentiment"]):
        kept = batch.slice(0, n - start)
        rows[start : start + len(kept)], sentiments[start : start + len(kept)] = kept["row"].to_numpy(), _indices(kept["sentiment"])
        if start + len(batch) >= n:
            break
    shape = (len(conditions), n)
    _refuse_unusable(logprobs.reshape(*shape, 2), rows)
    return Scores(
        rows, sentiments, conditions, logprobs.reshape(*shape, 2), generated.reshape(shape) if has_generated else None, content_free
    )


def _batches(file: pq.ParquetFile, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of rows, each with the place of its first."""
    start = 0
    for group in range(file.num_row_groups):  # asked for one by one: a reader of them all keeps what it has read
        for batch in file.iter_batches(_BATCH, [group], columns, use_threads=False):
            yield start, batch
            start += len(batch)


def _refuse_unusable(logprobs: np.ndarray, rows: np.ndarray) -> None:
    for condition, scores in enumerate(logprobs):
        for start in range(0, len(rows), _BATCH):
            finite = np.isfinite(scores[start : start + _BATCH]).all(axis=1)
            if not finite.all():
                place = start + int(finite.argmin())
                raise ValueError(f"condition {condition}, row {rows[place]}: the label log-probabilities are {scores[place].tolist()}")


def _scored_condition(entry: dict[str, Any]) -> ScoredCondition:
    shown = entry.pop("demonstrations")
    counts = {name: entry.pop(name) for name in _COUNTS}
    condition = Condition(**entry | {"label_words": tuple(entry["label_words"])})
    return ScoredCondition(condition, None if shown is None else tuple(Demonstration(**item) for item in shown), **counts)


def _write_table(path: Path, pieces: Pieces, items: Sequence[Item]) -> None:
    label = pa.dictionary(pa.int8(), pa.string())
    schema = pa.schema(
        [("condition", pa.int32()), ("row", pa.int64()), ("sentiment", label), ("predicted", label)]
        + [(f"logprob_{name}", pa.float32()) for name in LABELS]
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for item in items:
            rows = _rows(pieces.read(item))
            index = pa.array(np.full(len(rows), item.condition, dtype=np.int32))
            labels = [pa.DictionaryArray.from_arrays(rows[name].combine_chunks(), _NAMES) for name in ("sentiment", "predicted")]
            writer.write_table(pa.table([index, rows["row"], *labels, rows["negative"], rows["positive"]], schema=schema))


def _content_free_table(pieces: Pieces, conditions: Sequence[Condition], inputs: Sequence[tuple[str, str]]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in ("condition", "kind", "text", "logprob_negative", "logprob_positive")}
    for index in range(len(conditions) if inputs else 0):
        table = pieces.read(Item(0, index))
        for row in reversed(table.filter(pa.compute.less(table["row"], 0)).to_pylist()):  # in the order of the inputs
            kind, text = inputs[-row["row"] - 1]
            for name, value in zip(columns, (index, kind, text, row["negative"], row["positive"]), strict=True):
                columns[name].append(value)
    types = (pa.int32(), pa.string(), pa.string(), pa.float32(), pa.float32())
    return pa.table({name: pa.array(values, kind) for (name, values), kind in zip(columns.items(), types, strict=True)})


def _rows(table: pa.Table) -> pa.Table:
    """Without the content-free inputs."""
    return table.filter(pa.compute.greater(table["row"], 0))


def _indices(column: pa.Array) -> np.ndarray:
    """Places of labels in `LABELS`, `UNCERTAIN` behind them: looked up for the few names that occur."""
    encoded = column.dictionary_encode()
    places = pa.compute.index_in(encoded.dictionary, pa.array(_NAMES)).to_numpy().astype(np.int8)
    return places[encoded.indices.to_numpy()]


def _of_kind(table: pa.Table, kind: str, conditions: int) -> np.ndarray:
    rows = table.filter(pa.compute.equal(table["kind"], kind))
    scores = np.stack([rows[f"logprob_{label}"].to_numpy().reshape(conditions, -1) for label in LABELS], axis=-1)
    if not (finite := np.isfinite(scores).all(axis=(1, 2))).all():
        raise ValueError(f"condition {int(finite.argmin())}: a content-free input's label log-probabilities are not finite")
    return scores


def _reason(error: Exception) -> str:
    """In one line."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _chunks(examples: Iterable[Example], size: int) -> Iterator[list[Example]]:
    chunk: list[Example] = []
    for example in examples:
        chunk.append(example)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
