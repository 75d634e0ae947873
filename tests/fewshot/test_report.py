"""The terminal's table shows every figure of the summaries, with a column for each setting in which they differ."""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from sample_scores import sample_scores

from rope_gpt2.fewshot.metrics import Metrics, Summary, evaluate
from rope_gpt2.fewshot.report import notes, summary_table


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    return evaluate(sample_scores(n=40), ["none", "batch"])


@pytest.fixture
def summary(metrics) -> Summary:
    figures = {"accuracy_mean": 0.8125, "accuracy_std": 0.034, "ci95": (0.7512, 0.8699), "majority_baseline": 0.5091}
    return replace(metrics.summaries[0], shots=4, n=872, seeds=5, calibration="none", **figures)


def table(metrics, **options) -> tuple[list[str], list[list[str]]]:
    """Header and lines, cell by cell."""
    made = summary_table(metrics, "a title", **options)
    columns = [list(column.cells) for column in made.columns]
    return [str(column.header) for column in made.columns], [list(map(str, line)) for line in zip(*columns, strict=True)]


def test_the_table_shows_every_figure(metrics, summary):
    header, lines = table(replace(metrics, summaries=(summary,)))
    assert header == ["shots", "accuracy %", "std", "95 % interval", "majority %", "n", "seeds"]
    assert lines == [["4", "81.2", "3.4", "75.1 to 87.0", "50.9", "872", "5"]]


def printed(metrics, title, width) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(metrics, title))
    return console.file.getvalue()


def test_no_figure_is_cut_in_a_narrow_terminal(metrics, summary):
    shown = replace(summary, demonstration_labels="gold"), replace(summary, demonstration_labels="flipped")
    ours = printed(replace(metrics, summaries=shown), "a title", width=80)
    for part in ("gold", "flipped", "81.2", "3.4", "75.1 to 87.0", "50.9", "872"):
        assert part in ours


def test_brackets_are_printed_as_they_are(metrics, summary):
    """And are no markup of rich."""
    shown = replace(summary, label_words="bad, good"), replace(summary, label_words="[bold]terrible[/bold], [great")
    ours = printed(replace(metrics, summaries=shown), "[red]a title[/red] [", width=200)
    assert "[bold]terrible[/bold], [great" in ours
    assert "[red]a title[/red] [" in ours


def test_the_table_shows_no_deviation_of_a_single_seed(metrics, summary):
    _, (line,) = table(replace(metrics, summaries=(replace(summary, seeds=1, accuracy_std=None),)))
    assert line[2] == "-"


def test_the_table_has_a_line_for_each_setting_in_the_order_of_shots(metrics):
    header, lines = table(metrics)
    assert header[:2] == ["shots", "labels"]
    theirs = [(summary.shots, summary.demonstration_labels) for summary in metrics.summaries if summary.calibration == "none"]
    assert [(int(line[0]), line[1]) for line in lines] == sorted(theirs, key=lambda setting: setting[0])
    assert len(set(theirs)) == len(theirs)


@pytest.mark.parametrize(
    ("name", "heading", "values"),
    [
        ("demonstration_labels", "labels", ("gold", "flipped")),
        ("selection", "selection", ("balanced", "similar")),
        ("template", "template", ("{text}\n{label}\n", "It: {text} => {label}\n")),
        ("label_words", "label words", ("bad, good", "negative, positive")),
        ("calibration", "calibration", ("batch", "contextual")),
    ],
)
def test_a_setting_has_a_column_where_it_differs(metrics, summary, name, heading, values):
    header, lines = table(replace(metrics, summaries=tuple(replace(summary, **{name: value}) for value in values)), calibration=None)
    assert header[1] == heading
    assert [line[1] for line in lines] == [value.replace("\n", "\\n") for value in values]


@pytest.mark.parametrize(
    ("asked", "shown"), [("none", ["none"]), ("batch", ["batch"]), ("pmi", ["none", "batch"]), (None, ["none", "batch"])]
)
def test_the_table_shows_the_calibration_asked_for_or_all(metrics, asked, shown):
    _, lines = table(metrics, calibration=asked)
    assert len(lines) == sum(summary.calibration in shown for summary in metrics.summaries)


def test_notes_end_with_what_the_controls_say(metrics):
    assert notes(metrics, sample_scores(n=40).conditions) == [metrics.verdict]


def test_notes_count_what_prompts_lost_over_all_conditions(metrics):
    conditions = list(sample_scores(n=40).conditions)
    conditions[1] = replace(conditions[1], prompts_dropped=3, demonstrations_dropped=7, prompts_trimmed=2)
    conditions[2] = replace(conditions[2], prompts_dropped=1, demonstrations_dropped=4)
    dropped, trimmed, _ = notes(metrics, conditions)
    assert dropped == "4 prompts exceeded the context: their 11 oldest demonstrations were dropped."
    assert trimmed == "2 prompts exceeded the context alone: their reviews were cut at the end."


def test_notes_count_the_answers_that_named_neither_label_once():
    """Not once for each calibration."""
    scores = sample_scores(n=40, generated=True)
    uncertain = int(np.sum(scores.generated == 2))
    assert uncertain
    assert f"{uncertain} answers named neither label and count as wrong." in notes(evaluate(scores), scores.conditions)
