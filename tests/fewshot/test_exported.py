"""The exported scorer gives the numbers of the engine, in a process that knows neither this package nor transformers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.exported import LabelScorer, export_scorer, write_scorer
from rope_gpt2.fewshot.scoring import score_labels
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

LABEL_TOKEN_IDS = ((20,), (30, 40, 50))
ELSEWHERE = """
import json, sys
sys.modules["rope_gpt2"] = sys.modules["transformers"] = None  # an import of them fails
import torch
extra = {"tokenizer.json": "", "scoring.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
batches = torch.load(sys.argv[2])
assert not any(name.startswith(("rope_gpt2.", "transformers.")) for name in sys.modules)
torch.save(([program(*batch) for batch in batches], extra), sys.argv[3])
"""


def made_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 1), (1, 17), (5, 2), (4, 33)]
    return [
        (
            torch.randint(2, 97, shape, generator=generator),
            torch.randint(1, shape[1] + 1, shape[:1], generator=generator).clamp(min=1),
        )
        for shape in shapes
    ]


def scored_by_the_engine(model, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    prompts = (None,) * len(ids)
    batch = PromptBatch(ids.new_zeros(0), ids, lengths, prompts, LABEL_TOKEN_IDS)  # type: ignore[arg-type]
    return score_labels(model, batch)


def test_the_scorer_gives_what_the_engine_gives(any_model):
    for ids, lengths in made_batches():
        with torch.no_grad():
            ours = LabelScorer(any_model, LABEL_TOKEN_IDS)(ids, lengths)
        torch.testing.assert_close(ours, scored_by_the_engine(any_model, ids, lengths), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_the_program_gives_the_same_in_a_process_of_its_own(tokenizer, tmp_path: Path):
    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer), "n_positions": 64, "n_embd": 16, "n_layer": 1, "n_head": 2, "initializer_range": 0.3}
    model = RopeGPT2ForCausalLM(RopeGPT2Config(**shape, bos_token_id=0, eos_token_id=0)).eval()
    template, verbalizer = Template(), Verbalizer(("bad", "good"))
    program = export_scorer(model, LABEL_TOKEN_IDS)
    write_scorer(program, tokenizer, template, verbalizer, tmp_path / "scorer.pt2")
    torch.save(made_batches(), tmp_path / "batches.pt")
    arguments = [sys.executable, "-c", ELSEWHERE, *(str(tmp_path / name) for name in ("scorer.pt2", "batches.pt", "scores.pt"))]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    theirs, extra = torch.load(tmp_path / "scores.pt")
    for (ids, lengths), scores in zip(made_batches(), theirs, strict=True):
        torch.testing.assert_close(scores, scored_by_the_engine(model, ids, lengths), atol=1e-5, rtol=0)
    described = json.loads(extra["scoring.json"])
    assert described["label_words"] == ["bad", "good"]
    assert described["label_token_ids"] == [tokenizer(f" {word}")["input_ids"] for word in ("bad", "good")]
    assert json.loads(extra["tokenizer.json"])["model"]["type"] == "BPE"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["batches.pt", "scorer.pt2", "scores.pt"]


def test_a_position_table_ends_the_program_where_it_ends(tokenizer):
    shape = {"vocab_size": 97, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2}
    model = RopeGPT2ForCausalLM(RopeGPT2Config(position_encoding="learned", **shape, bos_token_id=0, eos_token_id=0)).eval()
    program = export_scorer(model, ((20,), (30,)), longest=16).module()
    assert program(torch.zeros(1, 16, dtype=torch.long), torch.tensor([16])).shape == (1, 2)
    with pytest.raises(Exception, match="16"):
        program(torch.zeros(1, 17, dtype=torch.long), torch.tensor([17]))
