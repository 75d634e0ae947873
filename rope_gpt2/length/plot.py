"""A study → one figure: perplexity by length, loss by position, attention distance by layer."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rope_gpt2.length.results import Result, Study
from rope_gpt2.plot_style import LIGHT, Plot, plot_style

STYLES = {  # windows, positions → colour, marker, line
    ("apart", "all"): ("accent", "o", "-"),
    ("apart", "beyond"): ("accent", "o", ":"),
    ("sliding", "all"): ("orange", "s", "-"),
    ("sliding", "beyond"): ("orange", "s", ":"),
}


def draw(study: Study) -> Plot:
    """The figure, in the style of all plots; the same study gives the same bytes."""
    with plot_style():
        panels = 3 if study.attention else 2
        figure = Figure(figsize=(4.1 * panels, 3.5), dpi=200, layout="constrained", facecolor=LIGHT["paper"])
        axes = figure.subplots(1, panels)
        description = [_draw_lengths(axes[0], study), _draw_positions(axes[1], study)]
        if study.attention:
            description.append(_draw_attention(axes[2], study))
    return Plot("length", "Perplexity by length, loss by position, attention distance", " ".join(description), figure)


def write_image(plot: Plot, path: Path, suffix: str) -> None:
    """Write the figure as .png or .svg, whatever the path ends in."""
    with plot_style():
        if suffix == ".png":
            FigureCanvasAgg(plot.figure).print_png(path, metadata={"Software": None})
        else:
            metadata = {"Date": None, "Creator": None, "Title": plot.title, "Description": plot.description}
            FigureCanvasSVG(plot.figure).print_svg(path, metadata=metadata)


def _draw_lengths(axes: Axes, study: Study) -> str:
    """Lengths as categories, evenly spaced: multiples double."""
    multiples = sorted({result.multiple for result in study.results})
    place = {multiple: number for number, multiple in enumerate(multiples)}
    sentences = []
    for shift, ((windows, positions), (colour, marker, line)) in enumerate(STYLES.items()):
        chosen = [result for result in study.results if (result.windows, result.positions) == (windows, positions)]
        if positions == "beyond":  # where all positions lie beyond, the line would be drawn twice
            counts = {(one.multiple, one.windows): one.tokens for one in study.results if one.positions == "all"}
            chosen = [one for one in chosen if one.tokens != counts[one.multiple, one.windows]]
        if not chosen:
            continue
        x = [place[result.multiple] + 0.04 * (shift - 1.5) for result in chosen]  # so that intervals stand side by side
        y = [float(result.perplexity or 0) for result in chosen]
        name = windows if positions == "all" else f"{windows}, beyond"
        style: dict[str, Any] = {"color": LIGHT[colour], "marker": marker, "linestyle": line}
        axes.errorbar(x, y, yerr=_errors(chosen), label=name, elinewidth=1.2, markersize=4, **style)
        sentences.append(f"{name}: " + ", ".join(f"{value:.1f} at {one.length}" for one, value in zip(chosen, y, strict=True)))
    failed = {result.multiple for result in study.results if result.error}
    labels = [f"{multiple:g} ×\n{study.plan.length(multiple)}" + ("\nno table" if multiple in failed else "") for multiple in multiples]
    axes.set_xticks(range(len(multiples)), labels)
    axes.set_xlim(-0.5, len(multiples) - 0.5)
    axes.set_xlabel("tokens in a window")
    axes.set_ylabel("perplexity")
    values = [float(result.perplexity) for result in study.results if result.perplexity is not None]
    if max(values) > 10 * min(values):
        axes.set_yscale("log")
    _legend(axes)
    return "Perplexity " + "; ".join(sentences) + "."


def _errors(results: list[Result]) -> list[list[float]]:
    """Below and above; 0 where there is no interval."""
    limits = [(one.perplexity or 0.0, one.interval or (one.perplexity or 0.0,) * 2) for one in results]
    return [[value - low for value, (low, _) in limits], [high - value for value, (_, high) in limits]]


def _draw_positions(axes: Axes, study: Study) -> str:
    middles = [(one.from_position + one.to_position) / 2 for one in study.per_position]
    losses = [one.loss for one in study.per_position]
    axes.plot(middles, losses, color=LIGHT["accent"], label=f"windows of {study.per_position_length}")
    shortest = min(result.length for result in study.results)
    axes.plot(middles, [one.reference for one in study.per_position], color=LIGHT["muted"], label=f"same tokens, windows of {shortest}")
    axes.axvline(study.plan.training_length, color=LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1.2, label="training length")
    axes.set_xlim(0, study.per_position_length)
    axes.set_xlabel(f"position in a window of {study.per_position_length}")
    axes.set_ylabel("loss (nats a token)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    _legend(axes)
    return f"Loss from {losses[0]:.2f} nats at the first positions to {losses[-1]:.2f} at the last."


def _draw_attention(axes: Axes, study: Study) -> str:
    layers = sorted({head.layer for head in study.attention})
    axes.plot(
        [head.layer for head in study.attention],
        [head.mean_distance for head in study.attention],
        color=LIGHT["purple"],
        marker="o",
        linestyle="none",
        alpha=0.7,
        label="a head",
    )
    means = [_mean([head.mean_distance for head in study.attention if head.layer == layer]) for layer in layers]
    axes.plot(layers, means, color=LIGHT["ink"], label="mean of the layer")
    axes.axhline((study.attention_length - 1) / 4, color=LIGHT["muted"], linestyle=(0, (4, 3)), linewidth=1.2, label="everywhere alike")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel(f"attention distance (tokens of {study.attention_length})")
    _legend(axes)
    return "Mean attention distance by layer: " + ", ".join(f"{mean:.0f}" for mean in means) + " tokens."


def _legend(axes: Axes) -> None:
    """Above the axes, in two columns, where no curve is."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handletextpad=0.5)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
