"""A scaled model is the model that its parameters describe, keeps its weights, and is scored exactly by the fast path."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.scoring import score_channel, score_channel_plain, score_labels, score_plain
from rope_gpt2.model.configuration import ROPE_TYPES, RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.scaling import ntk_factors, original_context, scale_rope, scaled_context

TRAINED = 64  # n_positions of tiny_model
STRETCHING = ROPE_TYPES[1:]
BY_LENGTH = ("dynamic", "longrope")  # choose their frequencies by the longest position of a pass
every_type = pytest.mark.parametrize("rope_type", ROPE_TYPES)
every_scaling = pytest.mark.parametrize("rope_type", STRETCHING)


def factor_of(rope_type: str) -> float:
    return 1.0 if rope_type == "default" else 4.0


def ids_of(length: int, seed: int = 3) -> torch.Tensor:
    return torch.randint(1, 97, (1, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, length: int) -> torch.Tensor:
    return model(ids_of(length)).logits


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # two models of one seed differ in the last digits


@every_type
@pytest.mark.parametrize("length", [TRAINED, 2 * TRAINED])
def test_a_scaled_model_is_the_one_that_its_parameters_describe(rope_type, length, tiny_model):
    model = tiny_model()
    scale_rope(model, rope_type, factor_of(rope_type))
    other = tiny_model(rope_parameters=copy.deepcopy(model.config.rope_parameters))
    assert model.transformer.rotary.rope_type == rope_type
    assert model.transformer.rotary.attention_scaling == other.transformer.rotary.attention_scaling
    assert torch.equal(model.transformer.rotary.inv_freq, other.transformer.rotary.inv_freq)
    assert_same(logits(model, length), logits(other, length))


@every_scaling
def test_a_scaled_model_is_saved_and_loaded_as_it_is(rope_type, tiny_model, tmp_path):
    model = tiny_model()
    scale_rope(model, rope_type, 4.0)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.config.rope_parameters == model.config.rope_parameters
    assert_same(logits(loaded, 2 * TRAINED), logits(model, 2 * TRAINED))


@every_scaling
def test_every_scaling_changes_a_pass_beyond_the_training_length(rope_type, tiny_model):
    model = tiny_model()
    before = logits(model, 2 * TRAINED)
    scale_rope(model, rope_type, 4.0)
    assert (logits(model, 2 * TRAINED) - before).abs().max() > 0.01


@every_scaling
def test_a_factor_of_one_changes_nothing_within_the_training_length(rope_type, tiny_model):
    model = tiny_model()
    before = logits(model, TRAINED)
    scale_rope(model, rope_type, 1.0)
    assert_same(logits(model, TRAINED), before)


@every_scaling
@pytest.mark.parametrize("second", ROPE_TYPES)
def test_a_scaling_takes_the_place_of_another_and_default_goes_back(rope_type, second, tiny_model):
    twice, once = tiny_model(), tiny_model()
    scale_rope(twice, rope_type, 2.0)
    for model in (twice, once):
        scale_rope(model, second, factor_of(second))
    assert twice.config.rope_parameters == once.config.rope_parameters
    assert_same(logits(twice, 2 * TRAINED), logits(once, 2 * TRAINED))


def test_base_and_partial_rotation_stay(tiny_model):
    model = tiny_model(rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5})
    for rope_type in STRETCHING:
        scale_rope(model, rope_type, 4.0)
        assert model.config.rope_parameters["rope_theta"] == 500.0
        assert model.transformer.rotary.inv_freq.shape == (2,)


def test_longrope_is_the_default_up_to_the_training_length_and_another_base_beyond(tiny_model):
    model, default = tiny_model(), tiny_model()
    scale_rope(model, "longrope", 4.0, attention_factor=1.0)
    stretched = tiny_model(rope_parameters={"rope_type": "default", "rope_theta": 10_000.0 * 4.0 ** (8 / 6)})  # b s^(R / (R - 2))
    assert_same(logits(model, TRAINED), logits(default, TRAINED))
    assert_same(logits(model, TRAINED + 1), logits(stretched, TRAINED + 1))
    assert ntk_factors(4.0, 8) == pytest.approx([1.0, 4.0 ** (1 / 3), 4.0 ** (2 / 3), 4.0])


def test_longrope_at_its_factor_is_dynamic_of_factor_one(tiny_model):
    longrope, dynamic = tiny_model(), tiny_model()
    scale_rope(longrope, "longrope", 2.0, attention_factor=1.0)
    scale_rope(dynamic, "dynamic", 1.0)
    assert_same(logits(longrope, 2 * TRAINED), logits(dynamic, 2 * TRAINED))


def test_the_attention_factor_is_the_papers_unless_given(tiny_model):
    model = tiny_model()
    scale_rope(model, "yarn", 4.0)
    assert model.transformer.rotary.attention_scaling == pytest.approx(0.1 * math.log(4.0) + 1)
    scale_rope(model, "longrope", 4.0)
    assert model.transformer.rotary.attention_scaling == pytest.approx(math.sqrt(1 + math.log(4.0) / math.log(TRAINED)))
    scale_rope(model, "yarn", 4.0, attention_factor=1.5)
    assert model.transformer.rotary.attention_scaling == 1.5


def test_yarns_bounds_decide_which_dimensions_are_kept(tiny_model):
    default = tiny_model().transformer.rotary.inv_freq  # in 4096 tokens they turn 652, 65, 6.5 and 0.65 times
    model = tiny_model(n_positions=4096)
    scale_rope(model, "yarn", 4.0, beta_fast=50.0, beta_slow=7.0)
    torch.testing.assert_close(model.transformer.rotary.inv_freq, default / torch.tensor([1.0, 1.0, 4.0, 4.0]))
    scale_rope(model, "yarn", 4.0)  # 32 and 1
    assert default[2] / 4 < model.transformer.rotary.inv_freq[2] < default[2]


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"beta_slow": 700.0, "beta_fast": 800.0}, "yarn's beta_slow must be below 651.9, the turns of the fastest dimension .*, got 700"),
        ({"beta_slow": 0.1, "beta_fast": 0.5}, "yarn's beta_fast must be above 0.6519, the turns of the slowest dimension .*, got 0.5"),
    ],
)
def test_yarns_bounds_must_part_the_dimensions(bounds, sentence, tiny_model):
    with pytest.raises(InputError, match=sentence):
        scale_rope(tiny_model(n_positions=4096), "yarn", 4.0, **bounds)


def test_the_context_is_the_training_length_times_the_factor(tiny_model):
    model = tiny_model()
    assert scaled_context(model.config) == TRAINED
    for rope_type in STRETCHING:
        scale_rope(model, rope_type, 2.51)
        assert scaled_context(model.config) == 160
    scale_rope(model, "default")
    assert scaled_context(model.config) == TRAINED


def test_an_original_context_in_the_config_is_kept(tiny_model):
    model = tiny_model(rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})
    assert (original_context(model.config), scaled_context(model.config)) == (16, 64)
    scale_rope(model, "llama3", 8.0)
    assert (original_context(model.config), scaled_context(model.config)) == (16, 128)
    with pytest.raises(InputError, match="rope type linear takes n_positions as the original context, which is 64 here and was 16"):
        scale_rope(model, "linear", 2.0)


def test_scaling_says_nothing_of_its_own(tiny_model, caplog):
    for rope_type in ROPE_TYPES:
        scale_rope(tiny_model(), rope_type, factor_of(rope_type))
    assert not caplog.records


# Scores by the fast path and by the plain one.


def batch_of(prefix: int, queries: tuple[int, ...]) -> PromptBatch:
    """Prompts of one prefix and queries of these lengths, with label words of one token and of two."""
    prefix_ids, rows = ids_of(prefix)[0], [ids_of(length, seed=length)[0] for length in queries]
    query_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    prompts = tuple(SimpleNamespace(prefix_ids=tuple(prefix_ids.tolist()), query_ids=tuple(row.tolist())) for row in rows)
    return PromptBatch(prefix_ids, query_ids, torch.tensor(queries), prompts, ((5,), (7, 9)), ((3, 4), (6,)))  # type: ignore[arg-type]


@every_type
@pytest.mark.parametrize(
    ("prefix", "queries"),
    [(30, (5, 12, 31)), (50, (4, 9, 30)), (100, (5, 40, 12)), (0, (20, 90))],
    ids=["inside", "across", "beyond", "alone"],
)
def test_fast_scores_are_those_of_the_plain_path(rope_type, prefix, queries, tiny_model):
    model = tiny_model()
    scale_rope(model, rope_type, factor_of(rope_type))
    batch = batch_of(prefix, queries)
    plain = torch.cat([score_plain(model, batch.only(place)) for place in range(len(queries))])  # each whole, without padding
    torch.testing.assert_close(score_labels(model, batch), plain, rtol=0, atol=1e-4)
    for allowed, ours, theirs in zip(queries, score_channel(model, batch), score_channel_plain(model, batch), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * allowed)


@every_type
def test_the_prefix_is_shared_wherever_that_is_exact(rope_type, tiny_model):
    model = tiny_model()
    scale_rope(model, rope_type, factor_of(rope_type))
    assert model.shares_prefix(TRAINED)
    assert model.shares_prefix(TRAINED + 1) == (rope_type not in BY_LENGTH)


# What is refused leaves the model as it was.


@pytest.mark.parametrize(
    ("arguments", "bounds", "sentence"),
    [
        (("spiral", 2.0), {}, "rope type must be one of default, linear, .*, got 'spiral'; choose one of them"),
        (("linear", 0.5), {}, "rope factor must be a finite number from 1 on, got 0.5"),
        (("linear", math.nan), {}, "rope factor must be a finite number from 1 on, got nan"),
        (("yarn", math.inf), {}, "rope factor must be a finite number from 1 on, got inf"),
        (("default", 2.0), {}, "rope factor 2: the rope type default has none"),
        (("linear", 2.0), {"beta_fast": 16.0}, "beta_fast is no bound of the rope type linear, which takes none; leave it out"),
        (("longrope", 2.0), {"beta_slow": 2.0}, "beta_slow is no bound of the rope type longrope, which takes attention_factor alone"),
        (("yarn", 2.0), {"attention_factor": 0.0}, "attention_factor must be a finite number above 0, got 0"),
        (("yarn", 2.0), {"beta_slow": 40.0}, "beta_slow must be below beta_fast, got 40 and 32"),
        (("llama3", 2.0), {"high_freq_factor": 1.0}, "low_freq_factor must be below high_freq_factor, got 1 and 1"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(arguments, bounds, sentence, tiny_model):
    model = tiny_model()
    parameters, rotary = copy.deepcopy(model.config.rope_parameters), model.transformer.rotary
    with pytest.raises(InputError, match=sentence):
        scale_rope(model, *arguments, **bounds)
    assert model.config.rope_parameters == parameters
    assert model.transformer.rotary is rotary


def test_models_without_rope_are_refused(tiny_model):
    stock = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=64, n_embd=32, n_layer=1, n_head=4))
    with pytest.raises(InputError, match="rope type yarn: only RoPE GPT-2 can be scaled, got a GPT2LMHeadModel"):
        scale_rope(stock, "yarn", 2.0)
    for encoding in ("learned", "none"):
        with pytest.raises(InputError, match=f"rope type default: the position encoding of the model is {encoding}"):
            scale_rope(tiny_model(position_encoding=encoding), "default")


@pytest.mark.parametrize("rope_type", BY_LENGTH)
def test_two_rotary_dimensions_are_too_few_to_choose_a_base_for(rope_type):
    model = RopeGPT2ForCausalLM(RopeGPT2Config(vocab_size=97, n_positions=64, n_embd=4, n_layer=1, n_head=2))
    with pytest.raises(InputError, match=f"rope type {rope_type} needs a rotary dimension of at least 4, got 2"):
        scale_rope(model, rope_type, 2.0)
