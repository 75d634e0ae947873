"""Plots: the same metrics give the same bytes, what has no data is not drawn, and the SVG holds the figures of the metrics."""

import re
import warnings
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest
from PIL import Image
from sample_scores import sample_scores

from rope_gpt2.fewshot.headline import headline_cells, headline_controls, percent, series, signed
from rope_gpt2.fewshot.metrics import Metrics, evaluate
from rope_gpt2.fewshot.plots import draw_plots, write_plots
from rope_gpt2.plot_style import DARK, LIGHT, to_svg

ALL = ["accuracy", "spread", "controls", "confusion", "reliability", "calibrations"]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return evaluate(sample_scores())


def names(metrics: Metrics) -> list[str]:
    return [plot.name for plot in draw_plots(metrics)]


def contrast(one: str, other: str) -> float:
    """Of two colours (WCAG 2.2, relative luminance)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_a_run_with_everything_gives_every_plot(metrics, tmp_path):
    paths = write_plots(metrics, tmp_path / "plots")
    assert [path.name for path in paths] == [f"{name}.png" for name in ALL]
    assert sorted((tmp_path / "plots").iterdir()) == sorted(paths)
    for path in paths:
        with Image.open(path) as image:
            image.verify()
            assert min(image.size) > 300


def test_the_same_metrics_give_the_same_bytes(metrics, tmp_path):
    first, second = (write_plots(metrics, tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert [to_svg(plot) for plot in draw_plots(metrics)] == [to_svg(plot) for plot in draw_plots(metrics)]


def test_settings_of_the_user_change_nothing_and_are_left_as_they_were(metrics, tmp_path):
    first = [path.read_bytes() for path in write_plots(metrics, tmp_path / "a")]
    with matplotlib.rc_context({"axes.facecolor": "yellow", "font.size": 30, "savefig.dpi": 10, "svg.fonttype": "path"}):
        before = dict(matplotlib.rcParams)
        assert [path.read_bytes() for path in write_plots(metrics, tmp_path / "b")] == first
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"shots": (0,), "labels": ("gold",), "content_free": ()}, {"spread", "controls"}),
        ({"labels": ("gold",), "shots": (4,), "seeds": 1, "orders": 1}, {"spread", "controls"}),
        ({"generated": True}, {"reliability", "calibrations"}),
    ],
    ids=["0 shots", "one cell", "generated"],
)
def test_what_has_no_data_is_not_drawn(options, missing, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert set(names(evaluate(sample_scores(**options)))) == set(ALL) - missing


def test_one_calibration_is_not_compared():
    assert "calibrations" not in names(evaluate(sample_scores(), ["none"]))


def test_answers_that_name_neither_label_have_a_column():
    generated, scored = (
        next(plot for plot in draw_plots(evaluate(sample_scores(generated=generated))) if plot.name == "confusion")
        for generated in (True, False)
    )
    assert "neither" in to_svg(generated)
    assert "neither" not in to_svg(scored)


def test_svg_is_sound_takes_the_colours_of_the_page_and_is_named_for_screen_readers(metrics):
    ids: list[str] = []
    for plot in draw_plots(metrics):
        svg = to_svg(plot)
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        title, description = list(root)[:2]
        assert (title.text, description.text) == (plot.title, plot.description)
        assert (root.get("aria-labelledby"), root.get("aria-describedby")) == (title.get("id"), description.get("id"))
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'(href="|url\()#[^")]*', "", svg)), "a colour that is none of the page's"
        own = [element.get("id") for element in root.iter() if element.get("id")]
        assert set(re.findall(r'(?:href="|url\()#([^")]*)', svg)) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_the_accuracy_plot_tells_every_point(metrics):
    (accuracy,) = (plot for plot in draw_plots(metrics) if plot.name == "accuracy")
    svg = to_svg(accuracy)
    for labels in ("gold", "random", "flipped", "none"):
        for summary in series(metrics, labels):
            tip = f"{labels}, {summary.shots} shots: {percent(summary.accuracy_mean)} %, 95 % interval"
            assert f"<title>{tip} {percent(summary.ci95[0])} to {percent(summary.ci95[1])}</title>" in svg


def test_the_confusion_matrix_is_the_sum_of_the_headline_cells(metrics):
    (confusion,) = (plot for plot in draw_plots(metrics) if plot.name == "confusion")
    svg = to_svg(confusion)
    cells = headline_cells(metrics)
    assert len(cells) == 6
    for true in range(2):
        total = sum(sum(cell.confusion[true]) for cell in cells)
        for predicted in range(2):
            count = sum(cell.confusion[true][predicted] for cell in cells)
            assert f">{count:,}</text>" in svg
            assert f">{percent(count / total)} %</text>" in svg


def test_the_control_plot_tells_every_comparison(metrics):
    (controls,) = (plot for plot in draw_plots(metrics) if plot.name == "controls")
    for control in headline_controls(metrics):
        for comparison in control.comparisons:
            assert f"{control.shots} shots, {comparison.name}: {signed(comparison.difference)} points" in controls.description


def test_every_series_begins_at_0_shots(metrics):
    assert {labels: [summary.shots for summary in series(metrics, labels)] for labels in ("gold", "flipped")} == {
        "gold": [0, 1, 4, 16],
        "flipped": [0, 1, 4, 16],
    }
    assert [summary.calibration for summary in series(metrics, calibration="batch")] == ["batch"] * 4


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_stand_out_from_the_page(theme):
    assert contrast(theme["ink"], theme["paper"]) > 12
    for name in ("muted", "accent", "orange", "purple", "green", "ochre"):
        assert contrast(theme[name], theme["paper"]) >= 4.5, name
