"""checkpoints/mini is what its model card says."""

import copy
import importlib
import json
from pathlib import Path

import pytest
import torch
from running import ROOT, call
from transformers import AutoModelForCausalLM, AutoTokenizer

import rope_gpt2  # noqa: F401  # registers the model

MINI = ROOT / "checkpoints" / "mini"
TEXTS = ["Review: A warm, clever film.\nSentiment:", "Review: Don't bother, it's dull and far too long for what it says.\nSentiment:"]


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MINI).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MINI)


def test_it_takes_at_most_12_megabytes():
    assert sum(path.stat().st_size for path in MINI.iterdir()) <= 12_000_000


def test_it_loads_in_float32_and_generates_a_label(model, tokenizer):
    assert model.dtype == torch.float32
    prompt = tokenizer(TEXTS[0], return_tensors="pt")
    assert tokenizer.decode(model.generate(**prompt, max_new_tokens=1)[0]).endswith((" positive", " negative"))


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_cached_uncached_and_left_padded_logits_agree(model, tokenizer, dtype: torch.dtype, share: float):
    """To a share of the largest logit, which is what rounding leaves; padding shifts the rotations' angles, which are float32."""
    model = copy.deepcopy(model).to(dtype)
    padded = tokenizer(TEXTS, return_tensors="pt", padding=True, padding_side="left")
    theirs = model(**padded).logits
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        whole = model(ids, use_cache=False).logits
        largest = float(whole.abs().max())
        torch.testing.assert_close(theirs[row, -ids.shape[1] :], whole[0], atol=1e-6 * largest, rtol=0)
        cache, steps = None, []
        for place in range(ids.shape[1]):
            output = model(ids[:, place : place + 1], past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            steps.append(output.logits)
        torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=share * largest, rtol=0)


def accuracy(folder: Path, shots: int) -> float:
    summaries = json.loads((folder / "metrics.json").read_text())["summaries"]
    return next(one["accuracy_mean"] for one in summaries if (one["shots"], one["calibration"]) == (shots, "none"))


def test_it_does_better_than_the_majority_on_the_demo_sentences(tmp_path: Path):
    assert call(["evaluate", "--shots", "0", "4", "--seeds", "2", "--output", str(tmp_path)]) == 0
    assert accuracy(tmp_path, 4) > 0.6


@pytest.mark.sst2
def test_it_does_on_sst2_what_its_card_says(sst2_folder: Path, tmp_path: Path):
    pool, data = str(sst2_folder / "train.csv"), str(sst2_folder / "validation.csv")
    arguments = ["--data", data, "--pool", pool, "--shots", "4", "--seeds", "2", "--output", str(tmp_path)]
    assert call(["evaluate", *arguments]) == 0
    card = (MINI / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| SST-2 validation | 4 |"))
    assert accuracy(tmp_path, 4) == pytest.approx(float(row.split("|")[3]) / 100, abs=0.01)


@pytest.mark.sst2
def test_typed_sentences_are_told_as_well_as_sst2s_own_form_of_them(sst2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The tokenizer's normalizer brings back what `benchmarks/typed_text.py` takes away."""
    pytest.importorskip("nltk", reason="of the extra bench")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script, typed = importlib.import_module("typed_text"), tmp_path / "typed.csv"
    assert script.as_typed("it 's a film i ca n't fault , really .") == "It's a film I can't fault, really."
    assert script.main(["--data", str(sst2_folder / "validation.csv"), "--output", str(typed)]) == 0
    for name, data in (("own", sst2_folder / "validation.csv"), ("typed", typed)):
        arguments = ["--data", str(data), "--pool", str(sst2_folder / "train.csv"), "--shots", "4", "--seeds", "1"]
        assert call(["evaluate", *arguments, "--no-report", "--output", str(tmp_path / name)]) == 0
    assert accuracy(tmp_path / "typed", 4) == pytest.approx(accuracy(tmp_path / "own", 4), abs=0.03)
