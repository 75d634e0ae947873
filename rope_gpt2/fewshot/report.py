"""Cells and summaries → files and a table. Every file is written beside its place and renamed: never half there."""

import csv
import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.table import Table

from rope_gpt2.fewshot.metrics import Cell, Summary
from rope_gpt2.fewshot.scoring import Prediction, prediction_from_row

METRICS_FILE, PREDICTIONS_FILE, MANIFEST_FILE = "metrics.json", "predictions.csv", "manifest.json"


def write_predictions(predictions: Sequence[Prediction], path: Path) -> None:
    """predictions.csv: one line a prediction, log-probabilities in nats."""

    def write(file: TextIO) -> None:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Prediction._fields)
        writer.writerows(predictions)

    _write_whole(path, write)


def write_metrics(cells: Sequence[Cell], summaries: Sequence[Summary], path: Path) -> None:
    """metrics.json: `cells` (one for every shots × seed) and `summary` (one for every shots); accuracies are fractions in [0, 1]."""
    content = {
        "cells": [dataclasses.asdict(cell) for cell in cells],
        "summary": [dataclasses.asdict(summary) for summary in summaries],
    }
    write_json(content, path)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Indented JSON with a line end."""
    _write_whole(path, lambda file: file.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n"))


def summary_table(summaries: Sequence[Summary], title: str) -> Table:
    """The table that `evaluate` prints."""
    table = Table(title=title, title_justify="left")
    for column in ("shots", "accuracy %", "std over seeds", "95 % interval", "majority %", "n", "seeds"):
        table.add_column(column, justify="right")
    for summary in summaries:
        table.add_row(
            str(summary.shots),
            f"{100 * summary.accuracy_mean:.1f}",
            f"{100 * summary.accuracy_std:.1f}" if summary.shots and summary.seeds > 1 else "-",
            f"{100 * summary.ci95[0]:.1f} to {100 * summary.ci95[1]:.1f}",
            f"{100 * summary.majority_baseline:.1f}",
            str(summary.n),
            str(summary.seeds),
        )
    return table


def _write_whole(path: Path, write: Any) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            write(file)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_predictions(path: Path) -> list[Prediction]:
    """What `write_predictions` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [prediction_from_row(row) for row in csv.DictReader(file)]
