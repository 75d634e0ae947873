"""`rope-gpt2 convert` as typed: folders and programs that load elsewhere, written whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from converting import SHAPE, convert, make_rope, refused, weights
from running import call
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM, PreTrainedTokenizerBase

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.training.checkpoints import load_checkpoint, save_pretrained

PROMPT = "Review: A fine film.\nSentiment:"
ELSEWHERE = """
import sys
sys.modules["rope_gpt2"] = None  # an import of it fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM
folder, prompt, target = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
assert type(model) is GPTNeoXForCausalLM
with torch.no_grad():
    logits = model(**tokenizer([prompt, prompt + " positive. And now?"], return_tensors="pt", padding=True)).logits
assert not any(name.startswith("rope_gpt2.") for name in sys.modules)
torch.save(logits, target)
"""


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


# What it is for.


def test_mini_as_gpt_neox_gives_the_same_logits_in_a_process_without_this_package(tmp_path: Path):
    convert("to-gpt-neox", "checkpoints/mini", tmp_path / "neox")
    arguments = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "neox"), PROMPT, str(tmp_path / "logits.pt")]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_checkpoint("checkpoints/mini")
    with torch.no_grad():
        ours = model(**tokenizer([PROMPT, PROMPT + " positive. And now?"], return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), ours, atol=1e-5, rtol=1e-6)
    assert weights(tmp_path / "neox").keys().isdisjoint({"lm_head.weight", "embed_out.weight"})


def test_gpt2_through_rope_gpt2_and_gpt_neox_and_back_keeps_every_bit(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope")
    convert("to-gpt-neox", tmp_path / "rope", tmp_path / "neox")
    convert("from-gpt-neox", tmp_path / "neox", tmp_path / "back")
    stock = weights(gpt2_folder)
    del stock["transformer.wpe.weight"]
    assert_same_weights(weights(tmp_path / "rope"), stock)
    assert_same_weights(weights(tmp_path / "back"), stock)
    assert (tmp_path / "back" / "config.json").read_text() == (tmp_path / "rope" / "config.json").read_text()
    assert {(tmp_path / name / "tokenizer.json").read_bytes() for name in ("rope", "neox", "back")} == {
        (gpt2_folder / "tokenizer.json").read_bytes()
    }


def test_gpt2_with_its_table_comes_back_as_it_was(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "learned", "--position-encoding", "learned")
    convert("to-gpt2", tmp_path / "learned", tmp_path / "gpt2")
    assert_same_weights(weights(tmp_path / "gpt2"), weights(gpt2_folder))
    assert (tmp_path / "gpt2" / "config.json").read_text() == (gpt2_folder / "config.json").read_text()


def test_a_checkpoint_of_fit_becomes_a_folder(fitted: Path, tmp_path: Path):
    convert("from-checkpoint", fitted / "checkpoints" / "last.ckpt", tmp_path / "model")
    model, tokenizer = load_checkpoint(str(tmp_path / "model"))
    theirs, _ = load_checkpoint(str(fitted / "checkpoints" / "last.ckpt"))
    assert_same_weights(dict(model.state_dict()), dict(theirs.state_dict()))
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_so_does_a_sharded_one(fitted: Path, tmp_path: Path):
    whole = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    sharded = tmp_path / "last.ckpt"
    dcp.save({"state_dict": whole.pop("state_dict")}, checkpoint_id=sharded, no_dist=True)
    torch.save(whole, sharded / "meta.pt")
    convert("from-checkpoint", f"{sharded}/", tmp_path / "of_shards")
    convert("from-checkpoint", fitted / "checkpoints" / "last.ckpt", tmp_path / "of_a_file")
    assert_same_weights(weights(tmp_path / "of_shards"), weights(tmp_path / "of_a_file"))


def test_a_checkpoint_goes_straight_to_gpt_neox(fitted: Path, tmp_path: Path):
    convert("to-gpt-neox", fitted / "checkpoints" / "last.ckpt", tmp_path / "neox")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "neox"), AutoTokenizer.from_pretrained(tmp_path / "neox")
    assert type(model) is GPTNeoXForCausalLM
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_the_healing_recipe_starts_from_a_gpt2_without_its_table(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope")
    options = {"model.init_from": tmp_path / "rope", "data.train": "data/demo.csv", "export.folder": tmp_path / "healed"}
    options |= {"model.n_positions": 64, "data.holdout": 20, "data.cache_dir": tmp_path / "cache", "trainer.max_steps": 2}
    options |= {"trainer.val_check_interval": 2, "trainer.default_root_dir": tmp_path, "trainer.precision": "32-true"}
    options |= {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "model.compile": "false"}
    assert call(["fit", "--config", "configs/heal.yaml", *(f"--{name}={value}" for name, value in options.items())]) == 0
    before, after = weights(tmp_path / "rope"), weights(tmp_path / "healed")
    assert before.keys() == after.keys()
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stock_classes_load_in_the_stored_dtype_and_ours_in_float32(dtype: str, gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope", "--dtype", dtype)
    convert("to-gpt-neox", tmp_path / "rope", tmp_path / "neox", "--dtype", dtype)
    assert {weight.dtype for name in ("rope", "neox") for weight in weights(tmp_path / name).values()} == {getattr(torch, dtype)}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "rope").dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "neox").dtype == getattr(torch, dtype)


def test_an_untied_head_is_stored_under_the_name_that_other_programs_read(rope_folder: Path, tmp_path: Path):
    convert("to-gpt-neox", rope_folder, tmp_path / "neox", "--untie-head")
    stored = weights(tmp_path / "neox")
    assert torch.equal(stored["embed_out.weight"], stored["gpt_neox.embed_in.weight"])


# Written whole or not at all.


def test_a_model_that_stood_there_is_replaced_and_notes_beside_it_stay(rope_folder: Path, gpt2_folder: Path, tmp_path: Path):
    target = tmp_path / "model"
    convert("from-gpt2", gpt2_folder, target)
    (target / "notes.txt").write_text("kept")
    (target / "pytorch_model.bin").write_text("of the model that goes")
    convert("to-gpt-neox", rope_folder, target)
    assert (target / "notes.txt").read_text() == "kept"
    assert not (target / "pytorch_model.bin").exists()
    assert type(AutoModelForCausalLM.from_pretrained(target)) is GPTNeoXForCausalLM
    assert "GPTNeoXForCausalLM" in (target / "README.md").read_text()


def test_a_failure_leaves_nothing(rope_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    assert "cannot be written (disk full)" in refused(capsys, "to-gpt-neox", rope_folder, tmp_path / "neox")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_folder_is_not_replaced(rope_folder: Path, tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("kept")
    assert "exists and is no model folder" in refused(capsys, "to-gpt-neox", rope_folder, tmp_path)
    assert "source and target at once" in refused(capsys, "to-gpt-neox", rope_folder, f"{rope_folder}/")
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_a_source_that_cannot_become_the_target_is_refused_in_a_sentence(rope_folder: Path, gpt2_folder: Path, tmp_path: Path, capsys):
    target = tmp_path / "model"
    assert "takes a RoPE GPT-2, got GPT2LMHeadModel" in refused(capsys, "to-gpt-neox", gpt2_folder, target)
    assert "takes a GPT2LMHeadModel" in refused(capsys, "from-gpt2", rope_folder, target)
    assert "position_encoding 'rope'" in refused(capsys, "to-gpt2", rope_folder, target)
    assert "no such file" in refused(capsys, "from-checkpoint", tmp_path / "missing.ckpt", target)
    assert "holds no finished run" in refused(capsys, "to-gpt-neox", rope_folder, target, "--results", tmp_path / "no_run")
    assert "invalid choice" in refused(capsys, "to-llama", rope_folder, target)
    assert list(tmp_path.iterdir()) == []


def test_float16_refuses_a_weight_that_it_cannot_hold(tokenizer, tmp_path: Path, capsys):
    model = RopeGPT2ForCausalLM(RopeGPT2Config(**SHAPE))
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = 1e5
    save_pretrained(model, tokenizer, tmp_path / "large")
    assert "ln_f.weight holds 1e+05" in refused(capsys, "to-gpt-neox", tmp_path / "large", tmp_path / "neox", "--dtype", "float16").replace(
        "final_layer_norm", "ln_f"
    )
    assert not (tmp_path / "neox").exists()


# Scoring as a program; its numbers are tested in fewshot/test_exported.py.


@pytest.mark.slow
def test_the_scorer_of_a_model_gives_its_label_logprobs(tokenizer, tmp_path: Path):
    folder = make_rope(tmp_path / "rope", tokenizer, position_encoding="learned")
    convert("to-export", folder, tmp_path / "scorer.pt2", "--label-words", "dull", "fine")
    program = torch.export.load(tmp_path / "scorer.pt2").module()
    model, _ = load_checkpoint(str(folder))
    prompts = [tokenizer(text)["input_ids"] for text in (PROMPT, "Review: A dull film. A very dull film.\nSentiment:")]
    longest = max(map(len, prompts))
    scores = program(torch.tensor([ids + [1] * (longest - len(ids)) for ids in prompts]), torch.tensor([len(ids) for ids in prompts]))
    for ids, line in zip(prompts, scores, strict=True):
        for word, score in zip((tokenizer(" dull")["input_ids"], tokenizer(" fine")["input_ids"]), line, strict=True):
            with torch.no_grad():
                logprobs = model(torch.tensor([ids + word])).logits[0].log_softmax(dim=-1)
            expected = sum(logprobs[len(ids) - 1 + place, token] for place, token in enumerate(word))
            torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


def test_the_scorer_is_refused_where_its_angles_hang_on_the_batch(tokenizer, tmp_path: Path, capsys):
    dynamic = make_rope(tmp_path / "dynamic", tokenizer, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert "rope type dynamic" in refused(capsys, "to-export", dynamic, tmp_path / "scorer.pt2")
    assert "end in .pt2" in refused(capsys, "to-export", dynamic, tmp_path / "scorer.onnx")
    assert not (tmp_path / "scorer.pt2").exists()
