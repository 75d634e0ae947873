"""Batches → label log-probabilities. What the prompts of a batch begin with is encoded once and shared by all of them.

A model that can share a prefix without copying it (`SharesPrefix`) does so; any other causal language model of transformers gets a cache of
views on one pass over the prefix. Where neither is exact, each prompt is scored alone and whole. `score_plain` shares nothing: it is what
the others are held against.

Let B be batch, P prefix length, Q query length, E embedding, V vocabulary, C labels, K positions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.foreign import counts_padding, forget_length, rotates_by_length
from rope_gpt2.fewshot.prompts import Ids

SCORINGS = ("likelihood", "channel", "generate")
_HEAD_TOKENS = 1024  # positions whose logits over the whole vocabulary are in memory at once


class ScoredBatch(NamedTuple):
    """What a batch gave, in its order.

    Attributes:
        label_logprobs: [B, C] float32, nats.
        generated: [B] index of the label that was generated, or `UNCERTAIN`; None where label words were scored.
    """

    label_logprobs: Tensor
    generated: Tensor | None = None


@runtime_checkable
class SharesPrefix(Protocol):
    """A causal language model that encodes a prefix once for many sequences, without a copy for each."""

    def shares_prefix(self, length: int) -> bool:
        """Whether that is exact for prompts of so many tokens."""

    def encode_prefix(self, prefix_ids: Tensor) -> Any:
        """[P] token ids → what sequences need of them."""

    def encode_sequences(self, prefix: Any, ids: Tensor, positions: Tensor | None = None) -> Tensor:
        """[B, Q] right-padded token ids behind the prefix → [B, K, E] states at `positions` [B, K], or all."""


class PrefixCache:
    """What was encoded last of a prefix; batches of one condition follow one another."""

    def __init__(self) -> None:
        self._key: Any = None
        self._encoded: Any = None

    def get(self, model: PreTrainedModel, prefix_ids: Tensor) -> Any:
        """The encoded prefix for a model of `SharesPrefix`."""
        return self._remember("shared", model, prefix_ids, lambda: model.encode_prefix(prefix_ids))  # type: ignore[operator]

    def expand(self, model: PreTrainedModel, prefix_ids: Tensor, batch_size: int) -> DynamicCache | None:
        """For any other model: a cache of [batch_size, ...] views on shared keys and values, or None for an empty prefix."""
        if not prefix_ids.numel():
            return None

        def encode() -> list[tuple[Tensor, Tensor]]:
            cache = DynamicCache(config=model.config)
            model(prefix_ids[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
            return [(layer.keys, layer.values) for layer in cache.layers]  # type: ignore[union-attr, misc]

        expanded = DynamicCache(config=model.config)
        for index, (keys, values) in enumerate(self._remember("views", model, prefix_ids, encode)):
            expanded.update(keys.expand(batch_size, -1, -1, -1), values.expand(batch_size, -1, -1, -1), index)
        return expanded

    def _remember(self, form: str, model: PreTrainedModel, prefix_ids: Tensor, encode: Any) -> Any:
        key = (form, id(model), prefix_ids.device, model.dtype, *prefix_ids.tolist())
        if key != self._key:
            self._key, self._encoded = key, encode()
        return self._encoded


@torch.no_grad()
def score_labels(model: PreTrainedModel, batch: PromptBatch, prefix_cache: PrefixCache | None = None) -> Tensor:
    """Log-probability of each label word after each prompt, summed over the word's tokens: log p(word | prompt).

    Args:
        model: a causal language model in evaluation mode.
        batch: prompts and label words.
        prefix_cache: encodes the prefix once for many batches; None for this batch alone.

    Returns:
        [B, C] float32, in nats.
    """
    cache = prefix_cache or PrefixCache()
    if stands_alone(model, batch, max(map(len, batch.label_token_ids)) - 1):
        return torch.cat([score_plain(model, batch.only(place)) for place in range(len(batch.prompts))])
    if not isinstance(model, SharesPrefix):
        return score_plain(model, batch, None if counts_padding(model) else cache)
    prefix, last = cache.get(model, batch.prefix_ids), batch.lengths[:, None] - 1  # (batch, 1)
    columns: list[Tensor | None] = [None] * len(batch.label_token_ids)
    single = [label for label, ids in enumerate(batch.label_token_ids) if len(ids) == 1]
    if single:
        states = model.encode_sequences(prefix, batch.query_ids, last)[:, 0]
        scores = _head(model, states, torch.tensor([batch.label_token_ids[label][0] for label in single], device=states.device))
        for place, label in enumerate(single):
            columns[label] = scores[:, place]
    for label, ids in enumerate(batch.label_token_ids):
        if len(ids) > 1:  # the whole word, each token given those before it
            continued = _continue(batch.query_ids, batch.lengths, ids[:-1])
            positions = last + torch.arange(len(ids), device=last.device)
            states = model.encode_sequences(prefix, continued, positions)
            targets = torch.tensor(ids, device=last.device).expand(len(batch.prompts), -1)
            columns[label] = _token_logprobs(model, states, targets).sum(dim=-1)
    return torch.stack(columns, dim=-1)  # type: ignore[arg-type]


@torch.no_grad()
def score_channel(model: PreTrainedModel, batch: PromptBatch) -> Tensor:
    """Log-probability of each review given each label: log p(review | demonstrations, label) (Min et al. 2021, "Noisy channel").

    Args:
        model: a causal language model in evaluation mode.
        batch: its queries are the reviews alone, and `heads` what stands before them for each label.

    Returns:
        [B, C] float32, in nats.
    """
    if stands_alone(model, batch, max(map(len, batch.heads))) or counts_padding(model):
        return score_channel_plain(model, batch)
    columns = []
    padding = torch.arange(batch.query_ids.shape[1], device=batch.query_ids.device) >= batch.lengths[:, None]
    for head in batch.heads:
        prefix_ids = torch.cat((batch.prefix_ids, batch.prefix_ids.new_tensor(head[:-1])))
        first = batch.query_ids.new_full((len(batch.prompts), 1), head[-1])  # the first token of the review follows it
        inputs = torch.cat((first, batch.query_ids[:, :-1]), dim=1)
        if isinstance(model, SharesPrefix):
            states = model.encode_sequences(model.encode_prefix(prefix_ids), inputs)
            logprobs = _token_logprobs(model, states, batch.query_ids)
        else:
            cache = PrefixCache().expand(model, prefix_ids, len(batch.prompts))
            logits = model(inputs, past_key_values=cache, use_cache=cache is not None).logits.float()
            logprobs = logits.log_softmax(dim=-1).gather(2, batch.query_ids[..., None])[..., 0]
        columns.append(logprobs.masked_fill(padding, 0.0).sum(dim=-1))
    return torch.stack(columns, dim=-1)


@torch.no_grad()
def score_channel_plain(model: PreTrainedModel, batch: PromptBatch) -> Tensor:
    """What `score_channel` gives, by a whole pass over each prompt and label alone.

    Returns:
        [B, C] float32, in nats.
    """
    scores = []
    for prompt in batch.prompts:
        for head in batch.heads:
            context = prompt.prefix_ids + head
            ids = torch.tensor([context + prompt.query_ids], device=batch.query_ids.device)
            forget_length(model)
            logprobs = model(ids[:, :-1]).logits[0, len(context) - 1 :].float().log_softmax(dim=-1)
            scores.append(logprobs.gather(1, ids[0, len(context) :, None]).sum())
    return torch.stack(scores).view(len(batch.prompts), len(batch.heads))


@torch.no_grad()
def score_plain(model: PreTrainedModel, batch: PromptBatch, prefix_cache: PrefixCache | None = None) -> Tensor:
    """What `score_labels` gives, by the model's own forward pass over prompts padded on the left, whole unless there is a cache.

    Args:
        model: any causal language model of transformers, in evaluation mode.
        batch: prompts and label words.
        prefix_cache: share the prefix by views; None repeats it in every prompt, as a tool without prefix sharing does.

    Returns:
        [B, C] float32, in nats.
    """
    first = _next_token_logits(model, batch, prefix_cache, continuation=())[:, -1].log_softmax(dim=-1)
    scores = [first[:, ids[0]] for ids in batch.label_token_ids]
    for label, ids in enumerate(batch.label_token_ids):
        if len(ids) > 1:  # the further tokens of the word, each given those before it
            rest = _next_token_logits(model, batch, prefix_cache, continuation=ids[:-1])[:, -(len(ids) - 1) :].log_softmax(dim=-1)
            for place, token in enumerate(ids[1:]):
                scores[label] = scores[label] + rest[:, place, token]
    return torch.stack(scores, dim=-1)


def predict_labels(label_logprobs: Tensor) -> Tensor:
    """[..., C] scores → [...] index of the likeliest label; a tie goes to the first."""
    return label_logprobs.argmax(dim=-1)


def join(parts: Sequence[ScoredBatch]) -> ScoredBatch:
    """Batches that follow one another as one."""
    generated = [part.generated for part in parts if part.generated is not None]
    return ScoredBatch(torch.cat([part.label_logprobs for part in parts]), torch.cat(generated) if generated else None)


def stands_alone(model: PreTrainedModel, batch: PromptBatch, further: int) -> bool:
    """Whether a prefix apart, or a longer neighbour, would change the scores of a prompt: each is then scored alone, and whole."""
    length = batch.prefix_ids.numel() + batch.query_ids.shape[1] + further
    return not model.shares_prefix(length) if isinstance(model, SharesPrefix) else rotates_by_length(model, length)


def _head(model: PreTrainedModel, states: Tensor, token_ids: Tensor) -> Tensor:
    """log p of `token_ids` [C] after states [B, E]: [B, C] float32, in nats."""
    weight = model.get_output_embeddings().weight
    # In half precision the rows that are compared are multiplied in float32, by no product that autocast rounds: they would tie.
    chosen = (states.float()[:, None] * weight[token_ids].float()).sum(dim=-1)
    return chosen - torch.cat([(part @ weight.T).float().logsumexp(dim=-1) for part in states.split(_HEAD_TOKENS)])[:, None]


def _token_logprobs(model: PreTrainedModel, states: Tensor, targets: Tensor) -> Tensor:
    """log p of each target [B, K] after its state [B, K, E]: [B, K] float32, in nats."""
    weight = model.get_output_embeddings().weight
    parts = []
    for some, ids in zip(states.flatten(0, 1).split(_HEAD_TOKENS), targets.flatten().split(_HEAD_TOKENS), strict=True):
        chosen = (some.float() * weight[ids].float()).sum(dim=-1)
        parts.append(chosen - (some @ weight.T).float().logsumexp(dim=-1))
    return torch.cat(parts).view(targets.shape)


def _continue(ids: Tensor, lengths: Tensor, word: Ids) -> Tensor:
    """Put the tokens of a word behind the end of each right-padded row."""
    continued = torch.cat((ids, ids.new_zeros(ids.shape[0], len(word))), dim=1)
    places = lengths[:, None] + torch.arange(len(word), device=ids.device)
    return continued.scatter(1, places, ids.new_tensor(word).expand(ids.shape[0], -1))


def _next_token_logits(model: PreTrainedModel, batch: PromptBatch, prefix_cache: PrefixCache | None, continuation: Sequence[int]) -> Tensor:
    """[B, 1 + len(continuation), V] float32 logits after the prompt and after each token of the continuation."""
    inputs = prepare_inputs(model, batch, prefix_cache, continuation)
    forget_length(model)
    return model(**inputs, use_cache=inputs["past_key_values"] is not None, logits_to_keep=1 + len(continuation)).logits.float()


def prepare_inputs(
    model: PreTrainedModel, batch: PromptBatch, prefix_cache: PrefixCache | None, continuation: Sequence[int] = ()
) -> dict[str, Any]:
    """Tensors for a forward pass over left-padded prompts, at positions that do not count the padding.

    With a cache the prefix stands in it and the padding behind it; without, the padding stands first, as a tool without sharing does.
    """
    size, shared = batch.query_ids.shape[0], batch.prefix_ids.numel()
    ids, lengths = batch.query_ids, batch.lengths[:, None]
    if continuation:
        ids, lengths = _continue(ids, batch.lengths, tuple(continuation)), lengths + len(continuation)
    cache = prefix_cache.expand(model, batch.prefix_ids, size) if prefix_cache else None
    if cache is None and shared:
        ids, lengths = torch.cat((batch.prefix_ids.expand(size, -1), ids), dim=1), lengths + shared
    column = torch.arange(ids.shape[1], device=ids.device) - (ids.shape[1] - lengths)  # (batch, seq), below 0 for padding
    mask = (column >= 0).long()
    past = shared if cache is not None else 0
    return {
        "input_ids": ids.gather(1, column.clamp(min=0)),
        "attention_mask": torch.cat((mask.new_ones(size, past), mask), dim=1),
        "position_ids": column.clamp(min=0) + past,
        "past_key_values": cache,
    }
