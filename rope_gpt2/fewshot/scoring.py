"""Batches → label log-probabilities and predictions. The demonstrations are encoded once and shared by all queries of their condition.

Let B be batch, P prefix length, Q query length, V vocabulary, C labels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.verbalizer import Verbalizer

MAX_NEW_TOKENS = 5  # of a generated answer
UNCERTAIN = "uncertain"  # predicted where a generated text names neither label; always wrong


class Prediction(NamedTuple):
    """What one prompt gave; a row of predictions.csv.

    Attributes:
        row: number of the review in its file, from 1.
        sentiment: its label.
        predicted: one of `LABELS`, or `UNCERTAIN`.
        shots, seed: of the condition.
        logprob_negative, logprob_positive: log-probability of each label word, in nats.
    """

    row: int
    sentiment: str
    predicted: str
    shots: int
    seed: int
    logprob_negative: float
    logprob_positive: float

    @property
    def is_correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predicted == self.sentiment


class PrefixCache:
    """Keys and values of the demonstrations encoded last; batches of one condition follow one another."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._layers: list[tuple[Tensor, Tensor]] = []

    def expand(self, model: PreTrainedModel, prefix_ids: Tensor, batch_size: int) -> DynamicCache | None:
        """A cache of [batch_size, ...] views on the shared keys and values, or None without demonstrations."""
        if not prefix_ids.numel():
            return None
        key = (id(model), prefix_ids.device, model.dtype, *prefix_ids.tolist())
        if key != self._key:
            cache = DynamicCache(config=model.config)
            model(prefix_ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
            self._key, self._layers = key, [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr, misc]
        expanded = DynamicCache(config=model.config)
        for index, (keys, values) in enumerate(self._layers):
            expanded.update(keys.expand(batch_size, -1, -1, -1), values.expand(batch_size, -1, -1, -1), index)
        return expanded


@torch.no_grad()
def score_labels(
    model: PreTrainedModel,
    batch: PromptBatch,
    label_token_ids: Sequence[Sequence[int]],
    prefix_cache: PrefixCache | None = None,
) -> Tensor:
    """Log-probability of each label word after each prompt, in nats: log p(word | prompt), summed over the word's tokens.

    Args:
        model: a causal language model in evaluation mode.
        batch: prompts that share their demonstrations.
        label_token_ids: C label words, each of one or more tokens.
        prefix_cache: encodes the demonstrations once for many batches; None encodes each prompt whole (the plain path).

    Returns:
        [B, C] float32.
    """
    logits = _next_token_logits(model, batch, prefix_cache, continuation=())[:, -1]
    first = logits.log_softmax(dim=-1)
    scores = [first[:, ids[0]] for ids in label_token_ids]
    for label, ids in enumerate(label_token_ids):
        if len(ids) > 1:  # the further tokens of the word, each given those before it
            rest = _next_token_logits(model, batch, prefix_cache, continuation=ids[:-1])[:, -(len(ids) - 1) :].log_softmax(dim=-1)
            for place, token in enumerate(ids[1:]):
                scores[label] = scores[label] + rest[:, place, token]
    return torch.stack(scores, dim=-1)


def _next_token_logits(model: PreTrainedModel, batch: PromptBatch, prefix_cache: PrefixCache | None, continuation: Sequence[int]) -> Tensor:
    """[B, 1 + len(continuation), V] float32 logits after the prompt and after each token of the continuation."""
    inputs = prepare_inputs(model, batch, prefix_cache, continuation)
    return model(**inputs, use_cache=inputs["past_key_values"] is not None, logits_to_keep=1 + len(continuation)).logits.float()


def prepare_inputs(
    model: PreTrainedModel, batch: PromptBatch, prefix_cache: PrefixCache | None, continuation: Sequence[int] = ()
) -> dict[str, Any]:
    """Tensors for a forward pass: prefix, padding, query, continuation, at positions that do not count the padding."""
    size, length = batch.query_ids.shape[0], batch.prefix_ids.numel()
    ids, mask = batch.query_ids, batch.query_mask
    if continuation:
        ids = torch.cat((ids, ids.new_tensor(continuation).expand(size, -1)), dim=1)
        mask = torch.cat((mask, mask.new_ones(size, len(continuation))), dim=1)
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0) + length
    prefix_mask = mask.new_ones(size, length)
    cache = prefix_cache.expand(model, batch.prefix_ids, size) if prefix_cache else None
    if prefix_cache is None and length:
        # The plain path puts the padding first, as a tool without prefix sharing does.
        padding = ids.shape[1] - mask.sum(dim=-1, keepdim=True)
        column = torch.arange(length + ids.shape[1], device=ids.device) - padding  # < 0 padding, < length prefix, then the query
        query_column = (column + padding - length).clamp(min=0)
        prefix = batch.prefix_ids[column.clamp(0, length - 1)]
        ids = torch.where(column < length, prefix, ids.gather(1, query_column))
        mask = (column >= 0).to(mask.dtype)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": column.clamp(min=0), "past_key_values": None}
    return {
        "input_ids": ids,
        "attention_mask": torch.cat((prefix_mask, mask), dim=1),
        "position_ids": positions,
        "past_key_values": cache,
    }


@torch.no_grad()
def generate_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: PromptBatch,
    verbalizer: Verbalizer,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str | None]:
    """Continue each prompt greedily (batched, cached) and look for a label word in what follows.

    Returns:
        B labels; None where the text names neither label word.
    """
    inputs = prepare_inputs(model, batch, prefix_cache=None)
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    generated = model.generate(  # type: ignore[operator]
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=pad_token_id,
    )
    texts = tokenizer.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return [verbalizer.find(text) for text in texts]


def predict_labels(logprobs: Tensor) -> list[str]:
    """[B, C] scores → the likeliest label of each row; a tie goes to the first of `LABELS`."""
    return [LABELS[index] for index in logprobs.argmax(dim=-1).tolist()]


def predict(batch: PromptBatch, logprobs: Tensor, generated: Sequence[str | None] | None = None) -> list[Prediction]:
    """Scores of a batch → one prediction a row: the likeliest label word, or what was generated."""
    labels = predict_labels(logprobs) if generated is None else [label or UNCERTAIN for label in generated]
    return [
        Prediction(
            row=prompt.query.row,
            sentiment=prompt.query.sentiment,
            predicted=label,
            shots=prompt.condition.shots,
            seed=prompt.condition.demonstration_seed,
            logprob_negative=negative,
            logprob_positive=positive,
        )
        for prompt, label, (negative, positive) in zip(batch.prompts, labels, logprobs.tolist(), strict=True)
    ]


def prediction_from_row(row: dict[str, str]) -> Prediction:
    """A prediction from the strings of a CSV row."""
    return Prediction(
        int(row["row"]),
        row["sentiment"],
        row["predicted"],
        int(row["shots"]),
        int(row["seed"]),
        float(row["logprob_negative"]),
        float(row["logprob_positive"]),
    )
