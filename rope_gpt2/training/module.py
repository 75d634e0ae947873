"""The model under Lightning: FewShotModule scores any causal language model, RopeGPT2Module trains a RoPE GPT-2 as well."""

import math
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric
from transformers import PreTrainedModel

from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.episodes import IGNORED, EpisodeBatch
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.scoring import (
    SCORINGS,
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
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

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


class RopeGPT2Module(FewShotModule):
    """A RoPE GPT-2 from random weights, trained on episodes and scored on prompts.

    Args:
        vocab_size: rows of the embedding; the tokenizer may hold fewer tokens, never more.
        n_positions: training context, in tokens.
        n_embd: embedding size.
        n_layer: number of blocks.
        n_head: attention heads in a block; n_embd / n_head must be even.
        dropout: probability, in [0, 1), on embeddings and residuals.
        attention_dropout: probability, in [0, 1), on attention weights; above 0 it costs the fused attention of a CPU.
        rope_type: default, linear, dynamic, yarn or llama3.
        rope_theta: base of the rotary frequencies (10000 in Su et al. 2021).
        rope_factor: by how much a scaling rope type stretches the context; unused by the default type.
        partial_rotary_factor: fraction of each head that is rotated, in (0, 1].
        learning_rate: peak of the schedule.
        min_learning_rate: end of the cosine, as a fraction of the peak, in [0, 1].
        weight_decay: of AdamW, on matrices only.
        beta2: second moment's decay of AdamW (0.95 in GPT-3's recipe; the first is 0.9).
        warmup_steps: optimizer steps of linear warm-up.
        lm_loss_weight: weight of the mean loss over the tokens of the text.
        label_loss_weight: weight of the mean loss over the label words.
        compile: run torch.compile on the model for training; needs a C++ compiler on a CPU.
        gradient_checkpointing: recompute activations in the backward pass, for less memory.
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 1024,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        rope_type: Literal["default", "linear", "dynamic", "yarn", "llama3"] = "default",
        rope_theta: float = 10000.0,
        rope_factor: float = 1.0,
        partial_rotary_factor: float = 1.0,
        learning_rate: float = 6e-4,
        min_learning_rate: float = 0.1,
        weight_decay: float = 0.1,
        beta2: float = 0.95,
        warmup_steps: int = 100,
        lm_loss_weight: float = 1.0,
        label_loss_weight: float = 1.0,
        compile: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        try:
            config = RopeGPT2Config(
                vocab_size=vocab_size,
                n_positions=n_positions,
                n_embd=n_embd,
                n_layer=n_layer,
                n_head=n_head,
                embd_pdrop=dropout,
                attn_pdrop=attention_dropout,
                resid_pdrop=dropout,
                rope_parameters=rope_parameters(rope_type, rope_theta, rope_factor, partial_rotary_factor),
                bos_token_id=None,  # the tokenizer's, once it is known
                eos_token_id=None,
            )
        except (ValueError, TypeError) as error:
            raise InputError(f"model: {' '.join(str(error).split())}") from error
        super().__init__(RopeGPT2ForCausalLM(config))
        self.model: RopeGPT2ForCausalLM
        self.save_hyperparameters()
        self._token_losses: Callable[[Tensor, Tensor, Tensor], Tensor] = token_losses
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable()

    def setup(self, stage: str) -> None:
        """For fit: give the model the special tokens of the data module's tokenizer, and compile it."""
        if stage != "fit":
            return
        tokenizer = getattr(getattr(self.trainer, "datamodule", None), "tokenizer", None)
        if tokenizer is not None:
            if len(tokenizer) > self.hparams["vocab_size"]:
                raise InputError(
                    f"the tokenizer has {len(tokenizer)} tokens, the model {self.hparams['vocab_size']}; raise model.vocab_size"
                )
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                for config in (self.model.config, self.model.generation_config):
                    setattr(config, name, getattr(tokenizer, name))
        if self.hparams["compile"]:
            # Block by block: the mask is then made outside, found to be plain causal, and left out (fused causal attention).
            for block in self.model.transformer.h:
                block.compile()
            self._token_losses = torch.compile(token_losses)

    def on_train_batch_start(self, batch: EpisodeBatch, batch_idx: int) -> None:
        """Dropout masks as a function of seed, batch and rank, so that a resumed run draws those of an undisturbed one."""
        seed, batches = int(os.environ.get("PL_GLOBAL_SEED", 0)), self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(((seed * 1_000_003 + batches) * 1_009 + self.global_rank) % 2**63)

    def on_validation_model_eval(self) -> None:
        """Score without compiled code: prompts have many shapes, and each would be compiled."""
        super().on_validation_model_eval()
        torch.compiler.set_stance("force_eager")

    def on_validation_model_train(self) -> None:
        """Go back to compiled code."""
        super().on_validation_model_train()
        torch.compiler.set_stance("default")

    def training_step(self, batch: EpisodeBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the mean loss over text tokens and the mean loss over label words, in nats."""
        # Padding stands on the right, where causal attention never looks back from; as embeddings it needs no mask (nor a warning).
        embeddings = self.model.transformer.wte(batch.input_ids)
        hidden = self.model.transformer(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        losses = self._token_losses(hidden, self.model.lm_head.weight, batch.targets)
        is_label = batch.is_label.flatten()
        is_text = (batch.targets.flatten() != IGNORED) & ~is_label
        text_loss = (losses * is_text).sum() / is_text.sum()
        label_loss = (losses * is_label).sum() / is_label.sum()
        loss = self.hparams["lm_loss_weight"] * text_loss + self.hparams["label_loss_weight"] * label_loss
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/text_loss", text_loss)
        self.log("train/label_loss", label_loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with weight decay on matrices only; linear warm-up, then a cosine (Loshchilov & Hutter 2017)."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            {
                "params": [parameter for parameter in parameters if parameter.ndim >= 2],
                "weight_decay": self.hparams["weight_decay"],
            },
            {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["learning_rate"], betas=(0.9, self.hparams["beta2"]))
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise InputError("the cosine schedule needs an end: give trainer.max_epochs or trainer.max_steps")
        total = max(1, int(steps))
        warmup, floor = min(self.hparams["warmup_steps"], total), self.hparams["min_learning_rate"]

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            done = (step - warmup) / max(1, total - warmup)
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each target token, in nats; 0 where the target is `IGNORED`.

    Args:
        hidden: [B, L, E] last hidden states.
        head: [V, E] output embedding.
        targets: [B, L] token ids.

    Returns:
        [B * L] float32.
    """
    logits = functional.linear(hidden, head).flatten(0, 1)
    return functional.cross_entropy(logits.float(), targets.flatten(), ignore_index=IGNORED, reduction="none")


def rope_parameters(rope_type: str, rope_theta: float, rope_factor: float, partial_rotary_factor: float) -> dict[str, Any]:
    """transformers' `rope_parameters` from flat scalars; llama3's frequency bounds are Llama 3.1's own."""
    parameters: dict[str, Any] = {"rope_type": rope_type, "rope_theta": rope_theta}
    if partial_rotary_factor != 1.0:
        parameters["partial_rotary_factor"] = partial_rotary_factor
    if rope_type != "default":
        parameters["factor"] = rope_factor
    if rope_type == "llama3":
        parameters |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return parameters
