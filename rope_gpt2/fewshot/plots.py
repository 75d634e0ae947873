"""Metrics → plots, drawn by matplotlib; the same metrics give the same bytes. Each series has a colour and a marker of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.headline import headline_cells, headline_controls, matches, percent, series, signed
from rope_gpt2.fewshot.intervals import Comparison
from rope_gpt2.fewshot.metrics import Metrics, Summary
from rope_gpt2.fewshot.pieces import write_whole
from rope_gpt2.plot_style import LIGHT, Plot, plot_style

STYLES = {  # series → colour, marker, line
    "gold": ("accent", "o", "-"),
    "random": ("orange", "s", "-"),
    "flipped": ("purple", "^", "-"),
    "none": ("green", "D", "-"),
    "zero": ("muted", "v", "-"),
}
CALIBRATION_STYLES = {
    "none": ("accent", "o", "-"),
    "contextual": ("orange", "s", "-"),
    "domain": ("purple", "^", "-"),
    "batch": ("green", "D", "-"),
    "pmi": ("ochre", "v", "-"),
}


def write_plots(metrics: Metrics, folder: Path) -> list[Path]:
    """A PNG of each plot that has data, in `folder`, which is made where it is missing.

    Returns:
        The paths, in the order of the page.
    """
    paths = []
    for plot in draw_plots(metrics):
        paths.append(folder / f"{plot.name}.png")
        save = partial(FigureCanvasAgg(plot.figure).print_png, metadata={"Software": None})
        with plot_style():
            write_whole(paths[-1], save)
    return paths


def draw_plots(metrics: Metrics) -> list[Plot]:
    """All plots that have data: accuracy, spread, controls, confusion, reliability, calibrations."""
    drawers: tuple[Callable[[Metrics], Plot | None], ...] = (
        _draw_accuracy,
        _draw_spread,
        _draw_controls,
        _draw_confusion,
        _draw_reliability,
        _draw_calibrations,
    )
    with plot_style():
        return [plot for draw in drawers if (plot := draw(metrics)) is not None]


def _new_axes(height: float = 3.1, width: float = 4.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=200, layout="constrained", facecolor=LIGHT["paper"])
    return figure, figure.add_subplot()


def _label_shots(axes: Axes, shots: Sequence[int]) -> dict[int, int]:
    """Shots as categories, evenly spaced: 0, 1, 2, 4, 8 … fit neither a linear nor a logarithmic axis."""
    axes.set_xticks(range(len(shots)), [str(count) for count in shots])
    axes.set_xlim(-0.5, len(shots) - 0.5)
    axes.set_xlabel("demonstrations in the prompt (shots)")
    return {count: place for place, count in enumerate(shots)}


def _finish_percent(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 101))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def _draw_baseline(axes: Axes, metrics: Metrics) -> None:
    axes.axhline(100 * metrics.majority_baseline, color=LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1.2, label="majority")


def _legend(figure: Figure, axes: Axes) -> None:
    """In one row above the axes, the baseline last."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: labels[place] == "majority")
    handles, labels = [handles[place] for place in order], [labels[place] for place in order]
    columns = len(labels) if len(labels) < 6 and sum(map(len, labels)) < 34 else (len(labels) + 1) // 2  # what a narrow page has room for
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderaxespad=0.2)


def _describe(summaries: Sequence[Summary], name: str) -> str:
    points = ", ".join(f"{summary.shots} shots {percent(summary.accuracy_mean)} %" for summary in summaries)
    return f"{name}: {points}."


def _draw_accuracy(metrics: Metrics) -> Plot:
    figure, axes = _new_axes()
    chosen = {labels: series(metrics, labels) for labels in DEMONSTRATION_LABELS}
    headline = metrics.summaries[metrics.headline].demonstration_labels
    chosen = {labels: line for labels, line in chosen.items() if labels == headline or any(summary.shots for summary in line)}
    place = _label_shots(axes, sorted({summary.shots for line in chosen.values() for summary in line}))
    _draw_baseline(axes, metrics)
    for number, (labels, line) in enumerate(chosen.items()):
        colour, marker, style = STYLES[labels]
        x = [place[summary.shots] + 0.07 * (number - (len(chosen) - 1) / 2) for summary in line]  # so that none hides another
        low, high, mean = ([100 * value for value in values] for values in zip(*((*s.ci95, s.accuracy_mean) for s in line), strict=True))
        if labels == headline and len(line) > 1:
            axes.fill_between(x, low, high, color=LIGHT[colour], alpha=0.16, linewidth=0)
        else:
            axes.vlines(x, low, high, color=LIGHT[colour], linewidth=1, alpha=0.7)
        axes.plot(x, mean, color=LIGHT[colour], linestyle=style, marker=marker, label=labels, zorder=4 if labels == headline else 3)
        for left, summary in zip(x, line, strict=True):
            tip = f"tip:{labels}, {summary.shots} shots: {percent(summary.accuracy_mean)} %, {_interval(summary.ci95)}"
            axes.plot(left, 100 * summary.accuracy_mean, color=LIGHT[colour], marker=marker, gid=tip, clip_on=False, zorder=4)
    _finish_percent(axes, "accuracy, %")
    _legend(figure, axes)
    text = " ".join(_describe(line, f"{labels} labels") for labels, line in chosen.items())
    return Plot("accuracy", "Accuracy against shots, with 95 % intervals", text, figure)


def _interval(interval: tuple[float, float]) -> str:
    return f"95 % interval {percent(interval[0])} to {percent(interval[1])}"


def _draw_spread(metrics: Metrics) -> Plot | None:
    """Each seed a column of its orders: spread along the column is order, between columns is the draw."""
    line = series(metrics)
    groups = {summary.shots: [cell for cell in metrics.cells if cell.shots == summary.shots and matches(cell, summary)] for summary in line}
    if max(len(cells) for cells in groups.values()) < 2:
        return None
    figure, axes = _new_axes()
    place = _label_shots(axes, list(groups))
    for summary in line:
        seeds = sorted({cell.seed for cell in groups[summary.shots]})
        for number, seed in enumerate(seeds):
            heights = [100 * cell.accuracy for cell in groups[summary.shots] if cell.seed == seed]
            x = place[summary.shots] + (0.64 * ((number + 0.5) / len(seeds) - 0.5))
            values = percent(min(heights) / 100) + (f" to {percent(max(heights) / 100)}" if len(heights) > 1 else "")
            tip = f"tip:{summary.shots} shots, seed {seed}: {values} %, {len(heights)} order{'s' * (len(heights) > 1)}"
            axes.plot(
                [x] * len(heights), heights, "o", color=LIGHT["accent"], alpha=0.5, markersize=4, markeredgewidth=0, gid=tip, zorder=3
            )
        mean = 100 * summary.accuracy_mean
        axes.hlines(
            mean,
            place[summary.shots] - 0.38,
            place[summary.shots] + 0.38,
            color=LIGHT["orange"],
            linewidth=1.8,
            label="mean" if summary is line[0] else "_",
        )
    low, high = axes.get_ylim()
    if low < 100 * metrics.majority_baseline < high:  # farther off it would press the spread together
        _draw_baseline(axes, metrics)
    _finish_percent(axes, "accuracy of a cell, %")
    _legend(figure, axes)
    text = " ".join(f"{s.shots} shots: {percent(s.accuracy_min)} to {percent(s.accuracy_max)} % in {s.seeds} seeds." for s in line)
    return Plot("spread", "Accuracy of each seed and order", text, figure)


def _draw_controls(metrics: Metrics) -> Plot | None:
    controls = [control for control in headline_controls(metrics) if control.comparisons]
    names = list(dict.fromkeys(comparison.name for control in controls for comparison in control.comparisons))
    if not names:
        return None
    figure, axes = _new_axes()
    place = _label_shots(axes, [control.shots for control in controls])
    axes.axhline(0, color=LIGHT["ink"], linewidth=1)
    for number, name in enumerate(names):
        found = [(control.shots, one) for control in controls for one in control.comparisons if one.name == name]
        offset = 0.6 * ((number + 0.5) / len(names) - 0.5)
        points = [(place[shots] + offset, one, f"{shots} shots, {name}: {_difference(one)}") for shots, one in found]
        _draw_intervals(axes, points, STYLES.get(name.split()[-1], STYLES["zero"]), name.replace("-", "−"))
    axes.set_ylabel("difference, percentage points")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    _legend(figure, axes)
    text = " ".join(f"{control.shots} shots, {one.name}: {_difference(one)}." for control in controls for one in control.comparisons)
    return Plot("controls", "What changes when the demonstrations' labels change", text, figure)


def _difference(comparison: Comparison) -> str:
    low, high = comparison.ci95
    return f"{signed(comparison.difference)} points, 95 % interval {signed(low)} to {signed(high)}"


def _draw_intervals(axes: Axes, points: Sequence[tuple[float, Any, str]], style: tuple[str, str, str], label: str) -> None:
    """A mark with its interval for each (x, comparison or summary, tooltip)."""
    colour, marker, _ = style
    for number, (x, one, tip) in enumerate(points):
        middle = one.difference if isinstance(one, Comparison) else one.accuracy_mean
        axes.vlines(x, 100 * one.ci95[0], 100 * one.ci95[1], color=LIGHT[colour], linewidth=1.6)
        label_once = label if number == 0 else "_"
        axes.plot(x, 100 * middle, color=LIGHT[colour], marker=marker, linestyle="none", label=label_once, gid=f"tip:{tip}")


def _draw_confusion(metrics: Metrics) -> Plot:
    headline = metrics.summaries[metrics.headline]
    cells = headline_cells(metrics)
    counts = [[sum(cell.confusion[true][column] for cell in cells) for column in range(3)] for true in range(2)]
    columns = [*LABELS, "neither"] if any(row[2] for row in counts) else list(LABELS)
    figure, axes = _new_axes()
    for true, row in enumerate(counts):
        for column in range(len(columns)):
            share = row[column] / max(sum(row), 1)
            colour = LIGHT["accent"] if column == true else LIGHT["orange"]
            axes.add_patch(Rectangle((column + 0.02, true + 0.02), 0.96, 0.96, facecolor=colour, alpha=0.06 + 0.4 * share, linewidth=0))
            axes.text(column + 0.5, true + 0.44, f"{percent(share)} %", ha="center", va="center", fontsize=15)
            axes.text(column + 0.5, true + 0.68, f"{row[column]:,}", ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, len(columns)), ylim=(2, 0), xlabel=f"predicted, {headline.shots} shots", ylabel="label")
    axes.set_xticks([place + 0.5 for place in range(len(columns))], columns)
    axes.set_yticks([0.5, 1.5], LABELS, rotation=90, va="center")
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    text = " ".join(
        f"Of {sum(row):,} {LABELS[true]} reviews, " + ", ".join(f"{row[i]:,} predicted {name}" for i, name in enumerate(columns)) + "."
        for true, row in enumerate(counts)
    )
    return Plot("confusion", "Confusion matrix of the headline", text, figure)


def _draw_reliability(metrics: Metrics) -> Plot | None:
    bins = metrics.reliability
    if bins is None or not bins.count:
        return None
    figure = Figure(figsize=(4.6, 3.1), dpi=200, layout="constrained", facecolor=LIGHT["paper"])
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    start = 50 if min(bins.confidence) >= 0.5 else 0
    upper.plot([start, 100], [start, 100], color=LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1.2)
    x, y = [100 * value for value in bins.confidence], [100 * value for value in bins.accuracy]
    upper.plot(x, y, color=LIGHT["accent"])
    lower.bar(x, bins.count, width=(100 - start) / 40, color=LIGHT["accent"], alpha=0.45)
    triples = list(zip(bins.confidence, bins.accuracy, bins.count, strict=True))
    words = [f"confidence {percent(c)} %, accuracy {percent(a)} %, {n:,} predictions" for c, a, n in triples]
    for place, tip in enumerate(words):
        upper.plot(x[place], y[place], "o", color=LIGHT["accent"], gid=f"tip:{tip}", clip_on=False)
    upper.set(ylabel="accuracy, %", xlim=(start - 1, 101))
    lower.set(ylabel="count", xlabel="confidence, %")
    lower.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    lower.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return Plot("reliability", "Reliability diagram of the headline", "; ".join(words) + ".", figure)


def _draw_calibrations(metrics: Metrics) -> Plot | None:
    lines = {name: series(metrics, calibration=name) for name in CALIBRATION_STYLES}
    lines = {name: line for name, line in lines.items() if line}
    if len(lines) < 2:
        return None
    figure, axes = _new_axes()
    place = _label_shots(axes, sorted({summary.shots for line in lines.values() for summary in line}))
    _draw_baseline(axes, metrics)
    for number, (name, line) in enumerate(lines.items()):
        offset = 0.66 * ((number + 0.5) / len(lines) - 0.5)
        points = [(place[s.shots] + offset, s, f"{name}, {s.shots} shots: {percent(s.accuracy_mean)} %, {_interval(s.ci95)}") for s in line]
        _draw_intervals(axes, points, CALIBRATION_STYLES[name], name)
    _finish_percent(axes, "accuracy, %")
    _legend(figure, axes)
    text = " ".join(_describe(line, f"calibration {name}") for name, line in lines.items())
    return Plot("calibrations", "Accuracy under each calibration", text, figure)
