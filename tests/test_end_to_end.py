"""The whole path: fit, validate, predict and evaluate agree; what fit writes can be loaded everywhere."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from running import DEMO, call, predictions
from transformers import AutoModelForCausalLM, AutoTokenizer

from rope_gpt2 import __version__
from rope_gpt2.fewshot import scoring
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.training import fewshot_module

CHANGING = {"manifest.json", "report.html"}  # hold the time
QUICK = ["--no-report", "--calibration", "none"]


@pytest.fixture(scope="module")
def evaluated(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated")
    arguments = ["--data", str(DEMO), "--shots", "0", "2", "--seeds", "2", "--precision", "32-true", "--output", str(output)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    return output


def test_fit_leaves_checkpoints_logs_config_and_a_pretrained_folder(fitted: Path):
    names = {path.name for path in fitted.iterdir()}
    assert {"checkpoints", "config.yaml", "metrics.csv", "pretrained"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert (fitted / "checkpoints" / "last.ckpt").is_file()
    with (fitted / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]


def test_the_loss_falls(fitted: Path):
    with (fitted / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses[-1] < losses[0]


def test_validate_predict_and_evaluate_agree_on_every_row(fitted: Path, evaluated: Path, tmp_path: Path, capsys):
    checkpoint = str(next((fitted / "checkpoints").glob("best*.ckpt")))
    scored = ["--ckpt_path", checkpoint, "--data.pool", str(DEMO), "--data.shots", "2", "--trainer.logger", "false"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path)]
    output = tmp_path / "predictions.csv"
    assert call(["predict", *scored, *quiet, "--data.predict", str(DEMO), "--predictions.output", str(output)]) == 0
    ours, theirs = predictions(output), predictions(evaluated, shots=2, seed=0)
    assert ours[["row", "predicted"]].equals(theirs[["row", "predicted"]])
    accuracy = float((ours.predicted == ours.sentiment).mean())

    capsys.readouterr()
    assert call(["validate", *scored, *quiet, "--data.validation", str(DEMO)]) == 0
    assert call(["test", *scored, *quiet, "--data.test", str(DEMO)]) == 0
    printed = capsys.readouterr().out
    assert [word for word in printed.split() if word.startswith("0.")] == [f"{torch.tensor(accuracy).item()}"] * 2

    cells = json.loads((evaluated / "metrics.json").read_text())["cells"]
    assert [cell["accuracy"] for cell in cells if (cell["shots"], cell["seed"], cell["calibration"]) == (2, 0, "none")] == [accuracy]


def test_predictions_hold_every_row_of_every_cell_once(evaluated: Path):
    rows = predictions(evaluated)[["shots", "seed", "row"]].to_numpy().tolist()
    assert rows == [[shots, seed, row] for shots, seed in ((0, 0), (2, 0), (2, 1)) for row in range(1, 457)]


def test_metrics_have_a_cell_for_every_condition_and_calibration_and_a_summary_for_every_shots(evaluated: Path):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    plain = [cell for cell in metrics["cells"] if cell["calibration"] == "none"]
    # without demonstrations all seeds are one
    assert [(cell["shots"], cell["seed"], cell["n"]) for cell in plain] == [(0, 0, 456), (2, 0, 456), (2, 1, 456)]
    assert {cell["calibration"] for cell in metrics["cells"]} == {"none", "contextual", "domain", "batch", "pmi"}
    assert [summary["shots"] for summary in metrics["summaries"] if summary["calibration"] == "none"] == [0, 2]
    assert {"accuracy_mean", "accuracy_std", "ci95", "n", "seeds", "majority_baseline"} <= set(metrics["summaries"][0])


def test_a_run_leaves_scores_metrics_and_a_report(evaluated: Path):
    assert {path.name for path in evaluated.iterdir()} == {
        *("manifest.json", "conditions.json", "scores.parquet", "content_free.parquet", "reviews.parquet", "predictions.csv"),
        *("metrics.json", "report.html", "plots"),
    }


def test_manifest_tells_what_is_needed_to_run_it_again(evaluated: Path):
    manifest = json.loads((evaluated / "manifest.json").read_text())
    plan = manifest["plan"]
    assert plan["data"]["sha256"] == plan["pool"]["sha256"]
    assert (plan["shots"], plan["seeds"], plan["precision"]) == ([0, 2], 2, "32-true")
    assert "model.safetensors" in plan["checkpoint"]["sha256"]
    assert {"torch", "lightning", "transformers", "python"} <= set(plan["versions"])
    assert plan["versions"]["rope-gpt2"] == __version__


def test_the_report_is_computed_again_without_the_model(fitted: Path, tmp_path: Path):
    arguments = [
        "--checkpoint",
        str(fitted / "pretrained"),
        "--shots",
        "0",
        "2",
        "--seeds",
        "1",
        "--limit",
        "60",
        "--output",
        str(tmp_path),
    ]
    assert call(["evaluate", *arguments]) == 0
    first = {name: (tmp_path / name).read_bytes() for name in ("metrics.json", "report.html")}
    for name in first:
        (tmp_path / name).unlink()
    assert call(["report", str(tmp_path)]) == 0
    assert first == {name: (tmp_path / name).read_bytes() for name in first}


def test_the_lightning_checkpoint_and_the_pretrained_folder_are_the_same_model(fitted: Path, evaluated: Path, tmp_path: Path):
    checkpoint = str(next((fitted / "checkpoints").glob("best*.ckpt")))
    arguments = ["--shots", "2", "--seeds", "1", "--precision", "32-true", "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", checkpoint, *arguments]) == 0
    columns = ["row", "predicted", "logprob_negative", "logprob_positive"]
    assert predictions(tmp_path)[columns].equals(predictions(evaluated, shots=2, seed=0)[columns])


def test_the_pretrained_folder_generates_after_import_rope_gpt2(fitted: Path):
    model = AutoModelForCausalLM.from_pretrained(fitted / "pretrained")
    tokenizer = AutoTokenizer.from_pretrained(fitted / "pretrained")
    inputs = tokenizer(
        ["Review: A fine film.\nSentiment:", "Review: Dull.\nSentiment:"], return_tensors="pt", padding=True, padding_side="left"
    )
    generated = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert generated.shape[1] <= inputs["input_ids"].shape[1] + 4
    assert model.dtype == torch.float32


def test_scoring_by_generation_counts_what_names_neither_label_as_wrong(fitted: Path, tmp_path: Path, capsys):
    arguments = ["--scoring", "generate", "--shots", "0", "--seeds", "1", "--limit", "40", "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    rows = predictions(tmp_path)
    assert len(rows) == 40
    share = float((rows.predicted == "uncertain").mean())
    cell = json.loads((tmp_path / "metrics.json").read_text())["cells"][0]
    assert cell["uncertain"] == share
    assert cell["accuracy"] == float((rows.predicted == rows.sentiment).mean())
    assert ("named neither label" in capsys.readouterr().out) == (share > 0)


def test_generated_texts_are_searched_for_the_label_words_of_their_condition(fitted: Path, tmp_path: Path, monkeypatch):
    searched = []
    monkeypatch.setattr(Verbalizer, "find", lambda self, text: searched.append(self.words))
    words = ["--label-words", "bad", "good", "--label-words", "awful", "great"]
    arguments = ["--scoring", "generate", "--shots", "1", "--seeds", "1", "--limit", "8", *words, "--no-report"]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments, "--output", str(tmp_path)]) == 0
    assert searched == [("bad", "good")] * 8 + [("awful", "great")] * 8


def test_a_model_that_gives_no_numbers_is_refused(fitted: Path, tmp_path: Path, capsys):
    model = AutoModelForCausalLM.from_pretrained(fitted / "pretrained")
    model.transformer.ln_f.weight.data.fill_(3e38)  # a number, but the logits are none
    model.save_pretrained(tmp_path / "broken")
    AutoTokenizer.from_pretrained(fitted / "pretrained").save_pretrained(tmp_path / "broken")
    arguments = ["--checkpoint", str(tmp_path / "broken"), "--shots", "0", "--limit", "8", "--output", str(tmp_path / "out")]
    assert call(["evaluate", *arguments]) == 2
    assert "the model gives row" in capsys.readouterr().err
    assert not (tmp_path / "out" / "scores.parquet").exists()


def test_an_output_folder_with_brackets_is_no_markup(fitted: Path, tmp_path: Path, capsys):
    output = tmp_path / "a[bold]" / "b[/b]"
    arguments = ["--shots", "0", "--limit", "8", "--no-report", "--output", str(output)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    assert "a[bold]/b[/b]" in capsys.readouterr().out.replace("\n", "")
    assert (output / "metrics.json").is_file()


def test_evaluating_twice_into_one_folder_gives_the_same_files(fitted: Path, tmp_path: Path):
    arguments = ["evaluate", "--checkpoint", str(fitted / "pretrained"), "--shots", "1", "--seeds", "2", "--output", str(tmp_path)]
    assert call(arguments) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name not in CHANGING}
    assert call(arguments) == 0
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file() and path.name not in CHANGING}
    assert {"metrics.json", "scores.parquet", "predictions.csv"} <= set(first)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("batch_tokens", ["1", "100", "100000"])
def test_batch_size_does_not_change_a_prediction(fitted: Path, evaluated: Path, tmp_path: Path, batch_tokens: str):
    arguments = [
        "--shots",
        "2",
        "--seeds",
        "1",
        "--batch-tokens",
        batch_tokens,
        "--precision",
        "32-true",
        *QUICK,
        "--output",
        str(tmp_path),
    ]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    assert_same_scores(predictions(tmp_path), predictions(evaluated, shots=2, seed=0))


def test_row_order_and_other_rows_do_not_change_a_prediction(fitted: Path, evaluated: Path, tmp_path: Path):
    with DEMO.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "some.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("review", "sentiment"))
        writer.writeheader()
        writer.writerows(reversed(rows[100:150]))
    arguments = ["--data", str(tmp_path / "some.csv"), "--pool", str(DEMO), "--shots", "0", "--precision", "32-true", *QUICK]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments, "--output", str(tmp_path)]) == 0
    theirs = predictions(evaluated, shots=0).iloc[100:150][::-1].reset_index(drop=True)
    assert_same_scores(predictions(tmp_path).assign(row=theirs.row), theirs)


def assert_same_scores(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """The scores to 1e-4 nats, and the same predictions but for ties."""
    assert ours.row.tolist() == theirs.row.tolist()
    columns = ["logprob_negative", "logprob_positive"]
    np.testing.assert_allclose(ours[columns], theirs[columns], atol=1e-4, rtol=0)
    tied = (theirs.logprob_positive - theirs.logprob_negative).abs() < 1e-4
    assert ((ours.predicted == theirs.predicted) | tied).all()


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_scores_are_near_those_of_float32(fitted: Path, evaluated: Path, tmp_path: Path, precision: str):
    arguments = ["--shots", "2", "--seeds", "1", "--device", "cpu", "--precision", precision, *QUICK, "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    ours, theirs = predictions(tmp_path), predictions(evaluated, shots=2, seed=0)
    assert (ours.logprob_positive - theirs.logprob_positive).abs().max() < 0.3
    assert json.loads((tmp_path / "manifest.json").read_text())["plan"]["precision"] == precision


@pytest.mark.parametrize("name", ["likelihood", "channel"])
def test_the_fast_path_is_verified_against_the_plain_one(fitted: Path, tmp_path: Path, name: str, capsys):
    arguments = ["--scoring", name, "--shots", "0", "2", "--limit", "40", "--verify", "20", "--precision", "32-true", *QUICK]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments, "--output", str(tmp_path)]) == 0
    assert "prompts by both paths" in capsys.readouterr().err


def test_a_difference_between_the_paths_stops_the_run(fitted: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fewshot_module, "score_labels", lambda *arguments: scoring.score_labels(*arguments) + 0.01)
    arguments = ["--shots", "2", "--limit", "40", "--verify", "--precision", "32-true", "--output", str(tmp_path / "out")]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 1
    message = capsys.readouterr().err
    assert "error: --verify: row" in message
    assert "Traceback" not in message
    assert not (tmp_path / "out" / "scores.parquet").exists()


def test_a_grid_is_scored_in_one_run(fitted: Path, tmp_path: Path):
    grid = ["--shots", "0", "3", "--seeds", "2", "--orders", "2", "--demonstration-labels", "gold", "random", "flipped", "none"]
    layouts = ["--template", "{text} It was {label}\\n", "--label-words", "bad", "good", "--label-words", "awful", "great"]
    arguments = [*grid, *layouts, "--selection", "balanced", "random", "similar", "--limit", "12", "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    conditions = json.loads((tmp_path / "conditions.json").read_text())["conditions"]
    seeds = {"balanced": 4 * 2, "random": 4 * 2, "similar": 3 + 2}  # similar demonstrations depend on the seed by their random labels alone
    assert len(conditions) == 2 * (1 + 2 * sum(seeds.values()))
    assert len(predictions(tmp_path)) == 12 * len(conditions)
    verdict = json.loads((tmp_path / "metrics.json").read_text())["verdict"]
    assert verdict.startswith("At 3 shots this model")


def test_an_untrained_model_is_evaluated_by_name(fitted: Path, tmp_path: Path):
    arguments = ["--checkpoint", "random", "--tokenizer", str(fitted / "pretrained"), "--shots", "0", "--seeds", "1", "--limit", "16"]
    assert call(["evaluate", *arguments, *QUICK, "--output", str(tmp_path)]) == 0
    assert len(predictions(tmp_path)) == 16


def test_a_long_prompt_drops_whole_demonstrations_and_says_how_many(fitted: Path, tmp_path: Path, capsys):
    arguments = ["--shots", "16", "--seeds", "1", "--max-length", "120", *QUICK, "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    assert "oldest demonstrations were dropped." in capsys.readouterr().out
    assert json.loads((tmp_path / "conditions.json").read_text())["conditions"][0]["prompts_dropped"] > 0
