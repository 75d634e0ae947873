"""Bad input through the real commands: one sentence, exit code 2, nothing written."""

import pickle
from pathlib import Path

import pytest
import torch
from running import DEMO, call, fit_arguments

FEW = "review,sentiment\nGood.,positive\n"
BAD_CSVS = {
    "missing file": (None, "no such file"),
    "empty file": (b"", "is empty"),
    "header alone": (b"review,sentiment\n", "no rows"),
    "missing column": (b"review,label\nGood.,positive\n", "column sentiment is missing"),
    "doubled column": (b"review,review,sentiment\na,b,positive\n", "column review stands 2 times"),
    "unknown label": (FEW.encode() + b"Fine.,neutral\n", "row 2 (line 3), column sentiment: unknown label 'neutral'"),
    "empty review": (FEW.encode() + b",negative\n", "row 2, column review: empty review"),
    "not UTF-8": (FEW.encode() + "Café.,negative\n".encode("latin-1"), "line 3: not UTF-8"),
    "broken quoting": (FEW.encode() + b'"never closed,negative\n', "row 2 (line 3): broken quoting"),
    "too many columns": (FEW.encode() + b"a, b, c,negative\n", "row 2 (line 3): 4 columns instead of 2"),
    "too few examples": (FEW.encode(), "need"),
}


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence on standard error, after exit code 2."""
    capsys.readouterr()
    assert call(arguments) == 2
    captured = capsys.readouterr()
    sentences = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(sentences) == 1
    assert "Traceback" not in captured.err + captured.out
    return sentences[0]


@pytest.mark.parametrize("name", BAD_CSVS)
@pytest.mark.parametrize("option", ["--data", "--pool"])
def test_evaluate_refuses_a_bad_csv(name: str, option: str, fitted: Path, tmp_path: Path, capsys):
    content, expected = BAD_CSVS[name]
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    output = tmp_path / "output"
    message = refused(["evaluate", "--checkpoint", str(fitted / "pretrained"), option, str(path), "--output", str(output)], capsys)
    assert expected in message
    assert not output.exists()


@pytest.mark.parametrize("name", [name for name in BAD_CSVS if name != "too few examples"])
@pytest.mark.parametrize("option", ["data.train", "data.validation"])
def test_fit_refuses_a_bad_csv(name: str, option: str, tmp_path: Path, capsys):
    content, expected = BAD_CSVS[name]
    path = tmp_path / "bad.csv"
    if content is not None:
        path.write_bytes(content)
    logs = tmp_path / "logs"
    arguments = [*fit_arguments(logs), f"--{option}", str(path)]
    message = refused(arguments, capsys)
    assert expected in message
    assert str(path) in message
    assert not logs.exists()


def test_fit_refuses_too_few_examples(tmp_path: Path, capsys):
    path = tmp_path / "few.csv"
    path.write_text(FEW)
    assert "holdout must lie between" in refused([*fit_arguments(tmp_path / "logs"), "--data.train", str(path)], capsys)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--shot", "4"], "unrecognized arguments: --shot 4"),
        (["--shots", "four"], "invalid int value: 'four'"),
        (["--shots", "-1"], "shots must be 0 or more"),
        (["--shots", "500"], "give a larger pool or fewer shots"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--batch-tokens", "-1"], "--batch-tokens must be 0 or more"),
        (["--orders", "0"], "--orders must be a number from 1 on, or all"),
        (["--orders", "some"], "--orders must be a number from 1 on, or all"),
        (["--demonstration-labels", "wrong"], "invalid choice: 'wrong'"),
        (["--selection", "nearest"], "invalid choice: 'nearest'"),
        (["--calibration", "platt"], "invalid choice: 'platt'"),
        (["--scoring", "channel", "--calibration", "pmi"], "--scoring channel allows none, batch alone"),
        (["--scoring", "generate", "--verify"], "leave one of them out"),
        (["--devices", "0"], "--devices must be at least 1"),
        (["--devices", "3", "--limit", "2"], "has 2 reviews to share among them"),
        (["--max-length", "0"], "--max-length must be at least 1"),
        (["--tokenizer", "gpt2"], "--tokenizer is for --checkpoint random"),
        (["--limit", "-3"], "--limit must be 0 or more"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
        (["--template", "{text} {text} {label}"], "template must hold {text} once"),
        (["--template", "{label}: {text}"], "template must hold {text} once"),
        (["--label-words", "good", "GOOD"], "label words must be 2 different words"),
        (["--checkpoint", "nowhere"], "nowhere: no such folder"),
        (["--checkpoint", "nowhere.ckpt"], "nowhere.ckpt: no such file"),
        (["--checkpoint", "data"], "holds no config.json"),
        (["--checkpoint", "README.md"], "neither a folder nor a .ckpt file"),
        (["--checkpoint", "random", "--tokenizer", "nowhere"], "tokenizer 'nowhere' cannot be loaded"),
        (["--data", "data"], "is a folder, not a file"),
        (["--output", "README.md"], "is a file; give a folder"),
        (["--max-length", "8"], "the context has"),
        pytest.param(["--device", "gpu"], "no GPU", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")),
    ],
    ids=" ".join,
)
def test_evaluate_refuses_a_bad_option(options: list[str], expected: str, fitted: Path, tmp_path: Path, capsys):
    arguments = ["evaluate", "--checkpoint", str(fitted / "pretrained"), "--output", str(tmp_path / "output"), *options]
    assert expected in refused(arguments, capsys)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--model.n_layerz", "3"], "unrecognized arguments: --model.n_layerz"),
        (["--model.n_layer", "many"], "many"),
        (["--model.n_embd", "36"], "n_embd"),
        (["--model.n_embd", "34", "--model.n_head", "2"], "the rotary dimension must be even"),
        (["--model.rope_type", "spiral"], "spiral"),
        (["--model.vocab_size", "100"], "vocab_size must be at least 258"),
        (["--data.tokenizer", "nowhere"], "tokenizer 'nowhere' cannot be loaded"),
        (["--data.seeds", "0"], "seeds must be at least 1"),
        (["--data.holdout", "0"], "holdout must lie between"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--ckpt_path", "nowhere.ckpt"], "nowhere.ckpt: no such checkpoint file"),
        (["--ckpt_path", "README.md"], "is no Lightning checkpoint"),
        pytest.param(["--trainer.accelerator", "gpu"], "gpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")),
    ],
    ids=" ".join,
)
def test_fit_refuses_a_bad_option(options: list[str], expected: str, tmp_path: Path, capsys):
    assert expected in refused([*fit_arguments(tmp_path / "logs"), *options], capsys)
    assert not list(tmp_path.glob("logs/*/checkpoints"))


def test_fit_refuses_to_validate_on_its_training_file(tmp_path: Path, capsys):
    arguments = [*fit_arguments(tmp_path / "logs"), "--data.validation", "data/../data/demo.csv"]
    assert "is both training and validation file" in refused(arguments, capsys)


def test_fit_refuses_to_export_over_a_folder_that_is_no_model(tmp_path: Path, capsys):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("kept")
    arguments = [*fit_arguments(tmp_path / "logs"), "--export.folder", str(tmp_path / "precious")]
    assert "exists and is no model folder" in refused(arguments, capsys)
    assert (tmp_path / "precious" / "notes.txt").read_text() == "kept"


def test_a_schedule_without_an_end_is_refused(tmp_path: Path, capsys):
    assert "needs an end" in refused([*fit_arguments(tmp_path / "logs"), "--trainer.max_epochs", "-1"], capsys)


def test_an_unknown_command_is_refused(capsys):
    assert "unknown command 'evalute'" in refused(["evalute"], capsys)


def test_a_damaged_checkpoint_is_refused_by_name(fitted: Path, tmp_path: Path, capsys):
    whole = (fitted / "checkpoints" / "last.ckpt").read_bytes()
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(whole[: len(whole) // 2])
    assert "damaged.ckpt" in refused(["evaluate", "--checkpoint", str(damaged)], capsys)
    assert "damaged.ckpt" in refused(["predict", "--config", "configs/predict.yaml", "--ckpt_path", str(damaged)], capsys)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    hostile = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": Attack()}, hostile)
    refused(["evaluate", "--checkpoint", str(hostile)], capsys)
    refused(["predict", "--config", "configs/predict.yaml", "--ckpt_path", str(hostile)], capsys)
    assert not (tmp_path / "ran").exists()
    with hostile.open("wb") as file:
        pickle.dump(Attack(), file)
    refused(["evaluate", "--checkpoint", str(hostile)], capsys)
    assert not (tmp_path / "ran").exists()


def test_truncated_weights_are_refused_by_name(fitted: Path, tmp_path: Path, capsys):
    folder = tmp_path / "truncated"
    folder.mkdir()
    for path in (fitted / "pretrained").iterdir():
        content = path.read_bytes()
        (folder / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".safetensors" else content)
    assert "truncated: the model cannot be loaded" in refused(["evaluate", "--checkpoint", str(folder)], capsys)


def test_an_output_that_cannot_be_written_is_refused(fitted: Path, tmp_path: Path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    arguments = ["evaluate", "--checkpoint", str(fitted / "pretrained"), "--data", str(DEMO), "--output", str(blocked / "inside")]
    assert "cannot be written to" in refused(arguments, capsys)
