"""Metrics → what the terminal shows: a table and the sentences below it."""

from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from rope_gpt2.fewshot.metrics import Metrics, Summary
from rope_gpt2.fewshot.scores import ScoredCondition

# a column for each setting in which summaries differ
_SETTINGS = {
    "demonstration_labels": "labels",
    "selection": "selection",
    "template": "template",
    "label_words": "label words",
    "calibration": "calibration",
}


def summary_table(metrics: Metrics, title: str, calibration: str | None = "none") -> Table:
    """Accuracy by setting.

    Args:
        metrics: of a run.
        title: above the table.
        calibration: rows of this one where there are any, else of all; None for all.
    """
    summaries = [summary for summary in metrics.summaries if summary.calibration == calibration] or list(metrics.summaries)
    shown = [name for name in _SETTINGS if len({getattr(summary, name) for summary in summaries}) > 1]
    table = Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("shots", *(_SETTINGS[name] for name in shown)):
        table.add_column(column, justify="right" if column == "shots" else "left", no_wrap=column != "template")
    for column in ("accuracy %", "std", "95 % interval", "majority %", "n", "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for summary in sorted(summaries, key=lambda summary: summary.shots):
        settings = [escape(str(getattr(summary, name)).replace("\n", "\\n")) for name in shown]
        table.add_row(str(summary.shots), *settings, *_figures(summary))
    return table


def _figures(summary: Summary) -> tuple[str, ...]:
    return (
        f"{100 * summary.accuracy_mean:.1f}",
        f"{100 * summary.accuracy_std:.1f}" if summary.accuracy_std is not None else "-",
        f"{100 * summary.ci95[0]:.1f} to {100 * summary.ci95[1]:.1f}",
        f"{100 * summary.majority_baseline:.1f}",
        str(summary.n),
        str(summary.seeds),
    )


def notes(metrics: Metrics, conditions: Sequence[ScoredCondition]) -> list[str]:
    """What was left out of the prompts and what the controls say, a sentence each."""
    sentences = []
    if dropped := sum(scored.prompts_dropped for scored in conditions):
        demonstrations = sum(scored.demonstrations_dropped for scored in conditions)
        sentences.append(f"{dropped} prompts exceeded the context: their {demonstrations} oldest demonstrations were dropped.")
    if trimmed := sum(scored.prompts_trimmed for scored in conditions):
        sentences.append(f"{trimmed} prompts exceeded the context alone: their reviews were cut at the end.")
    if uncertain := sum(round(cell.uncertain * cell.n) for cell in metrics.cells if cell.calibration == "none"):
        sentences.append(f"{uncertain} answers named neither label and count as wrong.")
    return [*sentences, metrics.verdict]
