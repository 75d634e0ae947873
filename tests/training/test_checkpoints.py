"""Folders that from_pretrained loads, written whole or not at all."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.errors import InputError
from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, save_pretrained


@pytest.fixture
def model() -> RopeGPT2ForCausalLM:
    torch.manual_seed(0)
    return RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a fine film", "a dull film"], 300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_loads_in_float32_with_its_stored_values(model, tokenizer, tmp_path: Path, dtype: torch.dtype):
    save_pretrained(model, tokenizer, tmp_path / "model", dtype)
    ours, loaded_tokenizer = load_checkpoint(str(tmp_path / "model"))
    assert ours.dtype == torch.float32 == AutoModelForCausalLM.from_pretrained(tmp_path / "model").dtype
    for name, parameter in model.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter.to(dtype).float())
    assert loaded_tokenizer("a fine film")["input_ids"] == tokenizer("a fine film")["input_ids"]
    assert model.dtype == torch.float32


def test_the_tied_head_is_stored_once(model, tokenizer, tmp_path: Path):
    save_pretrained(model, tokenizer, tmp_path / "model")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert sum(tensor.numel() for tensor in stored.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_loading_a_whole_model_warns_of_nothing(model, tokenizer, tmp_path: Path):
    """At a raised level of its logger transformers warns of layers that are not sharded, in models that have no plan to be."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    save_pretrained(model, tokenizer, tmp_path / "model")
    logging.getLogger("transformers").addHandler(handler)
    try:
        load_checkpoint(str(tmp_path / "model"))
    finally:
        logging.getLogger("transformers").removeHandler(handler)
    assert said == []


def test_saving_again_replaces_and_a_failure_leaves_what_stood_there(model, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "model"
    save_pretrained(model, tokenizer, folder)
    before = (folder / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.transformer.wte.weight.add_(1.0)

    def fail(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(type(tokenizer), "save_pretrained", fail)
        with pytest.raises(InputError, match=r"model: cannot be written \(disk full\); make room, or choose another folder"):
            save_pretrained(model, tokenizer, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    save_pretrained(model, tokenizer, folder)
    assert (folder / "model.safetensors").read_bytes() != before


def test_saving_again_keeps_what_lies_beside_the_model(model, tokenizer, tmp_path: Path):
    folder = tmp_path / "model"
    save_pretrained(model, tokenizer, folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main")
    (folder / "notes.md").write_text("mine")
    (folder / "newest.md").symlink_to("notes.md")
    save_pretrained(model, tokenizer, folder)
    assert (folder / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
    assert (folder / "newest.md").readlink() == Path("notes.md")
    assert (folder / "notes.md").read_text() == "mine"


def test_saving_through_a_link_replaces_what_it_points_to(model, tokenizer, tmp_path: Path):
    save_pretrained(model, tokenizer, tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    with torch.no_grad():
        model.transformer.wte.weight.add_(1.0)
    save_pretrained(model, tokenizer, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert torch.equal(load_checkpoint(str(tmp_path / "model"))[0].get_input_embeddings().weight, model.transformer.wte.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "model"]


def test_a_slip_in_a_name_is_told_without_asking_the_hub(model, tokenizer, tmp_path: Path, monkeypatch):
    asked = []

    def asks(name: str, **_):
        asked.append(name)
        raise OSError("no such name")

    def refuses(_):
        raise PermissionError("not yours")

    save_pretrained(model, tokenizer, tmp_path / "mini")
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setattr("rope_gpt2.training.model_folders.AutoConfig.from_pretrained", asks)
    with pytest.raises(InputError, match=f"{tmp_path.name}/mni: no such folder; {tmp_path.name} holds mini; give one of them"):
        load_checkpoint(f"{tmp_path.name}/mni")
    with pytest.raises(InputError, match="logs/mini/pretrained: no such folder; give one that an earlier fit or save_pretrained wrote"):
        load_checkpoint("logs/mini/pretrained")
    with monkeypatch.context() as closed:
        closed.setattr("os.listdir", refuses)  # as for a folder that one may not read
        with pytest.raises(InputError, match="mni: no such folder; give one that"):
            load_checkpoint(str(tmp_path / "mni"))
    assert not asked
    monkeypatch.chdir(tmp_path)  # where no folder parts the name, it may be one of the hub's, as gpt2 is
    with pytest.raises(InputError, match="gpt2: no such folder, and no such name could be fetched from the hub"):
        load_checkpoint("gpt2")
    assert asked == ["gpt2"]
