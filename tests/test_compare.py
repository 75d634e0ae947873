"""`rope-gpt2 compare A B` on two small run folders: a table, sentences, a file; one sentence for bad input."""

import json

import numpy as np
import pytest
import torch
from made_scores import scores_of

from rope_gpt2.commands.main import main
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.comparison import compare_scores
from rope_gpt2.fewshot.comparison_text import sentences
from rope_gpt2.fewshot.conditions import expand_grid
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.pieces import begin, end, write_json
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.run_folder import read_run, write_reviews, write_scores
from rope_gpt2.fewshot.scoring import ScoredBatch

N = 80
PLAN = {"precision": "32-true", "accelerator": "cpu", "scoring": "likelihood"}
PLAN |= {name: {"path": f"{name}.csv", "sha256": name} for name in ("data", "pool")}


def write_run(folder, knows=1.0, n=N, conditions=None, first="Review", seed=0, **plan):
    """A finished run of n made-up reviews; the larger `knows`, the better its scores."""
    conditions = conditions or expand_grid([0, 4], seeds=2)
    generator = np.random.default_rng(seed)
    sentiments = np.arange(N) % 2
    odds = ((2 * sentiments - 1) * knows + generator.standard_normal((len(conditions), N)))[:, :n]
    logprobs = scores_of(odds, sentiments[:n], conditions).label_logprobs
    examples = [Example(row, f"{first if row == 1 else 'Review'} {row} [b].", LABELS[sentiments[row - 1]]) for row in range(1, n + 1)]
    pieces = begin(folder, PLAN | plan, resume=False)
    for index in range(len(conditions)):
        pieces.write(Item(0, index), [Prompt(example, (), (1,)) for example in examples], ScoredBatch(torch.from_numpy(logprobs[index])))
    write_reviews(examples, folder / "reviews.parquet")
    write_scores(folder, pieces, 1, conditions, [()] * len(conditions), [])
    write_json({"options": {"checkpoint": folder.name, "data": "data.csv"}, "plan": PLAN | plan}, folder / "manifest.json")
    end(folder)
    return str(folder)


@pytest.fixture
def a(tmp_path):
    return write_run(tmp_path / "a", knows=0.3)


@pytest.fixture
def b(tmp_path):
    return write_run(tmp_path / "b", knows=2.0, seed=1)


def refused(arguments, capsys):
    """The one sentence on standard error, after exit code 2."""
    assert main(["compare", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


def test_the_sentences_are_those_of_the_scores(a, b, tmp_path, capsys):
    output = tmp_path / "new" / "comparison.json"
    assert main(["compare", a, b, "--calibration", "batch", "--output", str(output)]) == 0
    printed = capsys.readouterr()
    comparison = compare_scores(*(read_run(tmp_path / name).scores for name in "ab"), "batch")
    said = sentences(comparison)
    assert len(said) == 2
    assert all(sentence in printed.out for sentence in said)
    assert "B is better than A" in printed.out
    assert "Warning" not in printed.out
    assert printed.err == ""
    content = json.loads(output.read_text(encoding="utf-8"))
    assert [setting["sentence"] for setting in content["settings"]] == said
    assert [setting["p_holm"] for setting in content["settings"]] == [one.p_holm for one in comparison.settings]
    assert (content["n"], content["calibration"], content["majority_baseline"]) == (N, "batch", 0.5)
    assert content["a"] == {"folder": a, "checkpoint": "a", "data": "data.csv"}
    assert content["rows"] == {"only_a": 0, "only_b": 0, "changed": 0}
    assert content["notes"] == content["warnings"] == content["only_a"] == content["only_b"] == []


def test_comparing_writes_nothing_unless_asked(a, b, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["compare", a, b]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_template_with_brackets_is_printed_as_it_is(a, tmp_path, capsys):
    templates = ["[bold]{text} is {label}\n", "[/x]{text} is {label}\n"]
    c = write_run(tmp_path / "[c]", conditions=expand_grid([0], templates=templates))
    d = write_run(tmp_path / "[d]", conditions=expand_grid([0], templates=templates))
    assert main(["compare", c, d]) == 0
    assert "[c]" in (printed := capsys.readouterr().out)
    assert "template '[/x]{text} is {label}\\n'" in printed
    assert main(["compare", a, write_run(tmp_path / "e", conditions=expand_grid([0], templates=templates[:1]))]) == 0
    assert "A and B have another template" in capsys.readouterr().out


def test_unfair_differences_are_warned_of(a, tmp_path, capsys):
    other = write_run(
        tmp_path / "other", precision="bf16-true", data={"path": "else.csv", "sha256": "?"}, pool={"path": "p", "sha256": "?"}
    )
    assert main(["compare", a, other]) == 0
    printed = capsys.readouterr().out
    for expected in ("(32-true against bf16-true)", "other files (data.csv and else.csv)", "other pools (pool.csv and p)"):
        assert expected in printed
    assert printed.count("Warning: ") == 3


def test_the_rows_of_a_limited_run_are_compared_when_asked_for(a, tmp_path, capsys):
    limited = write_run(tmp_path / "limited", n=50)
    expected = f"do not hold the same reviews: {N - 50} rows differ, the first being that row 51 is in A alone"
    assert expected in refused([a, limited], capsys)
    assert main(["compare", a, limited, "--common-rows"]) == 0
    assert f"Compared are the 50 reviews that both runs hold; {N - 50} rows are left out." in capsys.readouterr().out


def test_another_text_in_the_same_row_is_another_review(a, tmp_path, capsys):
    changed = write_run(tmp_path / "changed", first="Film")
    expected = "1 rows differ, the first being that row 1 is 'Review 1 [b].' in A and 'Film 1 [b].' in B"
    assert expected in refused([a, changed], capsys)
    one = write_run(tmp_path / "one", first="Film", n=1)
    assert "have no review in common" in refused([a, one, "--common-rows"], capsys)


def test_folders_that_cannot_be_compared_are_refused(a, tmp_path, capsys):
    assert "no such folder" in refused([a, str(tmp_path / "nowhere")], capsys)
    assert "once more; give two runs" in refused([a, f"{a}/../a"], capsys)
    (tmp_path / "empty").mkdir()
    assert "holds no finished run" in refused([a, str(tmp_path / "empty")], capsys)
    begin(tmp_path / "begun", PLAN, resume=False)
    assert "is not finished; finish it with evaluate --resume" in refused([a, str(tmp_path / "begun")], capsys)
    eight = write_run(tmp_path / "eight", conditions=expand_grid([8]))
    assert "no setting in common" in refused([a, eight], capsys)


def test_missing_reviews_are_refused(a, b, tmp_path, capsys):
    write_reviews([Example(1, "Review 1 [b].", "negative")], tmp_path / "b" / "reviews.parquet")
    assert "b: its reviews lack row 2" in refused([a, b], capsys)
    (tmp_path / "b" / "reviews.parquet").write_bytes(b"")  # not even a schema
    assert "b: its files are damaged" in refused([a, b], capsys)
    (tmp_path / "b" / "reviews.parquet").unlink()
    assert "b: holds no finished run (reviews.parquet is missing)" in refused([a, b], capsys)


def test_wrong_options_are_refused(a, b, tmp_path, capsys):
    assert "B; see --help" in refused([a], capsys)
    assert "invalid choice: 'magic'" in refused([a, b, "--calibration", "magic"], capsys)
    assert "--calibration pmi: the scores in" in refused([a, b, "--calibration", "pmi"], capsys)
    assert "is a folder; give a file" in refused([a, b, "--output", str(tmp_path)], capsys)
    assert "cannot be written" in refused([a, b, "--output", f"{a}/manifest.json/inside.json"], capsys)


OWN = [
    *("manifest.json", "conditions.json", "scores.parquet", "content_free.parquet", "reviews.parquet", "predictions.csv", "metrics.json"),
    *("report.html", "plots/accuracy.png", "plots/../scores.parquet"),
]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("folder", "ab")
def test_no_file_of_a_run_is_overwritten(a, b, tmp_path, capsys, folder, name):
    (tmp_path / folder / "plots").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    expected = "is a file of a run that is compared; give another file"
    assert expected in refused([a, b, "--output", f"{tmp_path / folder}/{name}"], capsys)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_comparison_may_stand_in_the_folder_of_a_run(a, b, tmp_path):
    assert main(["compare", a, b, "--output", f"{b}/comparison.json"]) == 0
    assert (tmp_path / "b" / "comparison.json").is_file()
