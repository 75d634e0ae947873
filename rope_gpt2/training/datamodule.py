"""SentimentDataModule: training episodes and few-shot prompts from CSVs of `review,sentiment`."""

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import PromptBatch, group_prompts
from rope_gpt2.fewshot.demonstrations import Condition, DemonstrationSampler
from rope_gpt2.fewshot.episodes import Episodes
from rope_gpt2.fewshot.examples import Example, read_examples
from rope_gpt2.fewshot.prompts import Prompt, PromptBuilder
from rope_gpt2.fewshot.splits import drop_same_texts, hold_out
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import load_tokenizer, tokenizer_from_json, tokenizer_to_json, train_tokenizer
from rope_gpt2.training.loaders import EpisodeLoader, PromptBatches


class SentimentDataModule(L.LightningDataModule):
    """Serves episodes for fit, and prompts for validate, test and predict.

    Args:
        train: CSV to train on, or "sst2".
        validation: CSV that chooses checkpoints; None holds out reviews of `train`, and what overlaps with them leaves training.
        test: CSV for `test`; None for SST-2's validation set. Its texts never stand in training, its labels are never looked at.
        predict: CSV for `predict`; None for that of `test`.
        pool: CSV that demonstrations of validate, test and predict are drawn from; None for the training examples.
        holdout: how many reviews to hold out where `validation` is None.
        tokenizer: "train" learns a byte-level BPE on the training examples; else a folder or hub name such as "gpt2".
        normalize: a learned tokenizer brings typed text to the form of SST-2 (lower case, spaced punctuation).
        max_length: tokens in an episode, and in a prompt with its label word; None for the model's n_positions.
        shots: numbers of demonstrations in a prompt.
        seeds: how many demonstration seeds, 0 up to this number.
        selection: "balanced" or "random" demonstrations.
        template: layout with {text} and {label}.
        label_words: words for negative and positive.
        batch_size: episodes in a training step, on each device.
        eval_batch_size: prompts in a batch, on each device.
        order_seed: of the order of training examples and of the held-out reviews.
        limit: score the first reviews only, this many; 0 for all.
        clean_html: remove HTML tags; None: in files that have them.
        trim_queries: cut the end of a review that exceeds the context alone, instead of refusing it.
    """

    def __init__(
        self,
        train: str = "sst2",
        validation: str | None = None,
        test: str | None = None,
        predict: str | None = None,
        pool: str | None = None,
        holdout: int = 500,
        tokenizer: str = "train",
        normalize: bool = True,
        max_length: int | None = None,
        shots: list[int] | int = 4,
        seeds: int = 1,
        selection: str = "balanced",
        template: str = DEFAULT_TEMPLATE,
        label_words: list[str] | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        order_seed: int = 0,
        limit: int = 0,
        clean_html: bool | None = None,
        trim_queries: bool = False,
    ) -> None:
        super().__init__()
        self.options = {"train": train, "validation": validation, "test": test, "predict": predict, "pool": pool}
        self.holdout, self.tokenizer_name, self.normalize, self.max_length = holdout, tokenizer, normalize, max_length
        self.template = Template(template)
        self.verbalizer = Verbalizer() if label_words is None else Verbalizer(tuple(label_words))
        for name, value in (("seeds", seeds), ("batch_size", batch_size), ("eval_batch_size", eval_batch_size)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, got {value}; give a larger number")
        all_shots = [shots] if isinstance(shots, int) else shots
        # without demonstrations the prompts of all seeds are the same
        self.conditions = [Condition(count, seed, selection) for count in dict.fromkeys(all_shots) for seed in range(seeds if count else 1)]
        self.batch_size, self.eval_batch_size, self.order_seed, self.limit = batch_size, eval_batch_size, order_seed, limit
        self.clean_html, self.trim_queries = clean_html, trim_queries
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.prompts_dropped = self.prompts_trimmed = self.demonstrations_dropped = 0
        self._prompts: dict[str, list[Prompt]] = {}
        self._files: dict[Path, list[Example]] = {}

    # Files

    def prepare_data(self) -> None:
        """Fetch what is missing and read every file that this stage needs, so that bad input ends the run before it writes."""
        stage = "fit" if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        if stage == "fit":
            self._training_split()
        pool = self._prompt_files(stage)[3]
        for condition in self.conditions:
            DemonstrationSampler(pool, condition)

    def setup(self, stage: str) -> None:
        """For fit: have the tokenizer, the same on every process."""
        if stage == "fit" and self.tokenizer is None and not (self.trainer is not None and self.trainer.ckpt_path):
            self._make_tokenizer()  # a resumed run takes that of its checkpoint

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, so that a checkpoint is complete."""
        return {} if self.tokenizer is None else {"tokenizer_json": tokenizer_to_json(self.tokenizer)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the tokenizer of a checkpoint."""
        if "tokenizer_json" in state_dict:
            self.tokenizer = tokenizer_from_json(state_dict["tokenizer_json"])

    # Loaders: built after a checkpoint has been restored, with its tokenizer

    def train_dataloader(self) -> "EpisodeLoader":
        """Episodes, in an order that depends on the seed and the epoch alone."""
        examples, _ = self._training_split()
        episodes = Episodes(examples, self._make_tokenizer(), self.template, self.verbalizer, self._context(), seed=self.order_seed)
        left_out = f", {episodes.left_out} too long and left out" if episodes.left_out else ""
        rank_zero_info(f"Training on {len(examples)} reviews{left_out}: {len(episodes)} episodes, {episodes.num_tokens} tokens an epoch")
        rank, world = self._process()
        return EpisodeLoader(episodes, self.batch_size, rank, world, self._batches_trained)

    def val_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the validation examples."""
        return self._prompt_loader("validate")

    def test_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the test examples."""
        return self._prompt_loader("test")

    def predict_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the examples to predict."""
        return self._prompt_loader("predict")

    @property
    def label_token_ids(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of the label words."""
        return self.verbalizer.token_ids(self._make_tokenizer(), self.template)

    def _read(self, name: str, split: str) -> tuple[Path, list[Example]]:
        path = resolve_data(name, split)
        if path not in self._files:
            self._files[path] = read_examples(path, self.clean_html)
        return path, self._files[path]

    def _training_split(self) -> tuple[list[Example], list[Example]]:
        """Training examples and those held out (none with a validation CSV), without any text of an evaluated file."""
        train, validation, test = (self.options[name] for name in ("train", "validation", "test"))
        train_path, examples = self._read(str(train), "train")
        held_out: list[Example] = []
        evaluated = [name for name in (validation, test) if name is not None]
        if test is None and train == "sst2":
            evaluated.append("sst2")
        for name in evaluated:
            path, others = self._read(name, "validation")
            if path.resolve() != train_path.resolve():
                examples = drop_same_texts(examples, others)
            elif name == validation:
                raise InputError(f"{path}: is both training and validation file; leave data.validation out, and reviews are held out")
        if self.options["validation"] is None:
            examples, held_out = hold_out(examples, self.holdout, self.order_seed)
        return examples, held_out

    def _prompt_files(self, stage: str) -> tuple[Path | None, list[Example], Path | None, list[Example]]:
        """(query file, queries, pool file, pool); a file is None for a split of the training file."""
        options = self.options
        query_file: Path | None = None
        if stage in ("fit", "validate"):
            if options["validation"] is None:
                queries = self._training_split()[1]
            else:
                query_file, queries = self._read(options["validation"], "validation")
        else:
            name = (options["predict"] if stage == "predict" else None) or options["test"] or "sst2"
            query_file, queries = self._read(name, "validation")
        if options["pool"] is not None:
            pool_file, pool = self._read(options["pool"], "train")
        else:
            pool_file, pool = None, self._training_split()[0]
        return query_file, queries[: self.limit or None], pool_file, pool

    def _make_tokenizer(self) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            if self.tokenizer_name != "train":
                self.tokenizer = load_tokenizer(self.tokenizer_name)
                return self.tokenizer
            text = ""
            if self.trainer is None or self.trainer.is_global_zero:
                examples, _ = self._training_split()
                words = self.verbalizer.word
                texts = (self.template.demonstration(item.review, words(item.sentiment)) + self.template.separator for item in examples)
                size = self.trainer.lightning_module.hparams["vocab_size"] if self.trainer is not None else 8192
                text = tokenizer_to_json(train_tokenizer(texts, size, self.normalize))
            if self.trainer is not None:
                text = self.trainer.strategy.broadcast(text)
            self.tokenizer = tokenizer_from_json(text)
        return self.tokenizer

    def _process(self) -> tuple[int, int]:
        """(rank, number of processes); a data module without a trainer serves everything."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _batches_trained(self) -> int:
        """Batches of the running epoch that the weights have seen."""
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress if self.trainer is not None else None
        return int(progress.current.processed) if progress is not None else 0

    def _context(self) -> int:
        if self.max_length is not None:
            return self.max_length
        return int(self.trainer.lightning_module.hparams["n_positions"]) if self.trainer is not None else 1024

    def build_prompts(self, stage: str) -> list[Prompt]:
        """The prompts of every condition, in the order of conditions and rows."""
        query_file, queries, pool_file, pool = self._prompt_files(stage)
        tokenizer, context = self._make_tokenizer(), self._context()
        from_pool = query_file is not None and pool_file is not None and query_file.resolve() == pool_file.resolve()
        prompts: list[Prompt] = []
        for condition in self.conditions:
            sampler = DemonstrationSampler(pool, condition)
            builder = PromptBuilder(tokenizer, self.template, self.verbalizer, sampler, context, from_pool, self.trim_queries)
            prompts += [builder.build(query) for query in queries]
        self.prompts_dropped = sum(prompt.dropped > 0 for prompt in prompts)
        self.demonstrations_dropped = sum(prompt.dropped for prompt in prompts)
        self.prompts_trimmed = sum(prompt.trimmed for prompt in prompts)
        return prompts

    def prepare_prompts(self, stage: str) -> None:
        """Build the prompts of a stage before its loader asks for them, so that a review that cannot fit is refused early."""
        self._prompts[stage] = self.build_prompts(stage)

    def notes(self) -> list[str]:
        """What was left out of the prompts, a sentence each."""
        notes = []
        if self.prompts_dropped:
            notes.append(
                f"{self.prompts_dropped} prompts exceeded {self._context()} tokens: their {self.demonstrations_dropped} oldest "
                "demonstrations were dropped."
            )
        if self.prompts_trimmed:
            notes.append(f"{self.prompts_trimmed} prompts exceeded {self._context()} tokens alone: their reviews were cut at the end.")
        return notes

    def _prompt_loader(self, stage: str) -> "DataLoader[PromptBatch]":
        prompts = self._prompts.pop(stage, None) or self.build_prompts(stage)
        for note in self.notes():
            rank_zero_info(note)
        rank, world = self._process()
        if len(prompts) < world:
            raise InputError(f"{len(prompts)} prompts are too few for {world} processes; take fewer with --trainer.devices")
        groups = group_prompts(prompts, max(1, min(self.eval_batch_size, len(prompts) // world)))  # every process gets a batch
        tokenizer = self._make_tokenizer()
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return DataLoader(PromptBatches(groups[rank::world], pad), batch_size=None)
