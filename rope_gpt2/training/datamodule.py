"""SentimentDataModule: training episodes and few-shot prompts from CSVs of `review,sentiment`."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from rope_gpt2.corpus.documents import Reading
from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.corpus.token_cache import known_revisions, open_or_build
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import Item, PromptBatch
from rope_gpt2.fewshot.conditions import expand_grid
from rope_gpt2.fewshot.content_free import content_free_inputs
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.episodes import EpisodeOptions, Episodes
from rope_gpt2.fewshot.examples import Example, ExampleFile, read_examples
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.splits import drop_same_texts, hold_out
from rope_gpt2.fewshot.sst2 import resolve_data
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.sequences import Mixture, SequenceSource
from rope_gpt2.training.loaders import PromptBatches, PromptPlan, SequenceLoader
from rope_gpt2.training.tokenized_datamodule import TokenizedDataModule

WINDOW_ROWS = 2048  # queries that are tokenized, sorted by length and written to disk together
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65_536


class SentimentDataModule(TokenizedDataModule):
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
        orders: how many orders of each draw of demonstrations.
        demonstration_labels: labels that the demonstrations show: "gold", "random", "flipped" or "none".
        selection: "balanced", "random" or "similar" demonstrations.
        template: layout with {text} and {label}.
        label_words: words for negative and positive.
        batch_size: sequences in a training step, on each device.
        more_train: CSVs that are trained on beside `train`, as they are; nothing is held out of them or drawn from them for prompts.
        min_words: shortest review that is trained on, in words.
        episode_templates: layouts of training episodes, dealt out evenly; None for `template`.
        episode_balance: share, in [0, 1], of training sequences with an uneven number of positive and negative reviews.
        episode_shots: demonstrations before the last label of a training episode, at most; 0 for as many as fit.
        random_words: share, in [0, 1], of training episodes whose two label words are drawn for them (symbol tuning).
        random_words_pool: draw from the most frequent words alone, this many; 0 for all.
        held_out_words: words that are never drawn, so that evaluations can use them.
        flipped: share, in [0, 1], of training episodes with the usual label words exchanged.
        text: plain text (files, or data sets of the hub) that is strewn among the episodes, as in CorpusDataModule.
        text_share: of the text among the training sequences, in [0, 1).
        text_drop: regular expressions whose matches are cut out of every document of the text.
        cache_dir: where the tokens of the text are kept.
        eval_batch_tokens: tokens of queries in a batch of prompts, on each device; 0 for what suits the device.
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
        orders: int = 1,
        demonstration_labels: str = "gold",
        selection: str = "balanced",
        template: str = DEFAULT_TEMPLATE,
        label_words: list[str] | None = None,
        batch_size: int = 16,
        more_train: list[str] | None = None,
        min_words: int = 0,
        episode_templates: list[str] | None = None,
        episode_balance: float = 0.0,
        episode_shots: int = 0,
        random_words: float = 0.0,
        random_words_pool: int = 0,
        held_out_words: list[str] | None = None,
        flipped: float = 0.0,
        text: list[str] | str | None = None,
        text_share: float = 0.5,
        text_drop: list[str] | None = None,
        cache_dir: str = "data/cache",
        eval_batch_tokens: int = 0,
        order_seed: int = 0,
        limit: int = 0,
        clean_html: bool | None = None,
        trim_queries: bool = False,
    ) -> None:
        super().__init__(tokenizer, normalize, max_length)
        self.options = {"train": train, "validation": validation, "test": test, "predict": predict, "pool": pool}
        self.holdout = holdout
        self.template = Template(template)
        self.verbalizer = Verbalizer() if label_words is None else Verbalizer(tuple(label_words))
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}; give a larger number")
        if eval_batch_tokens < 0:
            raise InputError(f"eval_batch_tokens must be 0 (chosen by the device) or more, got {eval_batch_tokens}; give another number")
        all_shots = [shots] if isinstance(shots, int) else shots
        words = self.verbalizer.words
        self.conditions = expand_grid(all_shots, seeds, orders, [demonstration_labels], [selection], [template], [words])
        self.content_free_kinds: tuple[str, ...] = ()
        self.channel = False
        self.processes: int | None = None  # where prompts are planned before there is a trainer
        self.is_done: Callable[[Item], bool] | None = None
        if not 0 <= text_share < 1:
            raise InputError(f"text_share must lie in [0, 1), got {text_share}; give another number")
        self.episode_options = EpisodeOptions(
            templates=tuple(episode_templates or ()),
            balance=episode_balance,
            max_shots=episode_shots,
            random_words=random_words,
            random_words_pool=random_words_pool,
            held_out_words=tuple(held_out_words or ()),
            flipped=flipped,
        )
        self.more_train, self.min_words = more_train or [], min_words
        self.text = [text] if isinstance(text, str) else text or []
        self.text_share, self.text_drop, self.cache_dir = text_share if self.text else 0.0, tuple(text_drop or ()), Path(cache_dir)
        self.batch_size, self.eval_batch_tokens, self.order_seed, self.limit = batch_size, eval_batch_tokens, order_seed, limit
        self.clean_html, self.trim_queries = clean_html, trim_queries
        self._plan: tuple[str, PromptPlan] | None = None
        self._files: dict[Path, list[Example]] = {}
        self._queries: dict[Path, ExampleFile] = {}

    # Files

    def prepare_data(self) -> None:
        """Fetch what is missing and read every file that this stage needs, so that bad input ends the run before it writes."""
        stage = "fit" if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        if self._plan is not None and self._plan[0] == stage:
            return
        if stage == "fit":
            self._training_split()
        pool = Pool(self._prompt_files(stage)[3])
        for condition in self.conditions:
            DemonstrationSampler(pool, condition)

    def setup(self, stage: str) -> None:
        """For fit: have the tokenizer, the same on every process."""
        if stage == "fit":
            self._make_tokenizer()

    # Loaders: built after a checkpoint has been restored, with its tokenizer

    def train_dataloader(self) -> "SequenceLoader":
        """Episodes, in an order that depends on the seed and the epoch alone."""
        examples, held_out = self._training_split()
        for name in self.more_train:
            examples = examples + drop_same_texts(read_examples(Path(name), self.clean_html), [*held_out, *self._evaluated()])
        if self.min_words:
            examples = [example for example in examples if len(example.review.split()) >= self.min_words]
            if not examples:
                raise InputError(f"no training review has the {self.min_words} words of data.min_words; lower it")
        tokenizer, context = self._make_tokenizer(), self._context()
        episodes = Episodes(examples, tokenizer, self.template, self.verbalizer, context, self.order_seed, self.episode_options)
        source: SequenceSource = episodes
        if self.text_share:
            source = Mixture(episodes, self._packed_text(tokenizer, context), self.text_share, self.order_seed)
        left_out = f", {episodes.left_out} too long and left out" if episodes.left_out else ""
        text = f", {len(source) - len(episodes)} of text" if self.text_share else ""
        sequences = f"{len(episodes)} sequences of episodes{text}, {source.num_tokens} tokens an epoch"
        rank_zero_info(f"Training on {len(examples)} reviews{left_out}: {sequences}")
        rank, world = self._process()
        return SequenceLoader(source, self.batch_size, rank, world, self._batches_trained)

    def val_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the validation examples."""
        return self._prompt_loader("validate")

    def test_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the test examples."""
        return self._prompt_loader("test")

    def predict_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the examples to predict."""
        return self._prompt_loader("predict")

    def _packed_text(self, tokenizer: PreTrainedTokenizerBase, context: int) -> PackedDocuments:
        """The text that is strewn among the episodes; documents that overlap with evaluated reviews are left out."""
        revisions = known_revisions(self.cache_dir)
        evaluated = [str(path) for path in self._evaluated_files()]
        exclude = find_sources(evaluated, revisions) if evaluated else []
        stream = DocumentStream(find_sources(self.text, revisions), Reading(drop=self.text_drop), exclude, Reading(column="review"))
        cache = open_or_build(stream, tokenizer, self.cache_dir)
        return PackedDocuments(cache, np.arange(len(cache)), context, self.order_seed)

    def _evaluated_files(self) -> list[Path]:
        """Files of reviews that no training text may hold."""
        train, validation, test = (self.options[name] for name in ("train", "validation", "test"))
        names = [name for name in (validation, test) if name is not None]
        if test is None and train == "sst2":
            names.append("sst2")
        return [resolve_data(name, "validation") for name in names]

    def _evaluated(self) -> list[Example]:
        return [example for path in self._evaluated_files() for example in self._read(str(path), "validation")[1]]

    def _read(self, name: str, split: str) -> tuple[Path, list[Example]]:
        path = resolve_data(name, split)
        if path not in self._files:
            self._files[path] = read_examples(path, self.clean_html)
        return path, self._files[path]

    def _training_split(self) -> tuple[list[Example], list[Example]]:
        """Training examples and those held out (none with a validation CSV), without any text of an evaluated file."""
        train, validation = self.options["train"], self.options["validation"]
        train_path, examples = self._read(str(train), "train")
        held_out: list[Example] = []
        for path in self._evaluated_files():
            if path.resolve() != train_path.resolve():
                examples = drop_same_texts(examples, self._read(str(path), "validation")[1])
            elif validation is not None and path == resolve_data(validation, "validation"):
                raise InputError(f"{path}: is both training and validation file; leave data.validation out, and reviews are held out")
        if self.options["validation"] is None:
            examples, held_out = hold_out(examples, self.holdout, self.order_seed)
        return examples, held_out

    def _prompt_files(self, stage: str) -> tuple[Path | None, "list[Example] | ExampleFile", Path | None, list[Example]]:
        """(query file, queries, pool file, pool); a file is None for a split of the training file."""
        options = self.options
        query_file: Path | None = None
        queries: list[Example] | ExampleFile
        pool: list[Example] = []  # where nothing is drawn from it
        pool_file: Path | None = None
        if stage in ("fit", "validate"):
            if options["validation"] is None:
                queries = self._training_split()[1]
            else:
                query_file, queries = self._read(options["validation"], "validation")
        else:
            name = (options["predict"] if stage == "predict" else None) or options["test"] or "sst2"
            query_file = resolve_data(name, "validation")
            if query_file not in self._queries:
                self._queries[query_file] = ExampleFile(query_file, self.clean_html, self.limit)
            queries = self._queries[query_file]
        if any(condition.shots for condition in self.conditions) or "domain" in self.content_free_kinds:
            if options["pool"] is not None:
                pool_file, pool = self._read(options["pool"], "train")
            else:
                pool = self._training_split()[0]
        return query_file, queries if isinstance(queries, ExampleFile) else queries[: self.limit or None], pool_file, pool

    def _learn_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        examples, _ = self._training_split()
        words = self.verbalizer.word
        texts = (self.template.demonstration(item.review, words(item.sentiment)) + self.template.separator for item in examples)
        return train_tokenizer(texts, vocab_size, self.normalize)

    def plan_prompts(self, stage: str) -> PromptPlan:
        """What a stage scores; demonstrations are drawn, queries are read as they are needed."""
        if self._plan is not None and self._plan[0] == stage:
            return self._plan[1]
        query_file, queries, pool_file, examples = self._prompt_files(stage)
        tokenizer, context = self._make_tokenizer(), self._context()
        pool = Pool(examples)
        builders: dict[tuple[str, tuple[str, ...]], PromptBuilder] = {}
        alone, later = any(not condition.shots for condition in self.conditions), any(condition.shots for condition in self.conditions)
        for condition in self.conditions:
            layout = (condition.template, condition.label_words)
            if layout not in builders:
                parts = (Template(condition.template), Verbalizer(condition.label_words), context)
                builders[layout] = PromptBuilder(tokenizer, *parts, self.trim_queries, self.channel, alone, later)
        plan = PromptPlan(
            queries=queries,
            conditions=self.conditions,
            samplers=[DemonstrationSampler(pool, condition) for condition in self.conditions],
            builders=[builders[condition.template, condition.label_words] for condition in self.conditions],
            from_pool=query_file is not None and pool_file is not None and query_file.resolve() == pool_file.resolve(),
            content_free=content_free_inputs(self.content_free_kinds, examples),
            # every process gets a window
            window_rows=max(1, min(WINDOW_ROWS, len(queries) // (self.processes or self._process()[1]))),
            batch_tokens=self.eval_batch_tokens or _batch_tokens(self.trainer),
        )
        self._plan = (stage, plan)
        return plan

    def _prompt_loader(self, stage: str) -> "DataLoader[PromptBatch]":
        plan = self.plan_prompts(stage)
        rank, world = self._process()
        if len(plan.queries) < world:
            raise InputError(f"{len(plan.queries)} reviews are too few for {world} processes; take fewer with --trainer.devices")
        return DataLoader(PromptBatches(plan, rank, world, self.is_done), batch_size=None)


def _batch_tokens(trainer: L.Trainer | None) -> int:
    """Tokens of queries in a batch: on a CPU what its caches hold; on a GPU what fills it. Memory that runs out halves a batch."""
    on_cpu = trainer is None or trainer.strategy.root_device.type == "cpu"
    return CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS
