"""lm-evaluation-harness scores the same prompts as the engine: the same label log-probabilities."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from running import DEMO, ROOT

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import collate_prompts, group_prompts
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import Example, read_examples
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.scoring import score_labels, score_plain
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import train_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # another project's warnings
]
EXAMPLES = read_examples(DEMO)
QUERIES, POOL = EXAMPLES[:48], EXAMPLES[100:]


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    """Skip where the harness is not: `benchmarks/lm_eval` alone would pass for an empty package of that name."""
    pytest.importorskip("lm_eval.models.huggingface", reason="lm-evaluation-harness is not installed (pip install 'lm_eval[hf]')")


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/harness.py, found as the benchmark scripts find it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import harness

    yield harness
    del sys.modules["harness"]


@pytest.fixture(scope="module")
def tokenizer():
    template = Template()
    return train_tokenizer([template.demonstration(example.review, example.sentiment) + "\n\n" for example in EXAMPLES], vocab_size=600)


@pytest.fixture(scope="module")
def model(tokenizer) -> RopeGPT2ForCausalLM:
    """Random weights so large that each token of the context moves the scores."""
    torch.manual_seed(0)
    tokens = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    shape = {"vocab_size": len(tokenizer), "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return RopeGPT2ForCausalLM(RopeGPT2Config(**shape, initializer_range=0.2, **tokens)).eval()


def sampler(shots: int, labels: str = "gold") -> DemonstrationSampler:
    return DemonstrationSampler(Pool(POOL), Condition(shots, demonstration_labels=labels))


def score(model, tokenizer, shots: int, labels: str, score_batch) -> torch.Tensor:
    """Our label log-probabilities in the order of the queries."""
    builder = PromptBuilder(tokenizer, Template(), Verbalizer(), max_length=4096)
    prompts = builder.build(sampler(shots, labels), builder.encode(QUERIES))
    scores = {}
    for group in group_prompts(prompts, batch_tokens=512):
        batch = collate_prompts(group, builder.label_token_ids)
        scores |= {prompt.query.row: line for prompt, line in zip(batch.prompts, score_batch(model, batch), strict=True)}
    return torch.stack([scores[query.row] for query in QUERIES])


def shown(shots: int, labels: str) -> Sequence[tuple[str, str]]:
    return [(one.review, one.shown) for one in sampler(shots, labels).shared]


@pytest.mark.parametrize("score_batch", [score_plain, score_labels])
@pytest.mark.parametrize(("shots", "labels"), [(0, "gold"), (1, "gold"), (4, "flipped"), (16, "gold")])
def test_the_harness_gives_the_same_label_logprobs(harness, model, tokenizer, shots: int, labels: str, score_batch):
    ours = score(model, tokenizer, shots, labels, score_batch)
    theirs = harness.run_harness(model, tokenizer, QUERIES, shown(shots, labels), batch_size=8)
    torch.testing.assert_close(ours.double(), torch.from_numpy(theirs.label_logprobs), atol=1e-4, rtol=0)
    right = [label == ("negative", "positive").index(query.sentiment) for label, query in zip(ours.argmax(-1), QUERIES, strict=True)]
    assert theirs.accuracy == pytest.approx(sum(right) / len(right))


def test_the_order_of_the_demonstrations_reaches_the_harness(harness, model, tokenizer):
    demonstrations = shown(4, "gold")
    forth = harness.run_harness(model, tokenizer, QUERIES[:8], demonstrations, batch_size=8)
    back = harness.run_harness(model, tokenizer, QUERIES[:8], demonstrations[::-1], batch_size=8)
    assert abs(forth.label_logprobs - back.label_logprobs).max() > 1e-2


def test_odd_reviews_reach_the_harness_whole(harness, model, tokenizer):
    texts = ["null", 'a "quoted", comma', "two\n\nlines\tand  spaces", "{{ braces }}", "NA", "ünïcode …"]
    queries = [Example(row, text, "negative") for row, text in enumerate(texts, start=1)]
    theirs = harness.run_harness(model, tokenizer, queries, [("None", "positive"), ("nan", "negative")])
    template, words = Template(), [tokenizer(f" {label}", add_special_tokens=False)["input_ids"] for label in ("negative", "positive")]
    before = template.demonstration("None", "positive") + "\n\n" + template.demonstration("nan", "negative") + "\n\n"
    for query, line in zip(queries, theirs.label_logprobs, strict=True):
        prompt = tokenizer(before + template.query(query.review), add_special_tokens=False)["input_ids"]
        for word, logprob in zip(words, line, strict=True):
            with torch.no_grad():
                logprobs = model(torch.tensor([prompt + word])).logits[0].log_softmax(dim=-1)
            expected = sum(logprobs[len(prompt) - 1 + place, token].item() for place, token in enumerate(word))
            assert logprob == pytest.approx(expected, abs=1e-4)


def test_the_task_loads_as_it_stands(harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lm_eval.tasks import TaskManager

    harness.write_task(tmp_path, QUERIES, shown(4, "gold"))
    monkeypatch.chdir(tmp_path)  # the task's own YAML names its files relative to the working folder
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (task,) = TaskManager(include_path=str(harness.TASK_FILE.parent), include_defaults=False).load([harness.TASK])["tasks"].values()
    template = Template()
    parts = [template.demonstration(review, label) + template.separator for review, label in shown(4, "gold")]
    assert task.fewshot_context(task.test_docs()[0], 4) == "".join(parts) + template.query(QUERIES[0].review)
    assert task.doc_to_choice(task.test_docs()[0]) == ["negative", "positive"]


def test_a_demonstration_without_a_label_is_refused(harness, tmp_path: Path):
    with pytest.raises(InputError, match="label"):
        harness.write_task(tmp_path, QUERIES, [("A film.", "")])
