"""The page holds the figures of the metrics, is escaped, and says how its prompts and comparisons came about."""

import json
import re
import warnings
from dataclasses import asdict
from html.parser import HTMLParser
from typing import Any

import pytest
from sample_page import INFO
from sample_scores import sample_scores

from rope_gpt2.fewshot.headline import headline_controls, percent, signed
from rope_gpt2.fewshot.metrics import Metrics, evaluate
from rope_gpt2.fewshot.mistakes import Mistake
from rope_gpt2.fewshot.page import RunInfo, decimals, p_value, render_page, write_page

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
