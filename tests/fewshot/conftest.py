"""What the tests of the task share: demo reviews, a small tokenizer, tiny models with random weights, and figures of made-up scores."""

from pathlib import Path

import pytest
import torch
from sample_page import HOSTILE
from sample_scores import sample_reviews, sample_scores
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.fewshot.examples import Example, read_examples
from rope_gpt2.fewshot.metrics import Metrics, evaluate
from rope_gpt2.fewshot.mistakes import Mistake, worst_mistakes
from rope_gpt2.fewshot.template import Template
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import train_tokenizer

DEMO = Path(__file__).parents[2] / "data" / "demo.csv"


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """All rows of data/demo.csv."""
    return read_examples(DEMO)


@pytest.fixture(scope="session")
def tokenizer(examples: list[Example]) -> PreTrainedTokenizerBase:
    """Trained on the demo reviews as the default template lays them out."""
    template = Template()
    texts = [template.demonstration(example.review, example.sentiment) + template.separator for example in examples]
    return train_tokenizer(texts, vocab_size=600)


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerBase) -> RopeGPT2ForCausalLM:
    """Random weights, ten times as large as GPT-2's first ones: each token of the context moves the scores."""
    torch.manual_seed(0)
    config = RopeGPT2Config(
        vocab_size=len(tokenizer),
        n_positions=256,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return RopeGPT2ForCausalLM(config).eval()


@pytest.fixture(scope="session")
def stock_models(tokenizer: PreTrainedTokenizerBase) -> dict[str, PreTrainedModel]:
    """Models of transformers that cannot share a prefix: learned positions, and rotary ones with a parallel residual."""
    torch.manual_seed(0)
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    gpt2 = GPT2Config(n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2, **tokens)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    neox = GPTNeoXConfig(max_position_embeddings=256, initializer_range=0.2, **sizes, **tokens)
    return {"GPT-2": GPT2LMHeadModel(gpt2).eval(), "GPT-NeoX": GPTNeoXForCausalLM(neox).eval()}


@pytest.fixture(params=["RoPE GPT-2", "GPT-2", "GPT-NeoX"])
def any_model(request: pytest.FixtureRequest, model: RopeGPT2ForCausalLM, stock_models: dict[str, PreTrainedModel]) -> PreTrainedModel:
    """Each model in turn."""
    return {"RoPE GPT-2": model, **stock_models}[request.param]


@pytest.fixture(scope="module")
def metrics() -> Metrics:
    """Of the sample scores."""
    return evaluate(sample_scores())


@pytest.fixture(scope="module")
def mistakes(metrics: Metrics) -> list[Mistake]:
    """The worst ones of the headline, all of them on the hostile review."""
    scores = sample_scores()
    reviews = dict.fromkeys(sample_reviews(scores), HOSTILE)
    return worst_mistakes(scores, metrics.summaries[metrics.headline], lambda rows: {row: reviews[row] for row in rows})
