"""Metrics → the part that stands at the head of a report, and how its figures are rounded."""

from rope_gpt2.fewshot.cells import Cell
from rope_gpt2.fewshot.controls import Controls
from rope_gpt2.fewshot.metrics import Metrics, Summary


def percent(fraction: float) -> str:
    """A fraction in [0, 1] as percent with one decimal: the only rounding of plots and page.

    >>> percent(0.81249), percent(-0.0001)
    ('81.2', '0.0')
    """
    return f"{100 * fraction:.1f}".replace("-0.0", "0.0")


def signed(difference: float) -> str:
    """A difference of fractions, in percentage points with its sign.

    >>> signed(0.0312), signed(-0.2), signed(-0.0001)
    ('+3.1', '−20.0', '0.0')
    """
    text = percent(difference)
    return text if float(text) == 0 else text.replace("-", "−") if difference < 0 else f"+{text}"


def matches(cell: Cell | Summary, summary: Summary, labels: str | None = None, calibration: str | None = None) -> bool:
    """Whether a cell or summary differs from `summary` in shots, seed and order alone, or also in what is named.

    Without demonstrations there are neither labels nor a selection: 0 shots belong to every series.
    """
    layout = (cell.template, cell.label_words, cell.calibration) == (
        summary.template,
        summary.label_words,
        calibration or summary.calibration,
    )
    shown = (cell.demonstration_labels, cell.selection) == (labels or summary.demonstration_labels, summary.selection)
    return layout and (shown or cell.shots == 0)


def series(metrics: Metrics, labels: str | None = None, calibration: str | None = None) -> list[Summary]:
    """The headline's summaries, by shots; under other demonstration labels or another calibration where named."""
    headline = metrics.summaries[metrics.headline]
    found = {summary.shots: summary for summary in metrics.summaries if matches(summary, headline, labels, calibration)}
    return [found[shots] for shots in sorted(found)]


def headline_cells(metrics: Metrics) -> list[Cell]:
    """The cells that the headline is the mean of."""
    headline = metrics.summaries[metrics.headline]
    return [cell for cell in metrics.cells if cell.shots == headline.shots and matches(cell, headline)]


def headline_controls(metrics: Metrics) -> list[Controls]:
    """The controls of the headline's selection and layout, by shots."""
    headline = metrics.summaries[metrics.headline]
    key = (headline.selection, headline.template, headline.label_words)
    chosen = [one for one in metrics.controls if (one.selection, one.template, one.label_words) == key]
    return sorted(chosen, key=lambda one: one.shots)
