"""RopeGPT2Module: a RoPE GPT-2 from random weights or a checkpoint, trained on corpora or episodes and scored on prompts."""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional
from torchmetrics import MeanMetric

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.model.attention import LONGEST, attention_by_products
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.sequences import IGNORED, SequenceBatch
from rope_gpt2.training.allocation import keep_freed_memory
from rope_gpt2.training.checkpoint_parts import check_finite
from rope_gpt2.training.compilation import check_compiled, compile_blocks, compiling_pays
from rope_gpt2.training.fewshot_module import FewShotModule
from rope_gpt2.training.losses import doubt_losses, token_losses
from rope_gpt2.training.optimization import OptimizerOptions, build_optimizer, group_options, schedule_factor, set_group_options
from rope_gpt2.training.option_checks import MODEL_RANGES, check_ranges
from rope_gpt2.training.sharding import ShardedStrategy, is_sharded, shard, whole_copy
from rope_gpt2.training.starting_model import make_model

OWN_OPTIONS = frozenset(  # what a run that goes on from a checkpoint may change; all else is the checkpoint's
    {
        *("dropout", "attention_dropout", "learning_rate", "min_learning_rate", "weight_decay", "beta2", "warmup_steps", "schedule"),
        *("decay_fraction", "lm_loss_weight", "label_loss_weight", "compile", "gradient_checkpointing"),
    }
)
TINY = 1e-9  # divides a sum over no token, which is 0


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
        position_encoding: rope, or for comparison learned, sinusoidal, alibi or none.
        rope_type: default, linear, dynamic, yarn, longrope or llama3; a scaling replaces that of `init_from`.
        rope_theta: base of the rotary frequencies (10000 in Su et al. 2021).
        rope_factor: by how much a scaling rope type stretches the context; unused by the default type.
        partial_rotary_factor: fraction of each head that is rotated, in (0, 1].
        learning_rate: peak of the schedule.
        min_learning_rate: end of the cosine, as a fraction of the peak, in [0, 1].
        embedding_rate: learning rate of the embeddings, as a multiple of `learning_rate`. Below 1, words that labelled text lacks keep
            their place beside those that it has, on a model that was trained on plain text.
        weight_decay: decoupled (Loshchilov & Hutter 2019), on matrices only.
        beta2: second moment's decay of AdamW (0.95 in GPT-3's recipe; the first is 0.9).
        warmup_steps: optimizer steps of linear warm-up.
        optimizer: "adamw", or "muon" for the matrices of the blocks beside AdamW for the rest; not for sharded training.
        schedule: "cosine", or "wsd": warm-up, plateau, decay; a checkpoint of the plateau can go on to any length.
        decay_fraction: of "wsd": fraction of all steps, at the end, in which the learning rate falls, in [0, 1].
        init_from: folder or .ckpt to start from: its shape and tokenizer, its weights; dropout and n_positions are this run's own.
        lm_loss_weight: weight of the mean loss over the tokens of the text; at 0 logits are computed at the label words alone.
        label_loss_weight: weight of the mean loss over the label words.
        new_words: words, with the space before them, that become one token each in the tokenizer of `init_from`: its label words, say.
        compile: run torch.compile on the model for training; None: where a compiler is found and the run is long enough to pay for it.
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
        position_encoding: Literal["rope", "learned", "sinusoidal", "none", "alibi"] = "rope",
        rope_type: Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"] = "default",
        rope_theta: float = 10000.0,
        rope_factor: float = 1.0,
        partial_rotary_factor: float = 1.0,
        learning_rate: float = 6e-4,
        min_learning_rate: float = 0.1,
        embedding_rate: float = 1.0,
        weight_decay: float = 0.1,
        beta2: float = 0.95,
        warmup_steps: int = 100,
        optimizer: Literal["adamw", "muon"] = "adamw",
        schedule: Literal["cosine", "wsd"] = "cosine",
        decay_fraction: float = 0.2,
        init_from: str | None = None,
        new_words: list[str] | None = None,
        lm_loss_weight: float = 1.0,
        label_loss_weight: float = 1.0,
        compile: bool | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        shape = {
            "vocab_size": vocab_size,
            "n_positions": n_positions,
            "n_embd": n_embd,
            "n_layer": n_layer,
            "n_head": n_head,
            "dropout": dropout,
            "attention_dropout": attention_dropout,
            "position_encoding": position_encoding,
            "rope_type": rope_type,
            "rope_theta": rope_theta,
            "rope_factor": rope_factor,
            "partial_rotary_factor": partial_rotary_factor,
        }
        check_ranges(locals(), MODEL_RANGES, "model")
        model, tokenizer_json = make_model(shape, init_from, new_words or [])
        super().__init__(model)
        self.save_hyperparameters()
        self.hparams.update(
            shape | {"init_from": None, "new_words": None}
        )  # a checkpoint of this run is complete without what it started from
        self.tokenizer_json = tokenizer_json
        self.model: RopeGPT2ForCausalLM
        self.val_loss = MeanMetric()
        self._by_products = False
        self._to_check = False  # compiled code, at the first batch
        self._group_options: list[dict[str, Any]] = []
        self._token_losses: Callable[[Tensor, Tensor, Tensor], Tensor] = token_losses
        self._sums_of_shards: Callable[[SequenceBatch], tuple[Tensor, Tensor]] | None = None
        self._shards: RopeGPT2ForCausalLM | None = None  # kept aside while a whole copy of it is validated
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable()

    def setup(self, stage: str) -> None:
        """For fit: give the model the special tokens of the data module's tokenizer, and compile it."""
        if stage != "fit":
            return
        device = self.trainer.strategy.root_device.type
        if device == "cpu":
            keep_freed_memory()
        tokenizer = getattr(getattr(self.trainer, "datamodule", None), "tokenizer", None)
        if tokenizer is not None:
            if len(tokenizer) > self.hparams["vocab_size"]:
                raise InputError(
                    f"the tokenizer has {len(tokenizer)} tokens, the model {self.hparams['vocab_size']}; raise model.vocab_size"
                )
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                for config in (self.model.config, self.model.generation_config):
                    setattr(config, name, getattr(tokenizer, name))
        asked = self.hparams["compile"]
        if compiling_pays(device, self.trainer.estimated_stepping_batches) if asked is None else asked:
            compile_blocks(self.model.transformer.h)
            self._token_losses = torch.compile(token_losses)
            # Checkpointed blocks run again in the backward pass, when the model's attention would be another one.
            self._by_products = device == "cpu" and not self.hparams["gradient_checkpointing"]
            self._to_check = device == "cpu"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are no finite numbers."""
        if not is_sharded(self):
            check_finite(checkpoint.get("state_dict", {}), str(self.trainer.ckpt_path) if self._trainer else "the checkpoint")

    def configure_model(self) -> None:
        """Share the model out among the processes where the strategy is `fsdp2`."""
        strategy = self.trainer.strategy
        if isinstance(strategy, FSDPStrategy):
            raise InputError("trainer.strategy fsdp is torch's older way to shard; take --trainer.strategy fsdp2")
        if not isinstance(strategy, ShardedStrategy) or is_sharded(self.model):
            return
        if self.trainer.state.fn != TrainerFn.FITTING:
            raise InputError("trainer.strategy fsdp2 is for fit; to score take ddp, or one device")
        if self.hparams["optimizer"] == "muon":
            raise InputError("muon needs whole matrices, fsdp2 shards them; take --model.optimizer adamw or --trainer.strategy ddp")
        self._sums_of_shards = shard(self.model, strategy.device_mesh["data_parallel"], self._sums)

    def on_validation_epoch_start(self) -> None:
        """Score with a whole model: processes have different numbers of prompts, and shards need all processes for each."""
        super().on_validation_epoch_start()
        if is_sharded(self.model):
            self._shards = self.model
            self.model = whole_copy(self.model)

    def on_validation_epoch_end(self) -> None:
        """Go back to the shards."""
        super().on_validation_epoch_end()
        if self._shards is not None:
            self.model, self._shards = self._shards, None

    def on_train_batch_start(self, batch: SequenceBatch, batch_idx: int) -> None:
        """Dropout masks as a function of seed, batch and rank, so that a resumed run draws those of an undisturbed one.

        Before the first batch, what a CPU's compiler made is checked.
        """
        if self._to_check and not is_sharded(self.model):
            self._check_compiled(batch)
        self._to_check = False
        seed, batches = int(os.environ.get("PL_GLOBAL_SEED", 0)), self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(((seed * 1_000_003 + batches) * 1_009 + self.global_rank) % 2**63)

    def _check_compiled(self, batch: SequenceBatch) -> None:
        weights = torch.tensor([self.hparams["lm_loss_weight"], self.hparams["label_loss_weight"]]) / batch.counts().clamp(min=TINY)

        def loss(part: SequenceBatch) -> Tensor:
            with self.trainer.precision_plugin.train_step_context(), self._attention(part):
                return (weights * self._sums(part)[0]).sum()

        random = bool(self.hparams["dropout"] or self.hparams["attention_dropout"])
        check_compiled(loss, batch, [parameter for parameter in self.parameters() if parameter.requires_grad], random)

    def on_validation_model_eval(self) -> None:
        """Score without compiled code: prompts have many shapes, and each would be compiled."""
        super().on_validation_model_eval()
        torch.compiler.set_stance("force_eager")

    def on_validation_model_train(self) -> None:
        """Go back to compiled code."""
        super().on_validation_model_train()
        torch.compiler.set_stance("default")

    def training_step(self, batch: SequenceBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the mean loss over text tokens and the mean loss over label words, in nats, of all processes together.

        Where gradients accumulate, each batch weighs the same, however many tokens and label words it has.
        """
        with self._attention(batch):
            sums, counts = (self._sums_of_shards or self._sums)(batch)
        if self.trainer.world_size > 1:
            # Processes average their gradients. For the mean over the tokens of all of them, each divides by the mean of their counts.
            pair = self.trainer.strategy.reduce(torch.stack((sums.detach(), counts)), reduce_op="mean")
            counts, logged = pair[1], pair[0] / pair[1].clamp(min=TINY)
        else:
            logged = sums.detach() / counts.clamp(min=TINY)
        text_loss, label_loss = sums / counts.clamp(min=TINY)
        loss = self.hparams["lm_loss_weight"] * text_loss + self.hparams["label_loss_weight"] * label_loss
        self.log("train/loss", self.hparams["lm_loss_weight"] * logged[0] + self.hparams["label_loss_weight"] * logged[1], prog_bar=True)
        if self.hparams["lm_loss_weight"]:
            self.log("train/text_loss", logged[0])
        self.log("train/label_loss", logged[1], prog_bar=True)
        return loss

    def _attention(self, batch: SequenceBatch) -> AbstractContextManager[None]:
        by_products = self._by_products and batch.input_ids.shape[1] <= LONGEST
        return attention_by_products(self.model) if by_products else nullcontext()

    def validation_step(self, batch: SequenceBatch | PromptBatch, batch_idx: int) -> None:
        """Few-shot accuracy on prompts; on text, the loss for each token in nats, as `val/loss`."""
        if isinstance(batch, PromptBatch):
            return super().validation_step(batch, batch_idx)
        sums, counts = self._sums(batch)
        self.val_loss.update(sums[0] / counts[0].clamp(min=TINY), weight=counts[0])
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=len(batch.input_ids))
        return None

    def _sums(self, batch: SequenceBatch) -> tuple[Tensor, Tensor]:
        """Loss of the text tokens and of the label words, in nats: (sums [2], numbers of them [2]), float32."""
        # Padding stands on the right, where causal attention never looks back from; as embeddings it needs no mask (nor a warning).
        embeddings = self.model.transformer.wte(batch.input_ids)
        hidden = self.model.transformer(inputs_embeds=embeddings, position_ids=batch.position_ids, use_cache=False).last_hidden_state
        head, places = self.model.lm_head.weight, batch.is_label
        if self.training and not self.hparams["lm_loss_weight"]:  # logits of the label words are all that counts
            losses = token_losses(hidden[places], head, batch.targets[places])
            sums, counts = functional.pad(losses.sum()[None], (1, 0)), functional.pad(places.sum()[None].float(), (1, 0))
        else:
            losses = self._token_losses(hidden, head, batch.targets)
            is_label = places.flatten()
            is_text = (batch.targets.flatten() != IGNORED) & ~is_label
            chosen = torch.stack((is_text, is_label)).float()
            sums, counts = (chosen * losses).sum(dim=1), chosen.sum(dim=1)
        if batch.others is not None and batch.doubts is not None:
            doubted = doubt_losses(hidden[places], head, batch.targets[places], batch.others[places], batch.doubts[places])
            sums = sums + functional.pad(doubted.sum()[None], (1, 0))
        return sums, counts

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW or Muon beside it, and the schedule; see `rope_gpt2.training.optimization`."""
        chosen = self.hparams
        options = OptimizerOptions(
            chosen["optimizer"],
            chosen["learning_rate"],
            chosen["weight_decay"],
            chosen["beta2"],
            embedding_rate=chosen["embedding_rate"],
        )
        optimizer = build_optimizer(self.model, options)
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise InputError("the schedule needs an end; give trainer.max_epochs or trainer.max_steps")
        total = max(1, int(steps))
        factor = schedule_factor(chosen["schedule"], total, chosen["warmup_steps"], chosen["min_learning_rate"], chosen["decay_fraction"])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        self._group_options = group_options(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Where a run goes on: a restored optimizer has the options of the checkpoint, this run's own hold."""
        super().on_train_start()
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        set_group_options(optimizer, schedule, self._group_options)  # type: ignore[arg-type]  # there is one of each
