"""Colours and letters of all plots, and a plot as SVG in the colours of the page that holds it.

A plot is drawn in the colours of `LIGHT`; its SVG names them as CSS variables, so a page can be dark. They are told apart by the
colour-blind (after Okabe and Ito 2008).
"""

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

LIGHT = {
    "paper": "#fffffe",
    "ink": "#1a1f26",
    "muted": "#5a6472",
    "rule": "#d5dae1",
    "accent": "#0b64a4",
    "orange": "#bf5300",
    "purple": "#a03f86",
    "green": "#0a7757",
    "ochre": "#7d6608",
}
DARK = {
    "paper": "#14171c",
    "ink": "#e8ebf0",
    "muted": "#a0a9b6",
    "rule": "#39414d",
    "accent": "#6cb8f0",
    "orange": "#f0a15c",
    "purple": "#e094c8",
    "green": "#4fc9a0",
    "ochre": "#d8c15a",
}
_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 10,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["rule"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LIGHT["rule"],
    "grid.linewidth": 0.6,
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.columnspacing": 1.0,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "svg.fonttype": "none",  # text stays text: searched, read aloud, in the page's font
    "svg.hashsalt": "rope-gpt2",
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn plot.

    Attributes:
        name: of its file, without the ending.
        title: what it shows, in some words.
        description: its figures in words, for those who do not see it.
        figure: matplotlib's.
    """

    name: str
    title: str
    description: str
    figure: Figure


def plot_style() -> AbstractContextManager[None]:
    """matplotlib's settings within the context, whatever the user's own are."""
    settings: dict[Any, Any] = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    return matplotlib.rc_context(settings | _RC)


def to_svg(plot: Plot) -> str:
    """The plot as an SVG element for a page that defines `--paper`, `--ink` and so on, with its title and description for screen readers.

    Marks with a tooltip carry it as `<title>`; ids begin with the plot's name, so that several plots can stand on one page.
    """
    buffer = io.StringIO()
    with plot_style():
        FigureCanvasSVG(plot.figure).print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="tip:([^"]*)">', r"<g><title>\1</title>", svg)
    svg = re.sub(
        r'<g id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|PathCollection|FillBetween)[^"]*">', "<g>", svg
    )
    svg = re.sub(r' id="', f' id="{plot.name}-', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\g<1>#{plot.name}-", svg)
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace("'DejaVu Sans'", "var(--sans)")
    title, description = f"{plot.name}-title", f"{plot.name}-description"
    head = (
        f'<svg role="img" aria-labelledby="{title}" aria-describedby="{description}"{_view_box(svg)}>'
        f'<title id="{title}">{escape(plot.title)}</title><desc id="{description}">{escape(plot.description)}</desc>'
    )
    return head + svg[svg.index(">") + 1 :]


def _view_box(svg: str) -> str:
    match = re.search(r' viewBox="[^"]*"', svg)
    return (match.group() if match else "") + ' xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
