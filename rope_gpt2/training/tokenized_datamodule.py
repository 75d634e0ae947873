"""What data modules share: a tokenizer that every process and every checkpoint has, and where a run stands."""

from abc import abstractmethod
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.model.tokenizer import load_tokenizer, tokenizer_from_json, tokenizer_to_json
from rope_gpt2.training.checkpoints import DATA_MODULES


class TokenizedDataModule(L.LightningDataModule):
    """A data module with a tokenizer: that of the checkpoint that a run goes on from, that of the model it starts from, or its own.

    Args:
        tokenizer: "train" learns one on the training texts; else a folder or hub name such as "gpt2".
        normalize: a learned tokenizer brings typed text to the form of SST-2.
        max_length: tokens in a sequence; None for the model's n_positions.

    Attributes:
        tokenizer: the tokenizer, once it is known.
        ckpt_path: checkpoint that the run goes on from. The command line sets it, for the trainer has no word of it before it restores.
    """

    def __init__(self, tokenizer: str, normalize: bool, max_length: int | None) -> None:
        super().__init__()
        self.tokenizer_name, self.normalize, self.max_length = tokenizer, normalize, max_length
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.ckpt_path: str | None = None
        self._tokenizer_json: str | None = None

    @abstractmethod
    def _learn_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        """Learn a tokenizer on the training texts."""

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, so that a checkpoint is complete."""
        return {} if self.tokenizer is None else {"tokenizer_json": tokenizer_to_json(self.tokenizer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the tokenizer of a checkpoint."""
        if "tokenizer_json" in state_dict:
            self.tokenizer = tokenizer_from_json(state_dict["tokenizer_json"])

    def _make_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, the same on every process; the first time, every process must ask."""
        if self.tokenizer is None:
            text = self._find_tokenizer() if self.trainer is None or self.trainer.is_global_zero else ""
            self.tokenizer = tokenizer_from_json(self._broadcast(text))
        return self.tokenizer

    def _find_tokenizer(self) -> str:
        """The tokenizer as JSON, found or learned by this process alone."""
        if self._tokenizer_json is None:
            given: str | None = None
            if self.trainer is not None:
                path = self.ckpt_path or self.trainer.ckpt_path
                given = _stored_tokenizer(path) or getattr(self.trainer.lightning_module, "tokenizer_json", None)
                if given is not None and self.tokenizer_name != "train":
                    rank_zero_info(f"data.tokenizer {self.tokenizer_name} is not read: the weights to start from bring their own")
            if given is None:
                size = self.trainer.lightning_module.hparams["vocab_size"] if self.trainer is not None else 8192
                learn = self.tokenizer_name == "train"
                tokenizer = self._learn_tokenizer(size) if learn else load_tokenizer(self.tokenizer_name)
                if self.trainer is not None and len(tokenizer) > size:
                    raise InputError(f"the tokenizer has {len(tokenizer)} tokens, the model {size}; raise model.vocab_size")
                given = tokenizer_to_json(tokenizer)
            self._tokenizer_json = given
        return self._tokenizer_json

    def _broadcast(self, value: Any) -> Any:
        """What the first process gave."""
        return value if self.trainer is None else self.trainer.strategy.broadcast(value)

    def _process(self) -> tuple[int, int]:
        """(rank, number of processes); a data module without a trainer serves everything."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _reached(self, batches: int) -> tuple[int, int]:
        """(epoch, batches of it that the weights have seen), by the batches of the whole run.

        Lightning's own count of epochs is one ahead, or begins an epoch in its middle, where a run with `max_steps` goes on from a
        checkpoint that was written at an epoch's end.

        Args:
            batches: in an epoch, of which `trainer.limit_train_batches` may leave some out.
        """
        if self.trainer is None:
            return 0, 0
        loop = self.trainer.fit_loop
        progress: Any = loop.epoch_loop.batch_progress
        return divmod(int(progress.total.processed), max(1, int(min(batches, loop.max_batches))))

    def _context(self) -> int:
        """Tokens in a sequence, at most."""
        options = self.trainer.lightning_module.hparams if self.trainer is not None else {"n_positions": 1024}
        if self.max_length is None:
            return int(options["n_positions"])
        if options.get("position_encoding") == "learned" and self.max_length > options["n_positions"]:
            raise InputError(
                f"data.max_length must be at most {options['n_positions']}, model.n_positions, the length of the learned position table, "
                f"got {self.max_length}; lower the one or raise the other"
            )
        return self.max_length


def _stored_tokenizer(path: Any) -> str | None:
    """The tokenizer in a checkpoint; None where there is no checkpoint, or none of this package.

    Lightning restores it too, but may ask for the training batches before that, to know the length of the schedule.
    """
    if not path:
        return None
    file = Path(path) / "meta.pt" if Path(path).is_dir() else Path(path)  # a sharded checkpoint is a folder
    try:
        checkpoint: dict[str, Any] = torch.load(file, map_location="meta", weights_only=True, mmap=file.suffix == ".ckpt")
    except Exception:  # unpickling raises anything
        return None  # the trainer says what is wrong with it
    return next((checkpoint[name]["tokenizer_json"] for name in DATA_MODULES if name in checkpoint), None)
