"""What the command line adds to Lightning's: best and last checkpoints across resumes, fits without validation."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import ROOT, call, fit_arguments

from rope_gpt2.training.cli import BestCheckpoint
from rope_gpt2.training.corpus_datamodule import CorpusDataModule
from rope_gpt2.training.datamodule import SentimentDataModule


def test_a_fit_may_end_before_its_first_validation(tmp_path: Path):
    assert call([*fit_arguments(tmp_path), "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]) == 0
    assert (tmp_path / "version_0" / "pretrained" / "config.json").is_file()


def test_the_best_of_a_run_is_remembered_when_it_is_resumed_elsewhere(tmp_path: Path):
    first = BestCheckpoint(dirpath=tmp_path / "version_0", monitor="val/accuracy", mode="max")
    first.best_model_path, first.best_model_score = str(tmp_path / "version_0" / "best.ckpt"), torch.tensor(0.9)
    first.best_k_models = {first.best_model_path: first.best_model_score}
    second = BestCheckpoint(dirpath=tmp_path / "version_1", monitor="val/accuracy", mode="max")
    second.load_state_dict(first.state_dict())
    assert second.best_model_path == first.best_model_path
    assert second.best_model_score == 0.9


def test_scoring_leaves_no_run_folder(fitted: Path, tmp_path: Path, monkeypatch):
    checkpoint = str(fitted / "checkpoints" / "last.ckpt")
    options = ["--data.test", "data/demo.csv", "--data.pool", "data/demo.csv", "--trainer.enable_progress_bar", "false"]
    assert call(["test", "--ckpt_path", checkpoint, *options, "--trainer.default_root_dir", str(tmp_path)]) == 0
    assert not list(tmp_path.iterdir())


def test_resuming_goes_on_in_a_folder_of_its_own(fitted: Path, tmp_path: Path):
    arguments = fit_arguments(tmp_path, trainer__max_epochs="3")
    assert call([*arguments, "--ckpt_path", str(fitted / "checkpoints" / "last.ckpt")]) == 0
    assert (tmp_path / "version_0" / "pretrained" / "model.safetensors").is_file()


# Which data module, and its options


def printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The whole configuration that a command would run with."""
    with pytest.raises(SystemExit) as ended:
        call([*arguments, "--print_config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def defaults_of(data_module: type) -> dict[str, Any]:
    parameters = inspect.signature(data_module).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def test_options_of_data_are_those_of_reviews_unless_another_data_module_is_named(capsys):
    data = printed(["fit", "--data.train", "data/demo.csv", "--data.shots", "[0, 4]"], capsys)["data"]
    assert data["class_path"].endswith(".SentimentDataModule")
    assert data["init_args"] == defaults_of(SentimentDataModule) | {"train": "data/demo.csv", "shots": [0, 4]}


@pytest.mark.parametrize("order", [1, -1])
def test_another_data_module_has_its_own_defaults(order: int, capsys):
    """Not those of the reviews, as far as the two share names."""
    options = [["--data", "CorpusDataModule"], ["--data.train", "data/demo.csv"]][::order]
    data = printed(["fit", *options[0], *options[1]], capsys)["data"]
    assert data["class_path"].endswith(".CorpusDataModule")
    assert data["init_args"] == defaults_of(CorpusDataModule) | {"train": "data/demo.csv"}


def test_a_corpus_config_has_the_defaults_of_its_data_module(capsys):
    data = printed(["fit", "--config", "configs/corpus_critics.yaml", "--data.train", "mine.txt"], capsys)["data"]
    given = yaml.safe_load((ROOT / "configs" / "corpus_critics.yaml").read_text())["data"]["init_args"]
    assert data["init_args"] == defaults_of(CorpusDataModule) | given | {"train": "mine.txt"}


def test_a_saved_configuration_runs_again_as_it_is(fitted: Path, capsys):
    saved = yaml.safe_load((fitted / "config.yaml").read_text())
    again = printed(["fit", "--config", str(fitted / "config.yaml")], capsys)
    assert again["data"] == saved["data"]
    assert again["model"] == saved["model"]


MODEL = {"vocab_size": "400", "n_positions": "192", "n_embd": "16", "n_layer": "1", "n_head": "2"}


def test_fits_on_text_and_on_reviews_take_their_file_alone(tmp_path: Path):
    lines = [f"{number} words about the weather of that day, and of what came after it" for number in range(240)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    shared = [part for name, value in MODEL.items() for part in (f"--model.{name}", value)]
    trainer = {"max_steps": "2", "accelerator": "cpu", "enable_progress_bar": "false", "limit_val_batches": "1", "val_check_interval": "2"}
    shared += [part for name, value in trainer.items() for part in (f"--trainer.{name}", value)]
    text = ["--data", "CorpusDataModule", "--data.train", str(tmp_path / "text.txt"), "--data.cache_dir", str(tmp_path / "cache")]
    text += ["--data.holdout", "40", "--data.batch_size", "2"]
    reviews = ["--data.train", "data/demo.csv", "--data.holdout", "60", "--data.batch_size", "4", "--data.shots", "1"]
    for name, data in (("text", text), ("reviews", reviews)):
        root = tmp_path / name
        assert call(["fit", *shared, *data, "--trainer.default_root_dir", str(root)]) == 0
        assert (root / "version_0" / "pretrained" / "model.safetensors").is_file()
        assert list((root / "version_0" / "checkpoints").glob("best-step=2-*.ckpt"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data.batch_sizee", "3"], "SentimentDataModule has no option data.batch_sizee; see --data.help SentimentDataModule"),
        (["--data.batch.size", "3"], "SentimentDataModule has no option data.batch.size; see --data.help SentimentDataModule"),
        (["--config", "bad.yaml"], "SentimentDataModule has no option data.batch_sizee; see --data.help SentimentDataModule"),
        (["--config", "corpus.yaml"], "CorpusDataModule has no option data.shots; see --data.help CorpusDataModule"),
        (
            ["--data", "CorpusDataModule", "--data.shots", "4"],
            "CorpusDataModule has no option data.shots; see --data.help CorpusDataModule",
        ),
        (["--data", "CorpusDataModule"], "CorpusDataModule needs data.train; see --data.help CorpusDataModule"),
        (["--data", "CorpusDataModul"], "--data CorpusDataModul is no data module; give SentimentDataModule or CorpusDataModule"),
        (["--data", "json.JSONDecoder"], "--data json.JSONDecoder is no data module; give SentimentDataModule or CorpusDataModule"),
        (["--data.batch_size", "many"], "data.batch_size must be a whole number, got 'many'; see --data.help SentimentDataModule"),
        (["--data.batch_size", "0"], "batch_size must be at least 1, got 0; give a larger number"),
        (["--data.seeds", "0"], "seeds must be at least 1, got 0; give a larger number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_data_option_is_refused_in_one_short_sentence(options: list[str], expected: str, tmp_path: Path, capsys):
    (tmp_path / "bad.yaml").write_text("data:\n  train: data/demo.csv\n  batch_sizee: 3\n")
    (tmp_path / "corpus.yaml").write_text("data:\n  class_path: CorpusDataModule\n  init_args:\n    train: a.txt\n    shots: 4\n")
    capsys.readouterr()
    assert call(["fit", *(str(tmp_path / part) if part.endswith(".yaml") else part for part in options)]) == 2
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")] == [f"error: {expected}"]


def test_help_tells_how_to_list_the_options_of_a_data_module(capsys):
    with pytest.raises(SystemExit):
        call(["fit", "--help"])
    shown = capsys.readouterr().out
    assert "--data.help" in shown
    for name in ("SentimentDataModule", "CorpusDataModule"):
        assert name in shown
        with pytest.raises(SystemExit):
            call(["fit", "--data.help", name])
        assert "--data.holdout" in capsys.readouterr().out


# A run that goes on


def stored(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


def plateau_arguments(folder: Path, steps: int, **options: str) -> list[str]:
    """`fit` of so many steps, on a plateau unless the options say something else."""
    chosen = {
        "schedule": "wsd",
        "decay_fraction": "0.0",
        "learning_rate": "0.01",
        "min_learning_rate": "0.25",
        "warmup_steps": "2",
    } | options
    limits = {"trainer__max_epochs": "-1", "trainer__max_steps": str(steps), "trainer__limit_val_batches": "0"}
    return fit_arguments(folder, **limits, **{f"model__{name}": value for name, value in chosen.items()})


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """last.ckpt of four steps on a plateau."""
    folder = tmp_path_factory.mktemp("plateau")
    assert call(plateau_arguments(folder, 4)) == 0
    return folder / "version_0" / "checkpoints" / "last.ckpt"


def test_a_plateau_goes_on_and_decays(plateau: Path, tmp_path: Path):
    begun = torch.load(plateau, weights_only=True)
    assert begun["lr_schedulers"][0]["_last_lr"] == [0.01, 0.01]
    assert call([*plateau_arguments(tmp_path, 8, decay_fraction="0.5", weight_decay="0.3"), "--ckpt_path", str(plateau)]) == 0
    ended = stored(tmp_path)
    assert (begun["global_step"], ended["global_step"]) == (4, 8)
    assert ended["lr_schedulers"][0]["_last_lr"] == pytest.approx([0.0025, 0.0025])
    assert [group["weight_decay"] for group in ended["optimizer_states"][0]["param_groups"]] == [0.3, 0.0]
    assert ended["hyper_parameters"] == begun["hyper_parameters"] | {"decay_fraction": 0.5, "weight_decay": 0.3}


def test_a_run_goes_on_with_another_learning_rate_from_its_first_step(plateau: Path, tmp_path: Path):
    assert call([*plateau_arguments(tmp_path, 5, learning_rate="0.0", weight_decay="0.0"), "--ckpt_path", str(plateau)]) == 0
    before, after = torch.load(plateau, weights_only=True)["state_dict"], stored(tmp_path)["state_dict"]
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_what_the_command_line_leaves_out_is_the_checkpoints(plateau: Path, capsys):
    options = ["--data.train", "data/demo.csv", "--model.schedule", "cosine"]
    model = printed(["fit", *options, "--ckpt_path", str(plateau)], capsys)["model"]
    theirs = torch.load(plateau, weights_only=True)["hyper_parameters"]
    assert model == {name: theirs[name] for name in model} | {"schedule": "cosine"}


@pytest.mark.parametrize(("option", "value"), [("n_embd", "64"), ("n_positions", "256"), ("rope_type", "linear"), ("optimizer", "muon")])
def test_another_shape_than_the_checkpoints_is_refused(plateau: Path, tmp_path: Path, option: str, value: str, capsys):
    theirs = torch.load(plateau, weights_only=True)["hyper_parameters"][option]
    assert call([*plateau_arguments(tmp_path, 8, **{option: value}), "--ckpt_path", str(plateau)]) == 2
    assert f"error: the run of ckpt_path has model.{option} {theirs}, got {value}; leave it out" in capsys.readouterr().err


def test_an_option_younger_than_the_checkpoint_had_its_default_there(plateau: Path, tmp_path: Path, capsys):
    checkpoint = torch.load(plateau, weights_only=True)
    del checkpoint["hyper_parameters"]["embedding_rate"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert call([*plateau_arguments(tmp_path, 8, embedding_rate="0.5"), "--ckpt_path", str(tmp_path / "old.ckpt")]) == 2
    assert "has model.embedding_rate 1.0, got 0.5; leave it out" in capsys.readouterr().err
    assert call([*plateau_arguments(tmp_path, 5), "--ckpt_path", str(tmp_path / "old.ckpt")]) == 0


def test_the_saved_configuration_of_a_run_from_other_weights_resumes_it(plateau: Path, tmp_path: Path):
    start = ["--model.init_from", str(plateau)]
    assert call([*plateau_arguments(tmp_path / "first", 2, vocab_size="1024", n_layer="5"), *start]) == 0
    first = tmp_path / "first" / "version_0"
    again = ["fit", "--config", str(first / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "second")]
    again += ["--trainer.max_steps", "3", "--ckpt_path", str(first / "checkpoints" / "last.ckpt")]
    assert call(again) == 0
    ended = stored(tmp_path / "second")
    assert (ended["global_step"], ended["hyper_parameters"]["n_layer"]) == (3, 2)
