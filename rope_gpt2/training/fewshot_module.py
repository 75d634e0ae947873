"""FewShotModule: few-shot scoring of any causal language model under Lightning."""

from collections import Counter

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.generation import generate_labels
from rope_gpt2.fewshot.scoring import (
    SCORINGS,
    PrefixCache,
    ScoredBatch,
    join,
    predict_labels,
    score_channel,
    score_channel_plain,
    score_labels,
    score_plain,
)

VERIFIED = {torch.float32: 1e-4}  # nats, between two ways to the same score
VERIFIED_HALF = 0.5  # bfloat16 has three digits


class FewShotModule(L.LightningModule):
    """Scores prompts with a causal language model: validate and test log an accuracy, predict returns scores.

    Args:
        model: any causal language model of transformers.
        scoring: "likelihood" of the label words, "channel" for that of the review given the label word, or "generate" a greedy
            continuation and look for a label word in it.
        share_prefix: encode the demonstrations of a condition once; False is the plain path, for comparison.
        verify_every: score one prompt of so many by the plain path as well, and stop at a difference; 0 for none.
    """

    def __init__(self, model: PreTrainedModel, scoring: str = "likelihood", share_prefix: bool = True, verify_every: int = 0) -> None:
        super().__init__()
        if scoring not in SCORINGS:
            raise InputError(f"scoring must be one of {', '.join(SCORINGS)}, got {scoring!r}; choose one of them")
        self.model = model
        self.scoring, self.share_prefix, self.verify_every = scoring, share_prefix, verify_every
        self.val_accuracy = MeanMetric()
        self.test_accuracy = MeanMetric()
        self.verified, self.largest_difference = 0, 0.0
        self._seen = 0
        self._dropped: Counter[str] = Counter()
        self._prefix_cache = PrefixCache()

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> ScoredBatch:
        """Scores of a batch, in its order; with less memory than they need, in halves."""
        scored = self._score_what_fits(batch)
        if self.verify_every:
            self._verify(batch, scored.label_logprobs)
        self._refuse_unusable(batch, scored.label_logprobs)
        self._count_dropped(batch)
        return scored

    def _score_what_fits(self, batch: PromptBatch) -> ScoredBatch:
        try:
            return self._score(batch)
        except torch.OutOfMemoryError:
            if len(batch.prompts) == 1:
                raise
        torch.cuda.empty_cache()  # outside of the handler: its traceback keeps the tensors of the failed pass alive
        return join([self._score_what_fits(half) for half in batch.halves()])

    def _score(self, batch: PromptBatch) -> ScoredBatch:
        if self.scoring == "channel":
            return ScoredBatch(score_channel(self.model, batch))
        logprobs = score_labels(self.model, batch, self._prefix_cache) if self.share_prefix else score_plain(self.model, batch)
        if self.scoring == "likelihood":
            return ScoredBatch(logprobs)
        tokenizer = self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]
        return ScoredBatch(logprobs, generate_labels(self.model, tokenizer, batch, batch.verbalizer))

    def _refuse_unusable(self, batch: PromptBatch, logprobs: Tensor) -> None:
        if not logprobs.isfinite().all():
            place = int((~logprobs.isfinite()).any(dim=-1).nonzero()[0])
            raise InputError(
                f"the model gives row {batch.prompts[place].query.row} (condition {batch.item.condition}) the label log-probabilities "
                f"{logprobs[place].tolist()}; check the checkpoint, or take float32 (--precision 32-true)"
            )

    def _count_dropped(self, batch: PromptBatch) -> None:
        self._dropped["prompts"] += sum(prompt.dropped > 0 for prompt in batch.prompts)
        self._dropped["demonstrations"] += sum(prompt.dropped for prompt in batch.prompts)

    def on_validation_epoch_end(self) -> None:
        """Say how many prompts lost demonstrations."""
        if self._dropped["prompts"]:
            prompts, demonstrations = self._dropped["prompts"], self._dropped["demonstrations"]
            rank_zero_info(f"{prompts} prompts exceeded the context: their {demonstrations} oldest demonstrations were dropped.")
        self._dropped.clear()

    on_test_epoch_end = on_predict_epoch_end = on_validation_epoch_end

    def on_predict_end(self) -> None:
        """Count what all processes verified; from here on every one has scored."""
        strategy = self.trainer.strategy
        self.verified = int(strategy.reduce(torch.tensor(self.verified, device=self.device), reduce_op="sum"))
        mine = torch.tensor(self.largest_difference, device=self.device)
        self.largest_difference = float(strategy.reduce(mine, reduce_op="max"))

    def _verify(self, batch: PromptBatch, logprobs: Tensor) -> None:
        """Hold prompts of a batch against the plain path, each alone and whole."""
        before, self._seen = self._seen, self._seen + len(batch.prompts)
        is_half = torch.is_autocast_enabled(batch.query_ids.device.type)
        allowed = VERIFIED_HALF if is_half else VERIFIED.get(self.model.dtype, VERIFIED_HALF)
        for count in range(-(-before // self.verify_every) * self.verify_every, self._seen, self.verify_every):
            place = count - before
            alone = batch.only(place)
            plain = score_channel_plain(self.model, alone) if self.scoring == "channel" else score_plain(self.model, alone)
            difference = float((plain[0] - logprobs[place]).abs().max())
            # the noisy channel adds up as many log-probabilities as the review has tokens
            summed = len(alone.prompts[0].query_ids) if self.scoring == "channel" else 1
            self.verified, self.largest_difference = self.verified + 1, max(self.largest_difference, difference)
            if not difference <= allowed * summed:
                raise VerificationError(
                    f"--verify: row {batch.prompts[place].query.row}, condition {batch.item.condition}: label log-probabilities "
                    f"{logprobs[place].tolist()} by the fast path, {plain[0].tolist()} by the plain one; please report it with the model"
                )

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Few-shot accuracy on the validation prompts, as `val/accuracy`: a fraction in [0, 1]."""
        self._update(self.val_accuracy, batch, batch_idx)
        self.log("val/accuracy", self.val_accuracy, prog_bar=True, batch_size=len(batch.prompts))

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Few-shot accuracy on the test prompts, as `test/accuracy`: a fraction in [0, 1]."""
        self._update(self.test_accuracy, batch, batch_idx)
        self.log("test/accuracy", self.test_accuracy, batch_size=len(batch.prompts))

    def on_validation_epoch_start(self) -> None:
        """Forget the demonstrations' keys and values: the weights may have changed."""
        self._prefix_cache = PrefixCache()

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def _update(self, metric: MeanMetric, batch: PromptBatch, batch_idx: int) -> None:
        scored = self.predict_step(batch, batch_idx)
        predicted = predict_labels(scored.label_logprobs) if scored.generated is None else scored.generated
        sentiments = torch.tensor([LABELS.index(prompt.query.sentiment) for prompt in batch.prompts])
        metric.update((predicted.cpu() == sentiments).float().to(self.device))
