"""Metrics → report.html: one page that needs nothing but itself.

Its text is in page.html.j2, its looks in page.css, what it does in page.js (sorting, filters, the theme; without scripts the page is
whole but for these). Every figure is of `Metrics`, but for those of the mistakes and of how the run was made: cells of tables and figures
of the head carry the unrounded value in `data-value`.
Reviews are inert: they are escaped, and a Content-Security-Policy lets no script run but the page's own, nor anything be fetched.
"""

import base64
import dataclasses
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from rope_gpt2.fewshot.headline import headline_controls, matches, percent, signed
from rope_gpt2.fewshot.metrics import Metrics
from rope_gpt2.fewshot.mistakes import Mistake
from rope_gpt2.fewshot.pieces import write_whole
from rope_gpt2.fewshot.plots import draw_plots
from rope_gpt2.plot_style import DARK, LIGHT, to_svg

_FOLDER = Path(__file__).parent
_MISSING = "–"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What was run.

    Attributes:
        model: the checkpoint, as it was named.
        data: the CSV, as it was named.
        manifest: of the run: command, versions, hashes, device, precision and more; whatever it holds is shown.
    """

    model: str
    data: str
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: field of the rows, heading, explanation, how a value is put into words; text columns can be filtered."""

    field: str
    heading: str
    help: str = ""
    show: Callable[[Any], str] = str
    text: bool = False


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table of the page.

    Attributes:
        name: its id.
        caption: what a row is.
        columns: those in which rows differ, and all figures.
        rows: for each row what each column shows and the value behind it; for an interval, its ends.
        constants: the columns in which all rows are the same, with that value.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[tuple[str, Any]]]
    constants: Sequence[tuple[str, str]]


def decimals(value: float) -> str:
    """Three decimals.

    >>> decimals(0.04561), decimals(-0.5)
    ('0.046', '−0.500')
    """
    return f"{value:.3f}".replace("-0.000", "0.000").replace("-", "−")


def p_value(value: float) -> str:
    """Three decimals, or that it is smaller.

    >>> p_value(0.04561), p_value(1e-9)
    ('0.046', '< 0.001')
    """
    return decimals(value) if value >= 0.001 else "< 0.001"


def _ends(interval: Sequence[float], show: Callable[[float], str] = percent) -> str:
    return f"{show(interval[0])} to {show(interval[1])}"


def _visible(text: str) -> str:
    return text.replace("\n", "\\n")


_CONDITION = (
    Column("shots", "shots", "demonstrations in the prompt"),
    Column("demonstration_labels", "labels", "of the demonstrations: gold, random, flipped or none", text=True),
    Column("selection", "selection", "how the demonstrations are chosen", text=True),
    Column("template", "template", "layout of the prompt", _visible, text=True),
    Column("label_words", "label words", "negative/positive", text=True),
    Column("calibration", "calibration", "of the scores, after the fact", text=True),
)
_SUMMARIES = (
    *_CONDITION,
    Column("accuracy_mean", "accuracy %", "mean of the cells", percent),
    Column("ci95", "95 % interval", "of the mean, over queries and seeds both; of a single seed, over its orders", _ends),
    Column("accuracy_std", "std", "standard deviation over seeds, in percentage points", percent),
    Column("accuracy_min", "min", "lowest cell, %", percent),
    Column("accuracy_max", "max", "highest cell, %", percent),
    Column("majority_baseline", "majority %", "accuracy of always answering the commoner label", percent),
    Column("balanced_accuracy_mean", "balanced %", "mean of the recalls of both labels", percent),
    Column("macro_f1_mean", "macro-F1", "mean of the F1 of both labels, %", percent),
    Column("mcc_mean", "MCC", "Matthews correlation coefficient, −1 to 1", decimals),
    Column("auroc_mean", "AUROC", "area under the ROC curve, 0 to 1", decimals),
    Column("ece_mean", "ECE", "expected calibration error, 0 to 1", decimals),
    Column("predicted_positive_mean", "positive %", "share predicted positive", percent),
    Column("uncertain_mean", "neither %", "share that names neither label", percent),
    Column("n", "n", "queries"),
    Column("seeds", "seeds", "draws of demonstrations"),
    Column("orders", "orders", "orders of each draw"),
)
_CALIBRATIONS = tuple(
    column for column in _SUMMARIES if column.field in ("calibration", "accuracy_mean", "ci95", "ece_mean", "predicted_positive_mean")
)
_CELLS = (
    _CONDITION[0],
    Column("seed", "seed", "draw of demonstrations"),
    Column("order", "order", "order of the draw"),
    *_CONDITION[1:],
    Column("accuracy", "accuracy %", "fraction right", percent),
    Column("wilson95", "95 % interval", "over queries (Wilson)", _ends),
    Column("balanced_accuracy", "balanced %", "mean of the recalls of both labels", percent),
    Column("macro_f1", "macro-F1", "mean of the F1 of both labels, %", percent),
    Column("mcc", "MCC", "Matthews correlation coefficient, −1 to 1", decimals),
    Column("auroc", "AUROC", "area under the ROC curve, 0 to 1", decimals),
    Column("ece", "ECE", "expected calibration error, 0 to 1", decimals),
    Column("predicted_positive", "positive %", "share predicted positive", percent),
    Column("uncertain", "neither %", "share that names neither label", percent),
    Column("n", "n", "queries"),
)
_COMPARISONS = (
    Column("shots", "shots", "demonstrations in the prompt"),
    Column("name", "comparison", "accuracy under the first less that under the second", _visible, text=True),
    Column("difference", "points", "difference in percentage points", signed),
    Column("ci95", "95 % interval", "paired by query", lambda interval: _ends(interval, signed)),
    Column("p_value", "p", "of no difference", p_value),
    Column("smallest_detectable", "could be shown", "difference that 80 % of such comparisons would have shown, in points", percent),
    Column("draws", "draws", "paired draws of demonstrations: seeds, or orders of a single one"),
    Column("n", "n", "queries"),
)
_VARIANCE = (
    *(column for column in _CONDITION if column.field not in ("template", "label_words")),
    *(
        Column(name, name, help_, lambda value: f"{1e4 * value:.2f}")
        for name, help_ in (
            ("total", "variance of the cells' accuracies, in points squared"),
            ("seeds", "from the draw of demonstrations, in points squared"),
            ("orders", "from their order, in points squared"),
            ("templates", "from template and label words, in points squared"),
            ("residual", "from what is left, in points squared"),
        )
    ),
)
_BIAS = (
    *_CONDITION,
    Column("recency", "recency", "towards the label shown last, in points", signed),
    Column("majority", "majority label", "towards the label shown most, in points", signed),
    Column("predicted_positive", "positive %", "share predicted positive", percent),
)
_ORDER_CHOICES = (
    *_CONDITION,
    Column("method", "method", "entropy over the predictions of a probing set, global or local", text=True),
    Column("top", "kept", "orders kept of each draw"),
    Column("orders", "of", "orders of each draw"),
    Column("accuracy_mean", "accuracy %", "of the orders kept", percent),
    Column("accuracy_all", "all orders %", "mean of all orders", percent),
    Column("accuracy_std", "std", "over the cells kept, in points", percent),
    Column("seeds", "seeds", "draws of demonstrations"),
)


def write_page(metrics: Metrics, run_info: RunInfo, mistakes: Sequence[Mistake], path: Path) -> None:
    """The page, whole or not at all."""
    text = render_page(metrics, run_info, mistakes)
    write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8", newline="\n", errors="replace"))


def render_page(metrics: Metrics, run_info: RunInfo, mistakes: Sequence[Mistake]) -> str:
    """The page as text."""
    command = run_info.manifest.get("command", "")
    script = (_FOLDER / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(percent=percent, signed=signed, visible=_visible)
    return environment.get_template("page.html.j2").render(
        metrics=metrics,
        headline=metrics.summaries[metrics.headline],
        run=run_info,
        mistakes=mistakes,
        asks_for_label=run_info.manifest.get("options", {}).get("scoring") != "channel",
        plots={plot.name: Markup(to_svg(plot)) for plot in draw_plots(metrics)},
        controls=headline_controls(metrics),
        tables=_build_tables(metrics),
        command=command if isinstance(command, str) else shlex.join(command),
        manifest=json.dumps(dict(run_info.manifest), indent=2, ensure_ascii=False, default=str),
        colours={name: (LIGHT[name], DARK[name]) for name in LIGHT},
        style=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=digest,
    )


def _build_tables(metrics: Metrics) -> dict[str, PageTable]:
    comparisons = [
        {**dataclasses.asdict(comparison), "shots": control.shots}
        for control in headline_controls(metrics)
        for comparison in control.comparisons
    ]
    headline = metrics.summaries[metrics.headline]
    calibrated = [one for one in metrics.summaries if one.shots == headline.shots and matches(one, headline, calibration=one.calibration)]
    sources: tuple[tuple[str, str, Sequence[Column], Sequence[Any]], ...] = (
        ("summaries", "One row: all seeds and orders of a condition.", _SUMMARIES, metrics.summaries),
        ("cells", "One row: one condition under one calibration, all queries.", _CELLS, metrics.cells),
        ("comparisons", "Differences in accuracy, paired by query.", _COMPARISONS, comparisons),
        ("calibrations", f"At {headline.shots} shots, the headline's other conditions kept.", _CALIBRATIONS, calibrated),
        ("variance", "Variance of accuracy, in percentage points squared, by where it comes from.", _VARIANCE, metrics.variance),
        ("bias", "Differences of the share predicted positive, by what the prompts show (Zhao et al. 2021).", _BIAS, metrics.bias),
        ("order-choices", "Orders chosen by entropy, without labels (Lu et al. 2021).", _ORDER_CHOICES, metrics.order_choices),
    )
    return {name: _build_table(name, caption, columns, rows) for name, caption, columns, rows in sources if rows}


def _build_table(name: str, caption: str, columns: Sequence[Column], rows: Sequence[Any]) -> PageTable:
    """What is the same in all rows of a longer table is said once, above it."""
    values = [[row[column.field] if isinstance(row, dict) else getattr(row, column.field) for column in columns] for row in rows]
    fixed = {"n", "seed", "order", "uncertain", "uncertain_mean", "majority_baseline", "draws"}
    same = [
        len({line[place] for line in values}) == 1 and (column.text or column.field in fixed or values[0][place] is None)
        for place, column in enumerate(columns)
    ]
    return PageTable(
        name=name,
        caption=caption,
        columns=[column for column, left_out in zip(columns, same, strict=True) if not left_out],
        rows=[
            [
                (_MISSING if value is None else column.show(value), value)
                for column, value, left_out in zip(columns, line, same, strict=True)
                if not left_out
            ]
            for line in values
        ],
        constants=[
            (column.heading, column.show(values[0][place]) if values[0][place] is not None else _MISSING)
            for place, column in enumerate(columns)
            if same[place]
        ],
    )
