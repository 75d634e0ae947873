"""The whole path: fit, validate, predict and evaluate agree; what fit writes can be loaded everywhere."""

import csv
import json
from pathlib import Path

import pytest
import torch
from running import DEMO, call
from transformers import AutoModelForCausalLM, AutoTokenizer

from rope_gpt2.fewshot.report import read_predictions


@pytest.fixture(scope="module")
def evaluated(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated")
    arguments = ["--data", str(DEMO), "--shots", "0", "2", "--seeds", "2", "--output", str(output)]
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
    ours = read_predictions(output)
    theirs = [row for row in read_predictions(evaluated / "predictions.csv") if (row.shots, row.seed) == (2, 0)]
    assert [(row.row, row.predicted) for row in ours] == [(row.row, row.predicted) for row in theirs]
    accuracy = sum(row.is_correct for row in ours) / len(ours)

    capsys.readouterr()
    assert call(["validate", *scored, *quiet, "--data.validation", str(DEMO)]) == 0
    assert call(["test", *scored, *quiet, "--data.test", str(DEMO)]) == 0
    printed = capsys.readouterr().out
    assert [word for word in printed.split() if word.startswith("0.")] == [f"{torch.tensor(accuracy).item()}"] * 2

    cells = json.loads((evaluated / "metrics.json").read_text())["cells"]
    assert [cell["accuracy"] for cell in cells if (cell["shots"], cell["seed"]) == (2, 0)] == [accuracy]


def test_predictions_hold_every_row_of_every_cell_once(evaluated: Path):
    rows = read_predictions(evaluated / "predictions.csv")
    assert [(row.shots, row.seed, row.row) for row in rows] == [
        (shots, seed, row) for shots in (0, 2) for seed in (0, 1) for row in range(1, 457)
    ]


def test_metrics_have_a_cell_for_every_shots_and_seed_and_a_summary_for_every_shots(evaluated: Path):
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert [(cell["shots"], cell["seed"], cell["n"]) for cell in metrics["cells"]] == [(0, 0, 456), (0, 1, 456), (2, 0, 456), (2, 1, 456)]
    assert [summary["shots"] for summary in metrics["summary"]] == [0, 2]
    assert {"accuracy_mean", "accuracy_std", "ci95", "n", "seeds", "majority_baseline"} <= set(metrics["summary"][0])


def test_manifest_tells_what_is_needed_to_run_it_again(evaluated: Path):
    manifest = json.loads((evaluated / "manifest.json").read_text())
    assert manifest["files"]["data"]["sha256"] == manifest["files"]["pool"]["sha256"]
    assert manifest["demonstration_seeds"] == [0, 1]
    assert manifest["precision"] == "32-true"
    assert "model.safetensors" in manifest["files"]["checkpoint"]["sha256"]
    assert {"torch", "lightning", "transformers", "python"} <= set(manifest["versions"])


def test_the_lightning_checkpoint_and_the_pretrained_folder_are_the_same_model(fitted: Path, evaluated: Path, tmp_path: Path):
    checkpoint = str(next((fitted / "checkpoints").glob("best*.ckpt")))
    assert call(["evaluate", "--checkpoint", checkpoint, "--shots", "2", "--seeds", "1", "--output", str(tmp_path)]) == 0
    theirs = [row for row in read_predictions(evaluated / "predictions.csv") if (row.shots, row.seed) == (2, 0)]
    assert read_predictions(tmp_path / "predictions.csv") == theirs


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
    rows = read_predictions(tmp_path / "predictions.csv")
    assert len(rows) == 40
    uncertain = [row for row in rows if row.predicted == "uncertain"]
    assert not any(row.is_correct for row in uncertain)
    cell = json.loads((tmp_path / "metrics.json").read_text())["cells"][0]
    assert cell["uncertain"] == len(uncertain) / 40
    assert ("named neither label" in capsys.readouterr().out) == bool(uncertain)


def test_evaluating_twice_into_one_folder_gives_the_same_files(fitted: Path, tmp_path: Path):
    arguments = ["evaluate", "--checkpoint", str(fitted / "pretrained"), "--shots", "1", "--seeds", "2", "--output", str(tmp_path)]
    assert call(arguments) == 0
    first = {name: (tmp_path / name).read_bytes() for name in ("metrics.json", "predictions.csv")}
    assert call(arguments) == 0
    assert first == {name: (tmp_path / name).read_bytes() for name in first}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "metrics.json", "predictions.csv"]


@pytest.mark.parametrize("batch_size", ["1", "7", "200"])
def test_batch_size_does_not_change_a_prediction(fitted: Path, evaluated: Path, tmp_path: Path, batch_size: str):
    arguments = ["--shots", "2", "--seeds", "1", "--batch-size", batch_size, "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    ours = {row.row: row for row in read_predictions(tmp_path / "predictions.csv")}
    for theirs in read_predictions(evaluated / "predictions.csv"):
        if (theirs.shots, theirs.seed) == (2, 0):
            row = ours[theirs.row]
            assert row.logprob_positive == pytest.approx(theirs.logprob_positive, abs=1e-4)
            tied = abs(theirs.logprob_positive - theirs.logprob_negative) < 1e-4
            assert tied or row.predicted == theirs.predicted


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_half_precision_scores_are_near_those_of_float32(fitted: Path, evaluated: Path, tmp_path: Path, precision: str):
    arguments = ["--shots", "2", "--seeds", "1", "--device", "cpu", "--precision", precision, "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    theirs = {row.row: row for row in read_predictions(evaluated / "predictions.csv") if (row.shots, row.seed) == (2, 0)}
    for ours in read_predictions(tmp_path / "predictions.csv"):
        assert ours.logprob_positive == pytest.approx(theirs[ours.row].logprob_positive, abs=0.3)
    assert json.loads((tmp_path / "manifest.json").read_text())["precision"] == precision


def test_an_untrained_model_is_evaluated_by_name(fitted: Path, tmp_path: Path):
    arguments = ["--checkpoint", "random", "--tokenizer", str(fitted / "pretrained"), "--shots", "0", "--seeds", "1", "--limit", "16"]
    assert call(["evaluate", *arguments, "--output", str(tmp_path)]) == 0
    assert len(read_predictions(tmp_path / "predictions.csv")) == 16


def test_a_long_prompt_drops_whole_demonstrations_and_says_how_many(fitted: Path, tmp_path: Path, capsys):
    arguments = ["--shots", "16", "--seeds", "1", "--max-length", "120", "--output", str(tmp_path)]
    assert call(["evaluate", "--checkpoint", str(fitted / "pretrained"), *arguments]) == 0
    assert "oldest demonstrations were dropped." in capsys.readouterr().out
    assert json.loads((tmp_path / "manifest.json").read_text())["prompts_with_dropped_demonstrations"] > 0
