"""Mini as a stock GPT-NeoX in lm-evaluation-harness: the same SST-2 predictions as here, in a process that cannot import this package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import ROOT, call

from rope_gpt2.fewshot.batches import collate_prompts, group_prompts
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS, read_examples
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.scoring import score_labels
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.training.checkpoints import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.sst2]
ROWS = int(os.environ.get("ROPE_GPT2_HARNESS_ROWS", "0")) or None  # fewer, for a first look
LM_EVAL = os.environ.get("ROPE_GPT2_LM_EVAL", sys.executable)  # a python that has lm_eval
ELSEWHERE = """
import sys
sys.modules["rope_gpt2"] = None  # an import of it fails
import lm_eval.__main__ as harness
try:
    harness.cli_evaluate()
finally:
    assert not any(name.startswith("rope_gpt2.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def lm_eval() -> str:
    """A python with lm-evaluation-harness, or the test is skipped."""
    found = subprocess.run([LM_EVAL, "-c", "import lm_eval.models.huggingface"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("lm-evaluation-harness is not installed (pip install 'lm_eval[hf]', or name a python that has it in ROPE_GPT2_LM_EVAL)")
    return LM_EVAL


@pytest.fixture
def write_task(monkeypatch: pytest.MonkeyPatch):
    """benchmarks/harness.py's, found as the benchmark scripts find it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import harness

    yield harness.write_task
    del sys.modules["harness"]


@pytest.mark.parametrize("shots", [0, 4])
def test_the_exported_gpt_neox_predicts_the_same_through_the_harness(shots, lm_eval, write_task, sst2_folder: Path, tmp_path: Path):
    queries = read_examples(sst2_folder / "validation.csv")[:ROWS]
    shown = DemonstrationSampler(Pool(read_examples(sst2_folder / "train.csv")), Condition(shots))
    model, tokenizer = load_checkpoint("checkpoints/mini")
    builder = PromptBuilder(tokenizer, Template(), Verbalizer(), max_length=model.config.n_positions)
    ours = {}
    for group in group_prompts(builder.build(shown, builder.encode(queries)), batch_tokens=4096):
        batch = collate_prompts(group, builder.label_token_ids)
        ours |= {prompt.query.row: line for prompt, line in zip(batch.prompts, score_labels(model, batch), strict=True)}
    ours = torch.stack([ours[query.row] for query in queries])

    assert call(["convert", "to-gpt-neox", "checkpoints/mini", str(tmp_path / "neox")]) == 0
    write_task(tmp_path, queries, [(one.review, one.shown) for one in shown.shared])
    options = ["--model_args", f"pretrained={tmp_path / 'neox'},add_bos_token=False,dtype=float32", "--tasks", "sst2_prompt"]
    options += ["--include_path", str(tmp_path), "--num_fewshot", str(shots), "--batch_size", "16", "--device", "cpu"]
    options += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(
        [lm_eval, "-c", ELSEWHERE, "run", "--model", "hf", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "out").rglob("samples_*.jsonl")
    samples = sorted(map(json.loads, log.read_text(encoding="utf-8").splitlines()), key=lambda sample: sample["doc_id"])
    theirs = torch.tensor([[float(logprob) for logprob, _ in sample["filtered_resps"]] for sample in samples])

    assert [sample["doc"]["sentiment"] for sample in samples] == [query.sentiment for query in queries]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=0)
    assert torch.equal(theirs.argmax(dim=-1), ours.argmax(dim=-1))
    right = sum(LABELS[label] == query.sentiment for label, query in zip(ours.argmax(dim=-1), queries, strict=True))
    (result,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(result.read_text())["results"]["sst2_prompt"]["acc,none"] == pytest.approx(right / len(queries))
    print(f"{shots} shots, {len(queries)} rows: accuracy {right / len(queries):.4f}, largest difference {(theirs - ours).abs().max():.1e}")
