"""The page holds the figures of the metrics, is inert, and works in a browser: wide, narrow, light, dark, printed, without scripts."""

import json
import re
import warnings
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from browser import start_browser
from sample_scores import sample_reviews, sample_scores

from rope_gpt2.fewshot.headline import headline_controls, percent, signed
from rope_gpt2.fewshot.metrics import Metrics, evaluate
from rope_gpt2.fewshot.mistakes import Mistake, worst_mistakes
from rope_gpt2.fewshot.page import RunInfo, decimals, p_value, render_page, write_page
from rope_gpt2.plot_style import DARK, LIGHT

HOSTILE = (
    "</q></pre></details><script>document.title = 'pwned'</script><img src=x onerror='document.title = 1'>"
    """ {{ 7 * 7 }} "&amp; it's"."""
)
MANIFEST = {
    "command": ["rope-gpt2", "evaluate", "--template", "Review: {text}\nSentiment: {label}\n\n"],
    "options": {"checkpoint": "checkpoints/mini", "data": "sst2"},
    "versions": {"python": "3.11.2", "torch": "2.13.0"},
    "files": {"data": {"path": "data/<b>.csv", "sha256": "ab" * 32}},
    "device": {"type": "cpu", "threads": 2},
    "precision": "32-true",
    "nothing": None,
}
INFO = RunInfo("checkpoints/mini", "sst2 & more", MANIFEST)
SHOW = {"mcc": decimals, "mcc_mean": decimals, "auroc": decimals, "auroc_mean": decimals, "ece": decimals, "ece_mean": decimals}


class Page(HTMLParser):
    """Tables of a page as rows of field → (text, attributes), and other elements that carry a value."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[dict[str, tuple[str, dict[str, str | None]]]]] = {}
        self.values: list[tuple[str, dict[str, str | None]]] = []
        self.tags: list[str] = []
        self._table, self._fields, self._cells, self._open = "", [], [], None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag == "table":
            self._table, self._fields = attributes["id"], []
            self.tables[self._table] = []
        elif tag == "th":
            self._fields.append(attributes["data-field"])
        elif tag == "tr":
            self._cells = []
        elif tag == "td" or {"data-value", "data-low"} & attributes.keys():
            self._open = (tag, attributes, "")

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open = (*self._open[:2], self._open[2] + data)

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[0]:
            (self._cells if tag == "td" else self.values).append((self._open[2], self._open[1]))
            self._open = None
        elif tag == "tr" and self._cells:
            self.tables[self._table].append(dict(zip(self._fields, self._cells, strict=True)))

    def value_of(self, **wanted: str) -> tuple[str, dict[str, str | None]]:
        """The one element with such attributes."""
        ((text, attributes),) = [
            (text, attributes)
            for text, attributes in self.values
            if all(attributes.get(name.replace("_", "-")) == value for name, value in wanted.items())
        ]
        return text, attributes


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return evaluate(sample_scores())


@pytest.fixture(scope="module")
def mistakes(metrics: Metrics) -> list[Mistake]:
    scores = sample_scores()
    reviews = dict.fromkeys(sample_reviews(scores), HOSTILE)
    return worst_mistakes(scores, metrics.summaries[metrics.headline], lambda rows: {row: reviews[row] for row in rows})


@pytest.fixture(scope="module")
def page(metrics: Metrics, mistakes: list[Mistake]) -> Page:
    return Page(render_page(metrics, INFO, mistakes))


def expected_text(field: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, str | int):
        return str(value)
    if isinstance(value, list):
        return f"{percent(value[0])} to {percent(value[1])}"
    return SHOW.get(field, percent)(value)


@pytest.mark.parametrize("name", ["summaries", "cells"])
def test_every_figure_of_the_tables_is_that_of_metrics_json(metrics, page, name):
    theirs = json.loads(json.dumps(asdict(metrics)))[name]
    ours = page.tables[name]
    assert len(ours) == len(theirs)
    for row, entry in zip(ours, theirs, strict=True):
        assert {"shots", "demonstration_labels", "calibration"} < row.keys()
        for field, (text, attributes) in row.items():
            value = entry[field]
            assert text == expected_text(field, value), field
            if isinstance(value, list):
                assert [float(attributes[end]) for end in ("data-value", "data-high")] == value
            elif value is None:
                assert attributes["data-value"] == ""
            elif not isinstance(value, str):
                assert float(attributes["data-value"]) == value


@pytest.mark.parametrize("name", ["summaries", "cells"])
def test_a_column_is_left_out_only_where_all_rows_are_the_same_and_is_said_above(metrics, mistakes, page, name):
    text = render_page(metrics, INFO, mistakes)
    entries = [asdict(entry) for entry in getattr(metrics, name)]
    for field in entries[0].keys() - page.tables[name][0].keys() - {"condition", "confusion"}:
        assert len({str(entry[field]) for entry in entries}) == 1
        assert expected_text(field, entries[0][field]).replace("\n", "\\n") in text


def test_the_head_shows_the_headline(metrics, page):
    headline = metrics.summaries[metrics.headline]
    text, attributes = page.value_of(id="headline")
    assert (text, float(attributes["data-value"])) == (percent(headline.accuracy_mean), headline.accuracy_mean)
    text, attributes = page.value_of(id="headline-interval")
    assert text == f"{percent(headline.ci95[0])} to {percent(headline.ci95[1])}"
    assert [float(attributes[end]) for end in ("data-low", "data-high")] == list(headline.ci95)
    for name, value in (("majority baseline", metrics.majority_baseline), ("queries", metrics.n), ("seeds", headline.seeds)):
        assert float(page.value_of(data_name=name)[1]["data-value"]) == value


def test_comparisons_biases_variances_and_order_choices_are_those_of_the_metrics(metrics, page):
    comparisons = [one for control in headline_controls(metrics) for one in control.comparisons]
    for row, comparison in zip(page.tables["comparisons"], comparisons, strict=True):
        assert row["difference"][0] == signed(comparison.difference)
        assert row["p_value"][0] == p_value(comparison.p_value)
        assert row["ci95"][0] == f"{signed(comparison.ci95[0])} to {signed(comparison.ci95[1])}"
        assert float(row["difference"][1]["data-value"]) == comparison.difference
    for name, entries in (("variance", metrics.variance), ("bias", metrics.bias), ("order-choices", metrics.order_choices)):
        for row, entry in zip(page.tables[name], entries, strict=True):
            for field, (_, attributes) in row.items():
                value = getattr(entry, field)
                if not isinstance(value, str):
                    assert attributes["data-value"] == ("" if value is None else str(value))


def test_the_page_is_escaped_names_itself_and_allows_no_network(metrics, mistakes, page):
    text = render_page(metrics, INFO, mistakes)
    assert text.startswith("<!DOCTYPE html>")
    assert "<title>Few-shot report: checkpoints/mini on sst2 &amp; more</title>" in text
    assert "img" not in page.tags
    assert page.tags.count("script") == 1
    assert "{{ 7 * 7 }}" in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text).group(1)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert not re.search(r"""(?:src|href)=["'](?!#|data:,)""", text)
    assert not re.search(r"url\((?!#)|@import", text)


@pytest.mark.parametrize(
    "options",
    [{"shots": (0,), "labels": ("gold",), "content_free": ()}, {"generated": True}, {"shots": (4,), "labels": ("random",), "seeds": 1}],
    ids=["0 shots", "generated", "random labels alone"],
)
def test_a_run_of_little_gives_a_page(options, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_page(evaluate(sample_scores(**options)), RunInfo("a", "b", {}), [], tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]
    assert text.rstrip().endswith("</html>")
    assert "nan" not in [cell[0] for rows in Page(text).tables.values() for row in rows for cell in row.values()]


def test_a_review_that_cannot_be_encoded_is_shown_as_far_as_it_can(metrics, tmp_path):
    odd = Mistake(1, "lone \ud800 surrogate", "negative", "positive", 0.9, 1.0, "Review: \ud800")
    write_page(metrics, INFO, [odd], tmp_path / "report.html")
    assert "lone ? surrogate" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, [], ["exceeded the context", "was given another"]),
        ({"prompts_dropped": 1200}, ["1,200 lost their oldest demonstrations"], ["cut at the end", "was given another"]),
        ({"prompts_trimmed": 3}, ["3 had their review cut at the end"], ["lost their oldest", "was given another"]),
        ({"replaced": True}, ["was given another in its place"], ["exceeded the context"]),
    ],
    ids=["as shown", "dropped", "trimmed", "replaced"],
)
def test_the_page_says_where_prompts_were_not_as_shown(metrics, changes, said, unsaid):
    text = render_page(metrics, INFO, [Mistake(1, "Dull.", "negative", "positive", 0.9, 1.0, "Review: Dull.", **changes)])
    assert [words in text for words in said] == [True] * len(said)
    assert [words in text for words in unsaid] == [False] * len(unsaid)


def test_the_page_says_under_which_calibration_controls_are_compared(metrics):
    words = "All with calibration batch."
    assert words in render_page(evaluate(sample_scores(), ["batch"]), INFO, [])
    assert words not in render_page(metrics, INFO, [])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    yield from start_browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture(scope="module")
def address(metrics, mistakes, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(metrics, INFO, mistakes, path)
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """The page as first opened, 1280 wide, in a light system."""
    show(browser, address)
    return browser


def show(browser, address: str, width: int = 1280, theme: str = "light", media: str = "") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": theme}, {"name": "prefers-reduced-motion", "value": "reduce"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(address)
    browser.execute_script("try { localStorage.clear() } catch {}")


def column(browser, table: str, field: str) -> list[str]:
    """Values behind the visible rows."""
    return browser.execute_script(
        """const table = document.getElementById(arguments[0]);
        const place = [...table.tHead.rows[0].cells].findIndex((header) => header.dataset.field === arguments[1]);
        const cells = [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[place]);
        return cells.map((cell) => cell.dataset.value ?? cell.textContent)""",
        table,
        field,
    )


def heading(browser, table: str, field: str):
    return browser.find_element("css selector", f"#{table} th[data-field={field}]")


def colour(browser, selector: str, what: str) -> str:
    red, green, blue = browser.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]].match(/[0-9.]+/g).slice(0, 3).map(Number)",
        selector,
        what,
    )
    return f"#{red:02x}{green:02x}{blue:02x}"


def test_the_page_opens_without_an_error_and_fetches_nothing(browser, address):
    browser.get_log("browser"), browser.get_log("performance")
    show(browser, address)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requested = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert {url for url in requested if not url.startswith("data:")} == {address}
    assert browser.title == "Few-shot report: checkpoints/mini on sst2 & more"
    drawn = browser.execute_script("return [...document.querySelectorAll('figure svg')].map((svg) => svg.getBoundingClientRect().height)")
    assert len(drawn) == 6
    assert min(drawn) > 200


def test_what_a_review_holds_never_runs(opened):
    quote = opened.find_element("css selector", ".mistakes q")
    assert quote.text.strip("“”") == HOSTILE
    assert opened.execute_script("return document.images.length") == 0
    assert opened.title.startswith("Few-shot report")


def test_a_script_that_got_in_would_be_stopped(opened):
    opened.execute_script("const s = document.createElement('script'); s.textContent = 'window.pwned = 1'; document.body.append(s)")
    opened.execute_script("const i = document.createElement('img'); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i)")
    assert opened.execute_script("return window.pwned === undefined")
    messages = " ".join(entry["message"] for entry in opened.get_log("browser"))
    assert "script-src" in messages
    assert "img-src" in messages


def test_a_click_sorts_by_the_unrounded_value_and_a_second_one_turns_it(opened, metrics):
    accuracies = sorted(cell.accuracy for cell in metrics.cells)
    header = heading(opened, "cells", "accuracy")
    button = header.find_element("tag name", "button")
    button.click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column(opened, "cells", "accuracy")] == accuracies
    button.click()
    assert header.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in column(opened, "cells", "accuracy")] == accuracies[::-1]


@pytest.mark.parametrize("key", ["\ue007", " "], ids=["enter", "space"])
def test_the_keyboard_sorts_too_and_one_column_at_a_time(opened, metrics, key):
    heading(opened, "summaries", "accuracy_mean").find_element("tag name", "button").click()
    heading(opened, "summaries", "calibration").find_element("tag name", "button").send_keys(key)
    assert column(opened, "summaries", "calibration") == sorted(summary.calibration for summary in metrics.summaries)
    sorted_by = opened.find_elements("css selector", "#summaries th[aria-sort]")
    assert [header.get_attribute("data-field") for header in sorted_by] == ["calibration"]


def test_missing_values_stand_last_in_either_direction(opened):
    button = heading(opened, "bias", "recency").find_element("tag name", "button")
    for down in (False, True):
        button.click()
        values = column(opened, "bias", "recency")
        present = [float(value) for value in values if value]
        assert present == sorted(present, reverse=down)
        assert len(present) < len(values)
        assert not any(values[len(present) :])


def test_words_and_choices_filter_the_rows(opened, metrics):
    bar = opened.find_element("css selector", "#tables .filters:has(+ .scroll #cells)")
    by_heading = {
        label.text.split()[0]: label.find_element("css selector", "select, input") for label in bar.find_elements("tag name", "label")
    }
    assert set(by_heading) == {"find", "shots", "labels", "calibration"}
    by_heading["labels"].send_keys("flipped")
    by_heading["find"].send_keys("batch 16")
    expected = [cell.accuracy for cell in metrics.cells if (cell.demonstration_labels, cell.calibration) == ("flipped", "batch")]
    shown = [float(value) for value in column(opened, "cells", "accuracy")]
    assert set(shown) <= set(expected)
    assert set(column(opened, "cells", "calibration")) == {"batch"}
    by_heading["shots"].send_keys("16")
    sixteen = [
        cell.accuracy for cell in metrics.cells if (cell.shots, cell.demonstration_labels, cell.calibration) == (16, "flipped", "batch")
    ]
    assert [float(value) for value in column(opened, "cells", "accuracy")] == sixteen
    assert bar.find_element("tag name", "output").text == f"{len(sixteen)} of {len(metrics.cells)} rows"


def test_a_mistake_opens_to_its_prompt(opened, mistakes):
    details = opened.find_element("css selector", ".mistakes details")
    assert details.find_element("tag name", "pre").text == ""
    details.find_element("tag name", "summary").click()
    assert details.find_element("tag name", "pre").text.startswith(mistakes[0].prompt[:40])


@pytest.mark.parametrize(("theme", "colours", "other"), [("light", LIGHT, DARK), ("dark", DARK, LIGHT)])
def test_the_theme_is_the_systems_until_the_button_is_pressed(browser, address, theme, colours, other):
    show(browser, address, theme=theme)
    assert colour(browser, "body", "backgroundColor") == colours["paper"]
    assert colour(browser, "figure svg text", "fill") in (colours["ink"], colours["muted"])
    browser.find_element("id", "theme").click()
    assert colour(browser, "body", "backgroundColor") == other["paper"]
    assert colour(browser, "figure svg text", "fill") in (other["ink"], other["muted"])
    browser.execute_script("try { localStorage.clear() } catch {}")


@pytest.mark.parametrize("width", [1280, 768, 390, 320])
def test_no_width_makes_the_page_scroll_sideways_or_cuts_text(browser, address, width):
    show(browser, address, width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    outside = browser.execute_script(
        """for (const details of document.querySelectorAll("details")) details.open = true;
        return [...document.querySelectorAll("body *")]
        .filter((element) => !element.closest(".scroll") && element.getBoundingClientRect().right > innerWidth + 1)
        .map((element) => element.outerHTML.slice(0, 100))"""
    )
    assert outside == []


def test_printed_it_is_light_and_nothing_is_folded_or_cut(browser, address):
    show(browser, address, theme="dark", media="print")
    assert colour(browser, "body", "backgroundColor") == LIGHT["paper"]
    assert browser.execute_script("return [...document.querySelectorAll('.scroll')].every((e) => getComputedStyle(e).maxHeight === 'none')")
    assert browser.execute_script("return getComputedStyle(document.querySelector('.filters')).display") == "none"
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return [...document.querySelectorAll('details')].every((details) => details.open)")
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return ![...document.querySelectorAll('details')].some((details) => details.open)")


def test_without_scripts_all_is_there_to_read(browser, address, metrics):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(address)
        assert len(browser.find_elements("css selector", "#cells tbody tr")) == len(metrics.cells)
        assert browser.find_elements("css selector", "th button, .filters") == []
        assert not browser.find_element("id", "theme").is_displayed()
        assert browser.find_element("id", "verdict").text.replace("\n", " ") == metrics.verdict
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_thousand_cells_are_sorted_and_filtered_at_once(browser, metrics, tmp_path):
    many = evaluate(sample_scores(shots=(0, 1, 2, 4, 8, 16, 32), seeds=10, orders=1, labels=("gold", "random", "flipped"), n=20))
    assert len(many.cells) == 905
    path: Path = tmp_path / "report.html"
    write_page(many, INFO, [], path)
    assert path.stat().st_size < 2_000_000
    show(browser, path.as_uri())
    milliseconds = browser.execute_script(
        """const start = performance.now();
        document.querySelector("#cells th[data-field=accuracy] button").click();
        const search = document.querySelector("#tables .filters:has(+ .scroll #cells) input");
        search.value = "flipped"; search.dispatchEvent(new Event("input"));
        document.body.offsetHeight;
        return performance.now() - start"""
    )
    assert milliseconds < 1000
    assert len(column(browser, "cells", "accuracy")) == 300
