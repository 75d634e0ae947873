"""Prompts of a condition, and their scores by a plain loop: what the tests of scoring share."""

import pytest
import torch

from rope_gpt2.fewshot.batches import PromptBatch, collate_prompts, group_prompts
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.prompts import Prompt, PromptBuilder
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

MANY = 10**6  # tokens; all prompts of a family in one batch
WORDS = {
    "one token": LABELS,
    "several tokens": ("utterly dismal", "quite wonderful"),
    "one and several": ("negative", "quite wonderful"),
}
words = pytest.mark.parametrize("words", WORDS.values(), ids=WORDS.keys())
shots = pytest.mark.parametrize("shots", [0, 1, 4])
any_batch = pytest.mark.parametrize("batch_tokens", [1, 60, MANY])


class Case:
    """Prompts of a condition, and batches of them."""

    def __init__(self, tokenizer, examples, shots, words=LABELS, count=12, seed=0, channel=False, **changes):
        sampler = DemonstrationSampler(Pool(examples[100:]), Condition(shots, seed, label_words=words, **changes))
        builder = PromptBuilder(tokenizer, Template(), Verbalizer(words), max_length=256, channel=channel)
        self.prompts: list[Prompt] = builder.build(sampler, builder.encode(examples[:count]))
        self.ids, self.heads, self.channel = builder.label_token_ids, builder.heads(self.prompts[0]), channel

    def batches(self, batch_tokens=MANY, prompts=None) -> list[PromptBatch]:
        groups = group_prompts(self.prompts if prompts is None else prompts, batch_tokens, self.channel)
        return [collate_prompts(group, self.ids, self.heads) for group in groups]

    def batch(self) -> PromptBatch:
        (only,) = self.batches()
        return only

    def rows(self, scores, batches):
        """Scores of batches, in the order of `prompts`."""
        found = {prompt.query.row: row for batch, part in zip(batches, scores, strict=True) for prompt, row in zip(batch.prompts, part)}  # noqa: B905
        assert len(found) == sum(len(batch.prompts) for batch in batches) == len(self.prompts)
        return torch.stack([found[prompt.query.row] for prompt in self.prompts])


def close(ours, theirs, **tolerances):
    torch.testing.assert_close(ours, theirs, **({"atol": 1e-5, "rtol": 1e-5} | tolerances))


@torch.no_grad()
def sum_logprobs(model, context, continuation) -> torch.Tensor:
    """Log-probability of a continuation, fed whole behind its context, without padding or cache."""
    logprobs = model(torch.tensor([context + continuation[:-1]])).logits[0].log_softmax(dim=-1)
    return sum(logprobs[len(context) - 1 + place, token] for place, token in enumerate(continuation))


def score_one_by_one(model, case) -> torch.Tensor:
    return torch.stack(
        [torch.stack([sum_logprobs(model, prompt.prefix_ids + prompt.query_ids, ids) for ids in case.ids]) for prompt in case.prompts]
    )


def channel_one_by_one(model, case) -> torch.Tensor:
    return torch.stack(
        [torch.stack([sum_logprobs(model, prompt.prefix_ids + head, prompt.query_ids) for head in case.heads]) for prompt in case.prompts]
    )


def longer_model(tokenizer, **changes):
    """A context of 64 tokens, which prompts of 8 demonstrations exceed."""
    torch.manual_seed(0)
    config = RopeGPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, **changes)
    return RopeGPT2ForCausalLM(config).eval()


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10_000.0,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}
