"""--rope-type and its like: a longer context, the run's name, and what is refused."""

import argparse
import csv
import json
from pathlib import Path

import pytest
from running import DEMO, call
from transformers import GPT2Config, GPT2LMHeadModel

from rope_gpt2.commands.context import choose_context
from rope_gpt2.commands.rope_options import add_rope_options, apply_rope_options, check_rope_options
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.pieces import PARTIAL, PLAN, write_json
from rope_gpt2.fewshot.run_folder import read_run
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

MANY = [
    "--shots",
    "48",
    "--seeds",
    "1",
    "--limit",
    "3",
    "--precision",
    "32-true",
    "--no-report",
    "--calibration",
    "none",
]  # past 512 tokens


def tiny(**changes: object) -> RopeGPT2ForCausalLM:
    return RopeGPT2ForCausalLM(RopeGPT2Config(**({"vocab_size": 97, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 4} | changes)))


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_rope_options(parser)
    return argparse.Namespace(checkpoint="folder", **vars(parser.parse_args(arguments)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same prompts by checkpoints/mini as it is, and under two scalings, held against the plain path."""
    folder, found = tmp_path_factory.mktemp("runs"), {}
    scalings = {
        "none": [],
        "yarn": ["--rope-type", "yarn", "--rope-factor", "4"],
        "longrope": ["--rope-type", "longrope", "--rope-factor", "4"],
    }
    for name, options in scalings.items():
        found[name] = folder / name
        assert call(["evaluate", *MANY, *options, "--verify", "3", "--output", str(found[name])]) == 0
    return found


def test_a_scaling_makes_room_for_demonstrations(runs):
    dropped = {name: read_run(folder).scores.conditions[0].prompts_dropped for name, folder in runs.items()}
    assert dropped == {"none": 3, "yarn": 0, "longrope": 0}


def test_the_manifest_names_the_scaling(runs):
    plans = {name: json.loads((folder / "manifest.json").read_text())["plan"] for name, folder in runs.items()}
    assert plans["yarn"]["rope"] == {"rope_type": "yarn", "factor": 4.0}
    assert "rope" not in plans["none"]  # finished runs of earlier versions stay finished


def test_comparing_names_each_runs_scaling(runs, tmp_path, capsys):
    assert call(["compare", str(runs["none"]), str(runs["yarn"]), "--output", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert "(checkpoints/mini on data/demo.csv)" in printed
    assert "(checkpoints/mini with rope yarn x 4 on data/demo.csv)" in printed
    assert json.loads((tmp_path / "c.json").read_text())["b"]["checkpoint"] == "checkpoints/mini with rope yarn x 4"


@pytest.mark.parametrize("options", [[], ["--rope-type", "yarn", "--rope-factor", "8"], ["--rope-type", "linear", "--rope-factor", "4"]])
def test_a_run_is_not_resumed_under_another_scaling(options, runs, tmp_path, capsys):
    plan = json.loads((runs["yarn"] / "manifest.json").read_text())["plan"]
    (tmp_path / PARTIAL).mkdir()
    write_json(plan, tmp_path / PARTIAL / PLAN)  # as a run leaves it that was killed at once
    assert call(["evaluate", *MANY, *options, "--resume", "--output", str(tmp_path)]) == 2
    assert "was begun with another rope (" in capsys.readouterr().err
    assert json.loads((tmp_path / PARTIAL / PLAN).read_text()) == plan


def test_a_finished_run_of_the_same_scaling_is_not_scored_again(runs, capsys):
    before = (runs["yarn"] / "manifest.json").read_bytes()
    again = [*MANY, "--rope-type", "yarn", "--rope-factor", "4", "--resume", "--output", str(runs["yarn"])]
    assert call(["evaluate", *again]) == 0
    assert "is complete; nothing is scored again" in capsys.readouterr().err
    assert (runs["yarn"] / "manifest.json").read_bytes() == before


def test_label_takes_a_scaling(tmp_path):
    options = ["--column", "review", "--limit", "60", "--min-confidence", "0.5", "--rope-type", "linear", "--rope-factor", "2"]
    assert call(["label", "--checkpoint", "checkpoints/mini", "--text", str(DEMO), "--output", str(tmp_path / "l.csv"), *options]) == 0
    with (tmp_path / "l.csv").open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == ["review", "sentiment", "confidence", "apostrophe"]


def test_the_context_grows_by_the_factor_unless_a_length_is_given():
    model = tiny()
    apply_rope_options(parse("--rope-type", "dynamic", "--rope-factor", "2.5"), model)
    assert choose_context(None, model, "folder") == 160
    assert choose_context(40, model, "folder") == 40
    assert choose_context(1000, model, "folder") == 1000


def test_a_scaling_of_the_checkpoints_own_is_its_context_and_is_replaced_with_a_note(capsys):
    model = tiny(rope_parameters={"rope_type": "yarn", "factor": 4.0})
    assert choose_context(None, model, "folder") == 256
    apply_rope_options(parse(), model)
    assert not capsys.readouterr().err
    apply_rope_options(parse("--rope-type", "yarn", "--rope-factor", "8", "--rope-beta-fast", "16"), model)
    assert capsys.readouterr().err == "folder was made with yarn x 4: yarn x 8, beta_fast 16 takes its place\n"
    assert model.config.rope_parameters["beta_fast"] == 16.0
    assert choose_context(None, model, "folder") == 512


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--rope-factor", "4"], "--rope-factor 4: needs --rope-type"),
        (["--rope-beta-slow", "2"], "--rope-beta-slow 2: needs --rope-type"),
        (["--rope-type", "yarn"], "--rope-type yarn needs --rope-factor"),
        (["--rope-type", "default", "--rope-factor", "1"], "--rope-type default has none"),
        (["--rope-type", "linear", "--rope-factor", "0.5"], "rope factor must be a finite number from 1 on, got 0.5"),
        (["--rope-type", "llama3", "--rope-factor", "2", "--rope-beta-fast", "8"], "beta_fast is no bound of the rope type llama3"),
    ],
)
def test_options_that_cannot_be_are_refused_before_a_model_is_loaded(options, sentence, tmp_path, capsys):
    with pytest.raises(InputError, match=sentence):
        check_rope_options(parse(*options))
    assert call(["evaluate", "--checkpoint", str(tmp_path / "none"), *options, "--output", str(tmp_path / "out")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_models_without_rope_are_refused():
    options = parse("--rope-type", "linear", "--rope-factor", "2")
    with pytest.raises(InputError, match="only RoPE GPT-2 can be scaled, got a GPT2LMHeadModel"):
        apply_rope_options(options, GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=1, n_head=4)))
    with pytest.raises(InputError, match="the position encoding of the model is learned"):
        apply_rope_options(options, tiny(position_encoding="learned"))
