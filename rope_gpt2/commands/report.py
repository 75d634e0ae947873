"""`rope-gpt2 report DIR`: metrics, plots and page of a run folder, computed again from its scores without the model."""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rope_gpt2.commands.console import stdout_console
from rope_gpt2.commands.model_names import describe_model
from rope_gpt2.commands.parser import Parser
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.calibration import CALIBRATIONS
from rope_gpt2.fewshot.metrics import Metrics, evaluate
from rope_gpt2.fewshot.mistakes import worst_mistakes
from rope_gpt2.fewshot.page import RunInfo, write_page
from rope_gpt2.fewshot.pieces import METRICS, write_json
from rope_gpt2.fewshot.plots import write_plots
from rope_gpt2.fewshot.report import summary_table
from rope_gpt2.fewshot.run_folder import PAGE, PLOT_NAMES, PLOTS, Run, read_run

TITLE = b"<title>Few-shot report:"  # in the head of every page of this package


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
        InputError: if the folder holds no finished run, its scores do not allow a calibration, or it cannot be written to.
    """
    options = build_parser().parse_args(list(arguments))
    run = read_run(Path(options.folder))
    metrics = write_report(run, getattr(options, "calibration", None))
    info = describe_run(run)
    console = stdout_console()
    console.print(summary_table(metrics, f"{info.model} on {info.data}"))
    console.print(metrics.verdict, soft_wrap=True, highlight=False, markup=False)
    console.print(f"{METRICS}, {PAGE}, {PLOTS}/ in {run.folder}", soft_wrap=True, markup=False)
    return 0


def write_report(run: Run, calibrations: Sequence[str] | None = None, pages: bool = True) -> Metrics:
    """metrics.json, report.html and plots/*.png in the run's folder; page and plots of an earlier report go, and nothing else.

    Args:
        run: what `read_run` found.
        calibrations: some of `CALIBRATIONS`; None: all that the scores allow.
        pages: page and plots as well; else those of an earlier run go, for they would not fit the metrics.

    Raises:
        InputError: if the scores do not allow a calibration, the reviews are damaged, or a file cannot be written.
    """
    metrics = evaluate(run.scores, calibrations)
    channel = run.manifest.get("options", {}).get("scoring") == "channel"
    mistakes = worst_mistakes(run.scores, metrics.summaries[metrics.headline], run.reviews, channel=channel) if pages else []
    page, plots = run.folder / PAGE, run.folder / PLOTS
    with _writing(run.folder / METRICS):
        write_json(asdict(metrics), run.folder / METRICS)
    with _writing(page):
        if _is_ours(page):
            page.unlink()
        if pages:
            write_page(metrics, describe_run(run), mistakes, page)
    with _writing(plots):
        _remove_plots(plots)
        if pages:
            write_plots(metrics, plots)
    return metrics


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(f"{path}: cannot be written ({reason}); mend that, then run rope-gpt2 report {path.parent}") from error


def _is_ours(page: Path) -> bool:
    """A page of this package, not one that someone put there under the same name."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return TITLE in file.read(4096)


def _remove_plots(folder: Path) -> None:
    for name in PLOT_NAMES:
        path = folder / f"{name}.png"
        if path.is_file() or path.is_symlink():
            path.unlink()
    with contextlib.suppress(OSError):  # is not there, or holds something else
        folder.rmdir()


def describe_run(run: Run) -> RunInfo:
    """The names that stand at the head of the report."""
    options = run.manifest.get("options", {})
    return RunInfo(describe_model(options, "a model"), str(options.get("data", "its data")), run.manifest)
