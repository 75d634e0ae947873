"""The trainings that training.py compares: this package's module under Lightning's Trainer, and transformers' model under its own.

All train the same shape on the same packed sequences, without dropout, with gradients clipped to norm 1 (transformers' default), and with
one parameter group or two of torch's fused AdamW, except where Muon is named. Neither logs, saves or shows a bar.
"""

import functools
import logging
import tempfile
import warnings
from dataclasses import dataclass
from typing import Any

from pacing import Pacer
from torch.utils.data import Dataset

from rope_gpt2.errors import InputError
from rope_gpt2.sequences import SequenceSource


@dataclass(frozen=True)
class Shape:
    """What all trainings share.

    Attributes:
        vocab_size, n_embd, n_layer, n_head: of the model.
        length: tokens in a sequence, and n_positions.
        batch_size: sequences in a step.
    """

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    length: int
    batch_size: int

    @property
    def model(self) -> dict[str, int]:
        """The model's dimensions, as both GPT2Config and RopeGPT2Module name them."""
        names = ("vocab_size", "n_embd", "n_layer", "n_head")
        return {name: getattr(self, name) for name in names} | {"n_positions": self.length}


def fit_ours(
    pacer: Pacer,
    shape: Shape,
    source: SequenceSource,
    steps: int,
    device: str,
    optimizer: str = "adamw",
    compile: bool = True,
    learned_positions: bool = False,
) -> None:
    """What `train.py fit` does for a corpus: RopeGPT2Module under Lightning's Trainer, fed by the package's own loader, bf16-mixed (on a
    CPU without bfloat16: float32).

    Args:
        pacer: divides the training into turns.
        shape, source, steps: what is trained, on what, for how many optimizer steps.
        device: "cpu" or "cuda".
        optimizer, compile: as RopeGPT2Module takes them.
        learned_positions: put stock GPT-2, with its table of learned positions, into the module; all else stays.
    """
    import lightning as L
    from transformers import GPT2LMHeadModel

    from rope_gpt2.training.loaders import SequenceLoader
    from rope_gpt2.training.module import RopeGPT2Module
    from rope_gpt2.training.notices import silence_notices
    from rope_gpt2.training.precision import bearable_precision

    class Turns(L.Callback):
        """Tells the pacer where the training stands."""

        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            pacer.training_begins()

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
            pacer.loss_made(outputs["loss"].detach())
            pacer.step_done()

    silence_notices(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
    L.seed_everything(0, verbose=False)
    module = RopeGPT2Module(**shape.model, dropout=0.0, optimizer=optimizer, compile=compile)  # type: ignore[arg-type]
    if learned_positions:
        module.model = GPT2LMHeadModel(stock_config(shape))  # type: ignore[assignment]
    accelerator = "gpu" if device == "cuda" else "cpu"
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=1,
        precision=bearable_precision("bf16-mixed", accelerator),  # type: ignore[arg-type]  # one of Lightning's words
        gradient_clip_val=1.0,
        max_epochs=-1,
        max_steps=steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Turns()],
    )
    trainer.fit(module, SequenceLoader(source, shape.batch_size))


def fit_transformers(
    pacer: Pacer, shape: Shape, source: SequenceSource, steps: int, device: str, bf16: bool = False, compile: bool = False
) -> None:
    """GPT2LMHeadModel under transformers' Trainer, whose settings are at their defaults but for what is named here.

    Args:
        pacer: divides the training into turns.
        shape, source, steps: what is trained, on what, for how many optimizer steps.
        device: "cpu" or "cuda".
        bf16, compile: TrainingArguments' `bf16` and `torch_compile`.

    Raises:
        InputError: where accelerate, which the Trainer needs, is not installed.
    """
    from transformers import GPT2LMHeadModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
    from transformers.utils import is_accelerate_available
    from transformers.utils import logging as transformers_logging

    if not is_accelerate_available():
        raise InputError("transformers' Trainer needs accelerate, which is not installed; install it: pip install -e .[bench]")

    class Turns(TrainerCallback):
        """Tells the pacer where the training stands."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            pacer.training_begins()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            pacer.step_done()

    class Losses(Trainer):
        """The Trainer, telling its losses."""

        def training_step(self, *arguments: Any, **options: Any) -> Any:
            loss = super().training_step(*arguments, **options)
            pacer.loss_made(loss.detach())
            return loss

    transformers_logging.set_verbosity_error()
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=shape.batch_size,
            use_cpu=device == "cpu",
            bf16=bf16,
            torch_compile=compile,
            report_to="none",
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        )
        model = GPT2LMHeadModel(stock_config(shape))
        trainer = Losses(model, settings, train_dataset=LabelledSequences(source), callbacks=[Turns()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def stock_config(shape: Shape) -> Any:
    """transformers' configuration of this shape, without dropout."""
    from transformers import GPT2Config

    no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    return GPT2Config(**shape.model, **no_dropout, bos_token_id=None, eos_token_id=None)


class LabelledSequences(Dataset[dict[str, Any]]):
    """Sequences as transformers' models take them: they shift the labels themselves."""

    def __init__(self, source: SequenceSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        ids = self.source.get(0, index).input_ids
        return {"input_ids": ids, "labels": ids}


OURS, MUON, LEARNED = "ours", "ours, muon", "ours, learned positions"
FLOAT32_COMPILED = "transformers, compiled"
TRAININGS = {
    OURS: fit_ours,
    MUON: functools.partial(fit_ours, optimizer="muon"),
    LEARNED: functools.partial(fit_ours, learned_positions=True),
    "transformers": fit_transformers,
    FLOAT32_COMPILED: functools.partial(fit_transformers, compile=True),
    "transformers, bf16": functools.partial(fit_transformers, bf16=True),
    "transformers, bf16, compiled": functools.partial(fit_transformers, bf16=True, compile=True),
}


def usual_trainings(device: str) -> list[str]:
    """Those that are compared by default: in float32 and bfloat16, or where a CPU has no bfloat16 in float32 alone."""
    from rope_gpt2.training.precision import has_bfloat16

    if device == "cuda" or has_bfloat16():
        return [name for name in TRAININGS if name != FLOAT32_COMPILED]
    return [name for name in TRAININGS if "bf16" not in name]
