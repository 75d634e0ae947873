"""A stranger's folder of save_pretrained runs no code, and is named where its weights do not fit."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from reliability.strangers import CODE, Attack, edit, evaluate
from running import call, fit_arguments
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(fitted: Path, tmp_path: Path) -> Path:
    """A model folder to do mischief to."""
    return Path(shutil.copytree(fitted / "pretrained", tmp_path / "stranger"))


def test_weights_that_are_pickled_are_not_read(folder: Path, marker: Path, refused):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Attack(marker)}, folder / "pytorch_model.bin")
    assert "no file named model.safetensors" in refused(*evaluate(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../weights.safetensors", "/weights.safetensors", "sub/weights.safetensors"])
def test_a_list_of_weights_names_safetensors_beside_it_alone(name: str, folder: Path, marker: Path, refused):
    weights = load_file(folder / "model.safetensors")
    shutil.move(folder / "model.safetensors", folder.parent / "weights.safetensors")
    torch.save({"transformer.wte.weight": Attack(marker)}, folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names {name!r}, and weights must be .safetensors files beside it" in refused(*evaluate(folder))


def test_the_code_of_a_folder_is_never_run(folder: Path, marker: Path, refused):
    (folder / "stranger.py").write_text(CODE.format(marker=str(marker)))
    code = {"AutoConfig": "stranger.StrangeConfig", "AutoModelForCausalLM": "stranger.StrangeModel"}
    before = (folder / "config.json").read_text()
    edit(folder / "config.json", model_type="strange", auto_map=code)
    assert "holds code of its own, which is never run" in refused(*evaluate(folder))
    (folder / "config.json").write_text(before)
    edit(
        folder / "tokenizer_config.json", tokenizer_class="StrangeTokenizer", auto_map={"AutoTokenizer": ["stranger.StrangeTokenizer"] * 2}
    )
    assert "cannot be loaded" in refused(*evaluate(folder))
    assert "cannot be loaded" in refused(*fit_arguments(folder.parent / "logs"), "--data.tokenizer", str(folder))


def test_where_transformers_has_the_class_the_code_of_a_folder_is_passed_over(folder: Path, marker: Path, monkeypatch):
    (folder / "stranger.py").write_text(CODE.format(marker=str(marker)))
    edit(folder / "config.json", auto_map={"AutoConfig": "stranger.StrangeConfig", "AutoModelForCausalLM": "stranger.StrangeModel"})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["stranger.StrangeTokenizer"] * 2})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    assert call(evaluate(folder)) == 0


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_config_chooses_no_program_of_the_hub(name: str, folder: Path, refused):
    edit(folder / "config.json", **{name: "kernels-community/attention"})
    assert "asks for attention by 'kernels-community/attention'" in refused(*evaluate(folder))


def test_weights_of_another_shape_are_named_with_what_was_expected(folder: Path, fitted: Path, whole, tmp_path: Path, refused):
    weights = load_file(folder / "model.safetensors")
    layer = {name: tensor for name, tensor in weights.items() if ".h.1." in name}
    save_file({name: tensor for name, tensor in weights.items() if name not in layer}, folder / "model.safetensors", {"format": "pt"})
    assert f"lack {len(layer)} of the weights, {min(layer)} for one" in refused(*evaluate(folder))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", n_layer=1)
    assert "weights that its config knows nothing of, transformer.h.1." in refused(*evaluate(folder))
    edit(folder / "config.json", n_layer=2, n_positions=96, n_embd=64)
    assert "have the shape [" in (said := refused(*evaluate(folder)))
    assert "and its config wants [" in said
    whole["state_dict"]["model.transformer.ln_f.weight"] = torch.zeros(7)
    torch.save(whole, tmp_path / "other.ckpt")
    assert "size mismatch for transformer.ln_f.weight: copying a param with shape torch.Size([7])" in refused(
        *evaluate(tmp_path / "other.ckpt")
    )
