"""What a run starts from: the weights and the shape of another, or a refusal."""

from pathlib import Path

import pytest
import torch
from running import call, fit_arguments
from small_modules import SHAPE
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.errors import InputError
from rope_gpt2.model.tokenizer import tokenizer_to_json, train_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, save_pretrained
from rope_gpt2.training.module import RopeGPT2Module


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["a fine film", "a dull film"], 270)


@pytest.fixture
def folder(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> Path:
    """A stored model of another shape than the options say."""
    torch.manual_seed(1)
    shape = {"vocab_size": 300, "n_positions": 48, "n_embd": 24, "n_layer": 3, "n_head": 3, "resid_pdrop": 0.3}
    rope = {"rope_type": "default", "rope_theta": 777.0, "partial_rotary_factor": 0.5}
    save_pretrained(RopeGPT2ForCausalLM(RopeGPT2Config(**shape, rope_parameters=rope)), tokenizer, tmp_path / "weights")
    return tmp_path / "weights"


def test_a_run_starts_from_the_weights_and_the_shape_of_a_folder(folder: Path, tokenizer: PreTrainedTokenizerBase):
    module = RopeGPT2Module(**(SHAPE | {"dropout": 0.2}), init_from=str(folder))
    theirs, _ = load_checkpoint(str(folder))
    for (name, ours), weight in zip(module.model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(ours, weight), name
    ids = torch.randint(0, 300, (2, 12))
    torch.testing.assert_close(module.eval().model(ids).logits, theirs(ids).logits)
    expected = {"vocab_size": 300, "n_embd": 24, "n_layer": 3, "n_head": 3, "rope_theta": 777.0, "partial_rotary_factor": 0.5}
    assert {name: module.hparams[name] for name in expected} == expected
    assert (module.hparams["n_positions"], module.hparams["dropout"]) == (32, 0.2)  # this run's own
    assert (module.model.config.n_positions, module.model.config.resid_pdrop) == (32, 0.2)
    assert module.hparams["init_from"] is None
    assert module.tokenizer_json == tokenizer_to_json(tokenizer)


def test_without_init_from_a_run_brings_no_tokenizer(module: RopeGPT2Module):
    assert module.tokenizer_json is None


def test_the_weights_to_start_from_stay_as_they_are_when_the_run_goes_on(folder: Path):
    module = RopeGPT2Module(**SHAPE, init_from=str(folder))
    with torch.no_grad():
        module.model.transformer.wte.weight.zero_()
    assert load_checkpoint(str(folder))[0].transformer.wte.weight.any()


@pytest.mark.parametrize("source", ["folder", "checkpoint"])
def test_a_fit_from_other_weights_leaves_a_checkpoint_that_needs_them_no_more(folder: Path, fitted: Path, tmp_path: Path, source: str):
    start = str(folder if source == "folder" else fitted / "checkpoints" / "last.ckpt")
    options = {"trainer__max_steps": "1", "trainer__limit_val_batches": "0", "model__vocab_size": "1024", "model__learning_rate": "0.0"}
    if source == "folder":
        options["model__n_positions"] = "256"  # its tokenizer has hardly a word
    assert call([*fit_arguments(tmp_path, **options), "--model.init_from", start]) == 0
    theirs, their_tokenizer = load_checkpoint(start)
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    stored = torch.load(last, weights_only=True)
    assert stored["hyper_parameters"]["init_from"] is None
    assert stored["hyper_parameters"]["n_layer"] == theirs.config.n_layer
    for path in (str(last), str(tmp_path / "version_0" / "pretrained")):
        ours, tokenizer = load_checkpoint(path)
        assert tokenizer_to_json(tokenizer) == tokenizer_to_json(their_tokenizer)
        for (name, weight), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(weight, other), name  # the learning rate was 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2)),
            "is a GPT2LMHeadModel, training takes RoPE GPT-2",
        ),
        (lambda: RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_inner=40)), "n_inner"),
    ],
    ids=["another kind", "another n_inner"],
)
def test_weights_that_training_has_no_options_for_are_refused(make, expected: str, tokenizer, tmp_path: Path):
    save_pretrained(make(), tokenizer, tmp_path / "other")
    with pytest.raises(InputError, match=expected) as refused:
        RopeGPT2Module(**SHAPE, init_from=str(tmp_path / "other"))
    assert "\n" not in str(refused.value)


def test_weights_whose_rotation_hangs_on_their_context_keep_it(tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0}
    theirs = RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=300, n_positions=48, n_embd=16, n_layer=1, n_head=2, rope_parameters=rope))
    save_pretrained(theirs, tokenizer, tmp_path / "yarn")
    with pytest.raises(InputError, match=r"^model\.n_positions must be 48 for the yarn weights of model\.init_from, got 32: "):
        RopeGPT2Module(**SHAPE, init_from=str(tmp_path / "yarn"))
    ours = RopeGPT2Module(**(SHAPE | {"n_positions": 48}), init_from=str(tmp_path / "yarn")).eval()
    ids = torch.randint(0, 300, (1, 90))
    torch.testing.assert_close(ours.model(ids).logits, theirs.eval()(ids).logits)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.ckpt"])
def test_weights_that_are_not_there_are_refused(name: str):
    with pytest.raises(InputError, match=rf"^{name}: no such f"):
        RopeGPT2Module(**SHAPE, init_from=name)
