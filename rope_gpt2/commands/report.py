"""`rope-gpt2 report DIR`: metrics, plots and page of a run folder, computed again from its scores without the model."""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from rope_gpt2.commands.parser import Parser
from rope_gpt2.fewshot.calibration import CALIBRATIONS
from rope_gpt2.fewshot.metrics import Metrics, evaluate
from rope_gpt2.fewshot.mistakes import worst_mistakes
from rope_gpt2.fewshot.page import RunInfo, write_page
from rope_gpt2.fewshot.pieces import write_json
from rope_gpt2.fewshot.plots import write_plots
from rope_gpt2.fewshot.report import summary_table
from rope_gpt2.fewshot.run_folder import METRICS, Run, read_run

PAGE, PLOTS = "report.html", "plots"


def build_parser() -> argparse.ArgumentParser:
    """The options of `report`."""
    parser = Parser(
        prog="rope-gpt2 report",
        description=f"Metrics and report of a run of evaluate, from its scores and without the model: {METRICS}, {PAGE}, {PLOTS}/*.png.",
    )
    parser.add_argument("folder", metavar="DIR", help="what evaluate wrote (its --output)")
    parser.add_argument(
        "--calibration",
        nargs="+",
        choices=CALIBRATIONS,
        default=argparse.SUPPRESS,
        help="of the scores, after the fact; by default all that the scores allow",
    )
    return parser


def report(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        InputError: if the folder holds no finished run, or its scores do not allow a calibration.
    """
    options = build_parser().parse_args(list(arguments))
    run = read_run(Path(options.folder))
    metrics = write_report(run, getattr(options, "calibration", None))
    info = describe_run(run)
    console = Console()
    console.print(summary_table(metrics, f"{info.model} on {info.data}"))
    console.print(metrics.verdict, soft_wrap=True, highlight=False)
    console.print(f"{METRICS}, {PAGE}, {PLOTS}/ in {run.folder}", soft_wrap=True)
    return 0


def write_report(run: Run, calibrations: Sequence[str] | None = None, pages: bool = True) -> Metrics:
    """metrics.json, report.html and plots/*.png in the run's folder; plots of an earlier report go.

    Args:
        run: what `read_run` found.
        calibrations: some of `CALIBRATIONS`; None: all that the scores allow.
        pages: page and plots as well; else those of an earlier run go, for they would not fit the metrics.
    """
    metrics = evaluate(run.scores, calibrations)
    write_json(asdict(metrics), run.folder / METRICS)
    shutil.rmtree(run.folder / PLOTS, ignore_errors=True)
    if not pages:
        (run.folder / PAGE).unlink(missing_ok=True)
        return metrics
    channel = run.manifest.get("options", {}).get("scoring") == "channel"
    mistakes = worst_mistakes(run.scores, metrics.summaries[metrics.headline], run.reviews, channel=channel)
    write_page(metrics, describe_run(run), mistakes, run.folder / PAGE)
    write_plots(metrics, run.folder / PLOTS)
    return metrics


def describe_run(run: Run) -> RunInfo:
    """The names that stand at the head of the report."""
    options = run.manifest.get("options", {})
    return RunInfo(str(options.get("checkpoint", "a model")), str(options.get("data", "its data")), run.manifest)
