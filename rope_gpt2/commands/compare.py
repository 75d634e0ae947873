"""`rope-gpt2 compare A B`: is run B better than run A on the same reviews, at each setting that both have?

`--output FILE.json` holds:

    a, b             folder, checkpoint and data of each run
    calibration      of both runs' scores
    n                reviews compared
    majority_baseline  accuracy of always answering the commoner label
    rows             only_a, only_b: rows that the other run has not; changed: rows with another text or label; all 0 without --common-rows
    settings         a `SettingComparison` each (rope_gpt2/fewshot/comparison.py) and its sentence; accuracies and differences are fractions
    only_a, only_b   settings without a counterpart
    notes, warnings  what was paired in spite of a difference, and what makes the comparison unfair: sentences
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rope_gpt2.commands.console import stdout_console
from rope_gpt2.commands.model_names import describe_model
from rope_gpt2.commands.parser import Parser
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.calibration import CALIBRATIONS, available_calibrations
from rope_gpt2.fewshot.comparison import RunComparison, compare_scores
from rope_gpt2.fewshot.comparison_text import comparison_table, notes, sentences, warnings
from rope_gpt2.fewshot.pairing import RowPairs, keep_rows, pair_rows
from rope_gpt2.fewshot.pieces import PARTIAL, PLAN, write_json
from rope_gpt2.fewshot.run_folder import Run, own_files, read_run


def build_parser() -> argparse.ArgumentParser:
    """The options of `compare`."""
    parser = Parser(
        prog="rope-gpt2 compare",
        description="Two runs of evaluate on the same reviews: is B better than A? For each setting that both have: difference, interval, "
        "p-value (also by Holm's correction over the settings) and the smallest difference that so many reviews could have shown.",
    )
    parser.add_argument("a", metavar="A", help="what evaluate wrote (its --output)")
    parser.add_argument("b", metavar="B", help="the same of another run")
    parser.add_argument("--calibration", choices=CALIBRATIONS, default="none", help="of both runs' scores, after the fact")
    parser.add_argument("--common-rows", action="store_true", help="compare the reviews that both runs hold, where one holds others")
    parser.add_argument("--output", default=argparse.SUPPRESS, metavar="FILE.json", help="write the comparison to this file as well")
    return parser


def compare(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: if a folder holds no finished run, the runs do not hold the same reviews, or they have no setting in common.
    """
    options = build_parser().parse_args(list(arguments))
    folders = Path(options.a), Path(options.b)
    output = Path(options.output) if hasattr(options, "output") else None
    _check(folders, output)
    a, b = (_read(folder, options.calibration) for folder in folders)
    rows = _pair(a, b, options.common_rows)
    scores = keep_rows(a.scores, rows.a), keep_rows(b.scores, rows.b)
    comparison = compare_scores(*scores, options.calibration)
    said = notes(comparison)
    if rows.differing:
        said.insert(0, f"Compared are the {comparison.n} reviews that both runs hold; {rows.differing} rows are left out.")
    warned = warnings(comparison, a.scores, b.scores, a.manifest.get("plan") or {}, b.manifest.get("plan") or {})
    if output is not None:
        _write(output, a, b, comparison, rows, said, warned)
    _print(a, b, comparison, said, warned)
    return 0


def _check(folders: tuple[Path, Path], output: Path | None) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give what evaluate wrote (its --output)")
        if (folder / PARTIAL / PLAN).exists():
            raise InputError(f"{folder}: its run is not finished; finish it with evaluate --resume, or remove {folder / PARTIAL}")
    if folders[0].resolve() == folders[1].resolve():
        raise InputError(f"{folders[1]}: is the folder {folders[0]} once more; give two runs")
    if output is not None and os.path.isdir(output):  # False for a name that is too long
        raise InputError(f"--output {output}: is a folder; give a file")
    own = {path.resolve() for folder in folders for path in own_files(folder)}
    if output is not None and output.resolve() in own:
        raise InputError(f"--output {output}: is a file of a run that is compared; give another file")


def _read(folder: Path, calibration: str) -> Run:
    run = read_run(folder)
    known = available_calibrations(run.scores)
    if calibration not in known:
        raise InputError(
            f"--calibration {calibration}: the scores in {folder} allow {', '.join(known)} alone; choose one of them, or evaluate with it"
        )
    return run


def _pair(a: Run, b: Run, common: bool) -> RowPairs:
    rows = pair_rows(a.scores, a.reviews(a.scores.rows.tolist()), b.scores, b.reviews(b.scores.rows.tolist()))
    runs = f"{a.folder} (A) and {b.folder} (B)"
    if not len(rows.a):
        raise InputError(f"{runs} have no review in common: {rows.first}; give two runs on the same data")
    if rows.differing and not common:
        raise InputError(
            f"{runs} do not hold the same reviews: {rows.differing} rows differ, the first being that {rows.first}; give two runs on the "
            f"same data, or compare the {len(rows.a)} reviews of both by --common-rows"
        )
    return rows


def _print(a: Run, b: Run, comparison: RunComparison, said: Sequence[str], warned: Sequence[str]) -> None:
    console = stdout_console()
    lines = [f"{name}: {run['folder']} ({run['checkpoint']} on {run['data']})" for name, run in (("A", _describe(a)), ("B", _describe(b)))]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    console.print(comparison_table(comparison))
    for line in (*sentences(comparison), *said, *(f"Warning: {sentence}" for sentence in warned)):
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _describe(run: Run) -> dict[str, str]:
    options = run.manifest.get("options") or {}
    return {"folder": str(run.folder), "checkpoint": describe_model(options), "data": str(options.get("data", "unknown"))}


def _write(path: Path, a: Run, b: Run, comparison: RunComparison, rows: RowPairs, said: Sequence[str], warned: Sequence[str]) -> None:
    content: dict[str, Any] = {"a": _describe(a), "b": _describe(b), **asdict(comparison)}
    content["rows"] = {name: getattr(rows, name) for name in ("only_a", "only_b", "changed")}
    for setting, sentence in zip(content["settings"], sentences(comparison), strict=True):
        setting["sentence"] = sentence
    try:
        write_json(content | {"notes": list(said), "warnings": list(warned)}, path)
    except OSError as error:
        raise InputError(f"--output {path}: cannot be written ({error.strerror}); choose another file") from error
