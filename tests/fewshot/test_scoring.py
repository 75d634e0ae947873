"""Scores are those of a plain loop, whatever the model, the batch, the padding and what is shared."""

import copy
from os.path import commonprefix

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rope_gpt2.fewshot import scoring
from rope_gpt2.fewshot.batches import Group, PromptBatch, collate_prompts, group_prompts
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.prompts import Prompt, PromptBuilder
from rope_gpt2.fewshot.scores import UNCERTAIN
from rope_gpt2.fewshot.scoring import (
    PrefixCache,
    ScoredBatch,
    generate_labels,
    join,
    predict_labels,
    score_channel,
    score_channel_plain,
    score_labels,
    score_plain,
)
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


@words
@shots
def test_scores_are_those_of_a_plain_loop(any_model, tokenizer, examples, shots, words):
    case = Case(tokenizer, examples, shots, words)
    theirs = score_one_by_one(any_model, case)
    assert theirs.std(dim=0).min() > 1e-2  # the scores tell prompts apart
    batches = case.batches()
    for cache in (None, PrefixCache()):
        close(case.rows([score_labels(any_model, batch, cache) for batch in batches], batches), theirs)


@words
@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("cached", [False, True])
def test_the_plain_path_gives_the_same_scores(any_model, tokenizer, examples, shots, words, cached):
    case = Case(tokenizer, examples, shots, words, count=6)
    batches = case.batches()
    ours = [score_plain(any_model, batch, PrefixCache() if cached else None) for batch in batches]
    close(case.rows(ours, batches), score_one_by_one(any_model, case))


@any_batch
@shots
@pytest.mark.parametrize("labels", ["gold", "none"])
def test_batches_do_not_change_the_scores(any_model, tokenizer, examples, shots, batch_tokens, labels):
    """Neither their size, nor the order of rows, nor the other rows."""
    case = Case(tokenizer, examples, shots, WORDS["one and several"], demonstration_labels=labels)
    cache = PrefixCache()
    batches = case.batches(batch_tokens, case.prompts[::-1])
    close(case.rows([score_labels(any_model, batch, cache) for batch in batches], batches), score_one_by_one(any_model, case))


def test_prompts_with_demonstrations_of_their_own_share_a_batch(any_model, tokenizer, examples):
    case = Case(tokenizer, examples, 3, selection="similar")
    assert len({prompt.prefix_ids for prompt in case.prompts}) > 6
    close(case.rows([score_labels(any_model, case.batch())], [case.batch()]), score_one_by_one(any_model, case))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), shots=st.sampled_from([0, 1, 4]))
def test_any_part_of_what_prompts_begin_with_may_be_shared(model, tokenizer, examples, data, shots):
    case = Case(tokenizer, examples, shots, WORDS["one and several"], count=4)
    common = len(commonprefix([prompt.prefix_ids + prompt.query_ids for prompt in case.prompts]))  # noqa: RUF071
    shared = data.draw(st.integers(0, common))
    close(score_labels(model, collate_prompts(Group(shared, tuple(case.prompts)), case.ids)), score_one_by_one(model, case))


@shots
@words
def test_padding_and_its_token_do_not_change_the_scores(any_model, tokenizer, examples, shots, words):
    case = Case(tokenizer, examples, shots, words)
    batch = case.batch()
    behind = torch.arange(batch.query_ids.shape[1] + 7) >= batch.lengths[:, None]
    ids = torch.cat((batch.query_ids, torch.zeros(len(batch.prompts), 7, dtype=torch.long)), dim=1).masked_fill(behind, 5)
    more = PromptBatch(batch.prefix_ids, ids, batch.lengths, batch.prompts, batch.label_token_ids)
    close(score_labels(any_model, more), score_labels(any_model, batch))
    close(score_plain(any_model, more), score_plain(any_model, batch))


def test_halves_and_single_prompts_of_a_batch_have_its_scores(any_model, tokenizer, examples):
    batch = Case(tokenizer, examples, 4, WORDS["one and several"]).batch()
    whole = score_labels(any_model, batch)
    close(torch.cat([score_labels(any_model, half) for half in batch.halves()]), whole)
    close(torch.cat([score_labels(any_model, batch.only(place)) for place in range(len(batch.prompts))]), whole)


@pytest.mark.parametrize("at_once", [1, 5])
def test_how_many_positions_meet_the_vocabulary_at_once_does_not_change_the_scores(model, tokenizer, examples, at_once, monkeypatch):
    batch = Case(tokenizer, examples, 1, WORDS["one and several"]).batch()
    channel = Case(tokenizer, examples, 1, channel=True).batch()
    theirs = score_labels(model, batch), score_channel(model, channel)
    monkeypatch.setattr(scoring, "_HEAD_TOKENS", at_once)
    close(score_labels(model, batch), theirs[0])
    close(score_channel(model, channel), theirs[1], atol=1e-4)


# What is encoded once.


def test_a_prefix_cache_is_not_changed_by_its_use(any_model, tokenizer, examples):
    cache = PrefixCache()
    first, second = (Case(tokenizer, examples, 4, WORDS["several tokens"], count=8, seed=seed).batch() for seed in (0, 1))
    theirs = score_labels(any_model, first, cache)
    assert torch.equal(score_labels(any_model, first, cache), theirs)
    others = score_labels(any_model, second, cache)
    assert not torch.equal(others, theirs)
    assert torch.equal(score_labels(any_model, first, cache), theirs)
    assert torch.equal(score_labels(any_model, second, cache), others)


def test_demonstrations_are_encoded_once_for_all_batches_of_a_condition(model, tokenizer, examples, monkeypatch):
    case, encoded, encode = Case(tokenizer, examples, 4), [], RopeGPT2ForCausalLM.encode_prefix

    def count(self, prefix_ids):
        encoded.append(prefix_ids.tolist())
        return encode(self, prefix_ids)

    monkeypatch.setattr(RopeGPT2ForCausalLM, "encode_prefix", count)
    cache = PrefixCache()
    (family,) = group_prompts(case.prompts, MANY)
    for prompt in case.prompts:
        score_labels(model, collate_prompts(Group(family.shared, (prompt,)), case.ids), cache)
    assert encoded == [list((case.prompts[0].prefix_ids + case.prompts[0].query_ids)[: family.shared])]
    assert family.shared >= len(case.prompts[0].prefix_ids)


def test_models_that_cannot_share_encode_demonstrations_once_as_well(stock_models, tokenizer, examples):
    case = Case(tokenizer, examples, 4)
    (family,) = group_prompts(case.prompts, MANY)
    batches = [collate_prompts(Group(family.shared, (prompt,)), case.ids) for prompt in case.prompts]
    for model in stock_models.values():
        fed: list[int] = []
        hook = model.get_input_embeddings().register_forward_pre_hook(lambda module, inputs, fed=fed: fed.append(inputs[0].numel()))
        cache = PrefixCache()
        for batch in batches:
            score_labels(model, batch, cache)
        hook.remove()
        assert sum(fed) == family.shared + sum(batch.query_ids.numel() for batch in batches)


def test_a_prefix_cache_tells_models_apart(any_model, tokenizer, examples):
    other = copy.deepcopy(any_model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(1.5)
    batch, cache = Case(tokenizer, examples, 4).batch(), PrefixCache()
    score_labels(any_model, batch, cache)
    close(score_labels(other, batch, cache), score_labels(other, batch))


# Where sharing would not be exact.


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


@shots
@pytest.mark.parametrize(
    "changes",
    [{"rope_parameters": DYNAMIC}, {"rope_parameters": LONGROPE}, {"reorder_and_upcast_attn": True, "attn_implementation": "eager"}],
    ids=["dynamic", "longrope", "another order of operations"],
)
@pytest.mark.parametrize("channel", [False, True])
def test_where_a_model_refuses_to_share_scores_are_those_of_a_plain_loop(tokenizer, examples, changes, shots, channel):
    """A prompt's length alone decides its frequencies, not that of its neighbours in a batch, nor what was scored before."""
    model = longer_model(tokenizer, **changes)
    case = Case(tokenizer, examples, shots, channel=channel)
    batches = case.batches()
    score, theirs = (score_channel, channel_one_by_one(model, case)) if channel else (score_labels, score_one_by_one(model, case))
    close(case.rows([score(model, batch) for batch in batches], batches), theirs, atol=1e-4)


def test_prompts_of_that_test_are_on_both_sides_of_the_context(tokenizer, examples):
    lengths = [len(prompt.prefix_ids + prompt.query_ids) for shots in (0, 1, 4) for prompt in Case(tokenizer, examples, shots).prompts]
    assert min(lengths) < 32 < 64 < max(lengths)


# Half precision.


@shots
@pytest.mark.parametrize("autocast", [False, True])
def test_labels_are_compared_in_float32_in_half_precision_too(model, tokenizer, examples, shots, autocast):
    """The difference of two labels' scores is that of the exact products of one state, so rounding makes no ties."""
    half = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    batch = Case(tokenizer, examples, shots).batch()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        ours = score_labels(half, batch)
        states = half.encode_sequences(half.encode_prefix(batch.prefix_ids), batch.query_ids, batch.lengths[:, None] - 1)[:, 0]
    rows = half.lm_head.weight[[ids[0] for ids in batch.label_token_ids]].float()
    assert ours.dtype == torch.float32
    close(ours[:, 0] - ours[:, 1], states.float() @ (rows[0] - rows[1]), atol=1e-4, rtol=1e-4)


@words
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("channel", [False, True])
def test_half_precision_is_as_near_as_that_of_the_plain_path(model, tokenizer, examples, words, autocast, channel):
    half = model if autocast else copy.deepcopy(model).to(torch.bfloat16)
    batch = Case(tokenizer, examples, 4, words, channel=channel).batch()
    score, plain = (score_channel, score_channel_plain) if channel else (score_labels, score_plain)
    exact = score(model, batch)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours, theirs = score(half, batch), plain(half, batch)
    assert ours.dtype == torch.float32
    assert (ours - exact).square().mean() < 4 * (theirs - exact).square().mean()


# The noisy channel.


@words
@shots
def test_channel_scores_are_those_of_a_plain_loop(any_model, tokenizer, examples, shots, words):
    case = Case(tokenizer, examples, shots, words, count=6, channel=True)
    theirs = channel_one_by_one(any_model, case)
    assert (theirs[:, 0] - theirs[:, 1]).std() > 1e-2
    batch = case.batch()
    close(case.rows([score_channel(any_model, batch)], [batch]), theirs, atol=1e-4)
    close(case.rows([score_channel_plain(any_model, batch)], [batch]), theirs, atol=1e-4)


@any_batch
def test_batches_do_not_change_channel_scores(any_model, tokenizer, examples, batch_tokens):
    case = Case(tokenizer, examples, 4, WORDS["one and several"], channel=True)
    batches = case.batches(batch_tokens, case.prompts[::-1])
    close(case.rows([score_channel(any_model, batch) for batch in batches], batches), channel_one_by_one(any_model, case), atol=1e-4)


@shots
def test_padding_does_not_change_channel_scores(any_model, tokenizer, examples, shots):
    batch = Case(tokenizer, examples, shots, channel=True).batch()
    ids = torch.cat((batch.query_ids, torch.full((len(batch.prompts), 7), 5)), dim=1)
    more = PromptBatch(batch.prefix_ids, ids, batch.lengths, batch.prompts, batch.label_token_ids, batch.heads)
    close(score_channel(any_model, more), score_channel(any_model, batch), atol=1e-4)


def test_channel_scores_of_halves_are_those_of_the_whole(any_model, tokenizer, examples):
    batch = Case(tokenizer, examples, 4, channel=True).batch()
    close(torch.cat([score_channel(any_model, half) for half in batch.halves()]), score_channel(any_model, batch), atol=1e-4)


# Generated answers.


@torch.no_grad()
def continue_one_by_one(model, prompt, count, end) -> list[int]:
    context = list(prompt.prefix_ids + prompt.query_ids)
    start = len(context)
    while len(context) < start + count and context[-1] != end:
        context.append(int(model(torch.tensor([context])).logits[0, -1].argmax()))
    return context[start:]


def assert_generated_is_greedy(model, tokenizer, examples, shots):
    case, verbalizer = Case(tokenizer, examples, shots, count=24), Verbalizer()
    fluent = copy.deepcopy(model)
    with torch.no_grad():  # a model that often says a label word, and at times the end of the text
        for ids in (*case.ids, (tokenizer.eos_token_id,)):
            fluent.get_output_embeddings().weight[ids[0]] *= 2.0 if fluent.config.tie_word_embeddings else 1.5
    batch = case.batch()
    said = [continue_one_by_one(fluent, prompt, 5, tokenizer.eos_token_id) for prompt in batch.prompts]
    found = [verbalizer.find(tokenizer.decode(ids, skip_special_tokens=True)) for ids in said]
    theirs = [UNCERTAIN if label is None else LABELS.index(label) for label in found]
    assert len(set(theirs)) > 1  # some rows differ, or the test could not fail
    ours = generate_labels(fluent, tokenizer, batch, verbalizer, max_new_tokens=5)
    assert ours.dtype == torch.int8
    assert ours.tolist() == theirs


@pytest.mark.parametrize("shots", [0, 4])
def test_generated_labels_are_those_of_a_plain_greedy_loop(any_model, tokenizer, examples, shots):
    assert_generated_is_greedy(any_model, tokenizer, examples, shots)


@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("parameters", [DYNAMIC, LONGROPE], ids=["dynamic", "longrope"])
def test_neither_neighbours_nor_the_cache_change_what_is_generated_beyond_the_context(parameters, tokenizer, examples, shots):
    assert_generated_is_greedy(longer_model(tokenizer, rope_parameters=parameters), tokenizer, examples, shots)


# What follows from scores.


def test_the_likeliest_label_is_predicted_and_a_tie_goes_to_the_first():
    assert predict_labels(torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -1.0]])).tolist() == [0, 1, 0]


def test_batches_are_joined_in_their_order():
    parts = [ScoredBatch(torch.full((size, 2), float(size))) for size in (1, 3, 2)]
    assert join(parts).label_logprobs[:, 0].tolist() == [1.0, 3.0, 3.0, 3.0, 2.0, 2.0]
    assert join(parts).generated is None
    answered = [ScoredBatch(torch.zeros(2, 2), torch.tensor([label, UNCERTAIN], dtype=torch.int8)) for label in (0, 1)]
    assert join(answered).generated.tolist() == [0, UNCERTAIN, 1, UNCERTAIN]
