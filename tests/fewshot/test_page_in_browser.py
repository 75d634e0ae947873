"""The page is inert and works in a browser: wide, narrow, light, dark, printed, without scripts."""

import json
from pathlib import Path

import pytest
from browser import start_browser
from sample_page import HOSTILE, INFO
from sample_scores import sample_scores

from rope_gpt2.fewshot.metrics import evaluate
from rope_gpt2.fewshot.page import write_page
from rope_gpt2.plot_style import DARK, LIGHT


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
