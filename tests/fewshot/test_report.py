"""Files come back as they were written, are whole or not there, and hold the keys that the README names."""

import csv
import io
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.metrics import Summary, evaluate_cells, summarize
from rope_gpt2.fewshot.report import read_predictions, summary_table, write_json, write_metrics, write_predictions
from rope_gpt2.fewshot.scoring import UNCERTAIN, Prediction

PREDICTIONS = [
    Prediction(row, LABELS[row % 2], LABELS[(row + seed) % 2], shots, seed, -0.1 * row, -0.2)
    for shots in (0, 4)
    for seed in range(2)
    for row in range(1, 6)
]
SUMMARY = Summary(4, 872, 5, accuracy_mean=0.8125, accuracy_std=0.034, ci95=(0.7512, 0.8699), majority_baseline=0.5091)
nats = st.floats(max_value=0, allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.builds(
            Prediction,
            st.integers(1, 10**6),
            st.sampled_from(LABELS),
            st.sampled_from([*LABELS, UNCERTAIN]),
            st.integers(0, 64),
            st.integers(0, 99),
            nats,
            nats,
        )
    )
)
def test_predictions_are_read_as_they_were_written(tmp_path_factory, predictions):
    path = tmp_path_factory.getbasetemp() / "predictions.csv"
    write_predictions(predictions, path)
    assert read_predictions(path) == predictions


def test_the_header_of_predictions_names_the_columns(tmp_path):
    write_predictions(PREDICTIONS, tmp_path / "predictions.csv")
    header, *lines = (tmp_path / "predictions.csv").read_text(encoding="utf-8").splitlines()
    assert header == "row,sentiment,predicted,shots,seed,logprob_negative,logprob_positive"
    assert len(lines) == len(PREDICTIONS)


def test_metrics_hold_a_cell_for_each_condition_and_a_summary_for_each_number_of_shots(tmp_path):
    cells, summaries = evaluate_cells(PREDICTIONS), summarize(PREDICTIONS)
    write_metrics(cells, summaries, tmp_path / "metrics.json")
    ours = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert [tuple(cell[key] for key in ("shots", "seed", "n", "accuracy")) for cell in ours["cells"]] == [
        (cell.shots, cell.seed, cell.n, cell.accuracy) for cell in cells
    ]
    for written, summary in zip(ours["summary"], summaries, strict=True):
        for key in ("shots", "accuracy_mean", "accuracy_std", "n", "seeds", "majority_baseline"):
            assert written[key] == getattr(summary, key)
        assert written["ci95"] == list(summary.ci95)


def test_json_keeps_every_character_and_ends_in_a_line_end(tmp_path):
    write_json({"label": "génial", "n": 3}, tmp_path / "manifest.json")
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"label": "génial", "n": 3}
    assert "génial" in text
    assert text.endswith("}\n")


def test_a_file_of_the_same_name_is_replaced(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(PREDICTIONS, path)
    write_predictions(PREDICTIONS[:2], path)
    assert read_predictions(path) == PREDICTIONS[:2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("predictions.csv", lambda path: write_predictions([*PREDICTIONS * 1000, None], path)),
        ("metrics.json", lambda path: write_metrics([*evaluate_cells(PREDICTIONS), None], [], path)),
        ("manifest.json", lambda path: write_json({"a": 1, "b": object()}, path)),
        ("manifest.json", lambda path: write_json({"a": "x" * 10**6 + "\ud800"}, path)),
    ],
    ids=["predictions", "metrics", "json", "json that cannot be encoded"],
)
@pytest.mark.parametrize("exists", [True, False])
def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path, name, write, exists):
    path = tmp_path / name
    if exists:
        path.write_text("what was there")
    with pytest.raises((TypeError, UnicodeEncodeError, csv.Error)):
        write(path)
    assert list(tmp_path.iterdir()) == [path] * exists
    assert not exists or path.read_text() == "what was there"


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "predictions.csv"
    write_predictions(PREDICTIONS, path)

    def interrupted():
        yield from PREDICTIONS[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_predictions(interrupted(), path)
    assert read_predictions(path) == PREDICTIONS
    assert list(tmp_path.iterdir()) == [path]


def render(*summaries: Summary) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(summary_table(summaries, "a title"))
    return console.file.getvalue()


def test_the_table_shows_every_figure():
    (line,) = (line for line in render(SUMMARY).splitlines() if "872" in line)
    assert [part.strip() for part in line.strip("│ ").split("│")] == ["4", "81.2", "3.4", "75.1 to 87.0", "50.9", "872", "5"]
    assert "a title" in render(SUMMARY)


@pytest.mark.parametrize(("shots", "seeds"), [(4, 1), (0, 5)])
def test_the_table_shows_no_deviation_where_seeds_cannot_differ(shots, seeds):
    summary = Summary(shots, 872, seeds, 0.8, 0.0, (0.7, 0.9), 0.5)
    (line,) = (line for line in render(summary).splitlines() if "872" in line)
    assert line.split("│")[3].strip() == "-"


def test_the_table_has_a_line_for_each_number_of_shots():
    ours = render(*summarize(PREDICTIONS))
    assert all(math.isclose(summary.n, 5) for summary in summarize(PREDICTIONS))
    assert sum(line.startswith("│") for line in ours.splitlines()) == 2
