"""SentimentDataModule: training episodes and few-shot prompts from CSVs of `review,sentiment`."""

from collections.abc import Callable
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import Item, PromptBatch
from rope_gpt2.fewshot.conditions import expand_grid
from rope_gpt2.fewshot.content_free import content_free_inputs
from rope_gpt2.fewshot.demonstrations import Pool, make_samplers
from rope_gpt2.fewshot.episodes import EpisodeOptions
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import tokenizer_from_json, tokenizer_to_json, train_tokenizer
from rope_gpt2.training.loaders import PromptBatches, PromptPlan, SequenceLoader
from rope_gpt2.training.review_files import ReviewFiles
from rope_gpt2.training.run_checkpoints import say
from rope_gpt2.training.tokenized_datamodule import TokenizedDataModule
from rope_gpt2.training.training_sequences import TrainingRecipe, TrainingSequences

WINDOW_ROWS = 2048  # queries that are tokenized, sorted by length and written to disk together
CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 2048, 65_536


class SentimentDataModule(TokenizedDataModule):
    """Serves episodes for fit, and prompts for validate, test and predict.

    Args:
        train: CSV to train on, or "sst2".
        validation: CSV that chooses checkpoints; None holds out reviews of `train`, and what overlaps with them leaves training.
        test: CSV for `test`; None for SST-2's validation set. Its texts never stand in training, unless it is the file of `train` itself
            (SST-2's where it is on disk: to train on another file fetches nothing), its labels are never looked at.
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
        more_train: CSVs that are trained on beside `train`; nothing is held out of them or drawn from them for prompts, and reviews that
            equal or contain a held-out or evaluated one, or share ten words in a row with one, are left out.
        soft_labels: the column `confidence` of `more_train`, as `rope-gpt2 words` and `label` write it, is the probability of the label as
            a target, the rest that of the other one; otherwise each label is certain. Label words must be one token each.
        min_words: shortest review that is trained on, in words.
        episode_templates: layouts of training episodes, dealt out evenly; None for `template`.
        episode_balance: share, in [0, 1], of training sequences with an uneven number of positive and negative reviews.
        episode_shots: demonstrations before the last label of a training episode, at most; 0 for as many as fit.
        random_words: share, in [0, 1], of training episodes whose two label words are drawn for them (symbol tuning).
        random_words_pool: draw from the most frequent words alone, this many; 0 for all.
        held_out_words: words that are never drawn, so that evaluations can use them.
        flipped: share, in [0, 1], of training episodes with the usual label words exchanged.
        text: plain text (files, or data sets of the hub) that is strewn among the episodes, as in CorpusDataModule; documents are left
            out as reviews of `more_train` are.
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
        soft_labels: bool = False,
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
        names = {"train": train, "validation": validation, "test": test, "predict": predict, "pool": pool}
        self.files = ReviewFiles(names, holdout, order_seed, limit, clean_html)
        self.template = Template(template)
        self.verbalizer = Verbalizer() if label_words is None else Verbalizer(tuple(label_words))
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}; give a larger number")
        if order_seed < 0:
            raise InputError(f"order_seed must be 0 or more, got {order_seed}; give another number")
        if limit < 0:
            raise InputError(f"limit must be 0 (all reviews) or more, got {limit}; give another number")
        if eval_batch_tokens < 0:
            raise InputError(f"eval_batch_tokens must be 0 (chosen by the device) or more, got {eval_batch_tokens}; give another number")
        all_shots = [shots] if isinstance(shots, int) else shots
        words = self.verbalizer.words
        self.conditions = expand_grid(all_shots, seeds, orders, [demonstration_labels], [selection], [template], [words])
        self.content_free_kinds: tuple[str, ...] = ()
        self.channel = False
        self.processes: int | None = None  # where prompts are planned before there is a trainer
        self.is_done: Callable[[Item], bool] | None = None
        episodes = EpisodeOptions(
            templates=tuple(episode_templates or ()),
            balance=episode_balance,
            max_shots=episode_shots,
            random_words=random_words,
            random_words_pool=random_words_pool,
            held_out_words=tuple(held_out_words or ()),
            flipped=flipped,
        )
        self.recipe = TrainingRecipe(
            more_train=tuple(more_train or ()),
            soft_labels=soft_labels,
            min_words=min_words,
            episodes=episodes,
            text=(text,) if isinstance(text, str) else tuple(text or ()),
            text_share=text_share,
            text_drop=tuple(text_drop or ()),
            cache_dir=Path(cache_dir),
            seed=order_seed,
            clean_html=clean_html,
        )
        self.batch_size, self.eval_batch_tokens, self.trim_queries = batch_size, eval_batch_tokens, trim_queries
        self._sequences: tuple[tuple[str, int], TrainingSequences] | None = None
        self._plan: tuple[str, PromptPlan] | None = None

    # Files

    def prepare_data(self) -> None:
        """On one process a node: fetch what is missing, read every file that this stage needs and build what is trained on.

        So bad input ends the run before it writes.
        """
        stage = "fit" if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value
        if self._plan is not None and self._plan[0] == stage:
            return
        if stage == "fit":
            self._build_sequences(tokenizer_from_json(self._find_tokenizer()))
        query_file, queries, pool_file, examples = self.files.of_prompts(stage, self._draws)
        make_samplers(Pool(examples), self.conditions, queries, _is_same_file(query_file, pool_file))

    def setup(self, stage: str) -> None:
        """For fit: have the tokenizer, the same on every process."""
        if stage == "fit":
            self._make_tokenizer()

    # Loaders: built after a checkpoint has been restored, with its tokenizer

    def train_dataloader(self) -> "SequenceLoader":
        """Episodes, in an order that depends on the seed and the epoch alone."""
        source, summary = self._build_sequences(self._make_tokenizer())
        rank_zero_info(summary)
        self._tell_of_test()
        rank, world = self._process()
        return SequenceLoader(source, self.batch_size, rank, world, self._reached)

    def val_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the validation examples."""
        return self._prompt_loader("validate")

    def test_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the test examples."""
        self._tell_of_test()
        return self._prompt_loader("test")

    def predict_dataloader(self) -> "DataLoader[PromptBatch]":
        """Prompts of the examples to predict."""
        return self._prompt_loader("predict")

    def _tell_of_test(self) -> None:
        if self.files.tests_on_training_file():
            say("data.test is the training file: `test` tells how well reviews are known that were trained on, and nothing of new ones")

    def _build_sequences(self, tokenizer: PreTrainedTokenizerBase) -> TrainingSequences:
        """What is trained on; built once for a tokenizer and a context."""
        key = (tokenizer_to_json(tokenizer), self._context())
        if self._sequences is None or self._sequences[0] != key:
            examples, held_out = self.files.training_split()
            judged = [example.review for example in (*held_out, *self.files.evaluated())]
            self._sequences = key, self.recipe.build(examples, judged, tokenizer, self.template, self.verbalizer, key[1])
        return self._sequences[1]

    @property
    def _draws(self) -> bool:
        """Whether anything is drawn from a pool."""
        return any(condition.shots for condition in self.conditions) or "domain" in self.content_free_kinds

    def _learn_tokenizer(self, vocab_size: int) -> PreTrainedTokenizerBase:
        examples, _ = self.files.training_split()
        words = self.verbalizer.word
        texts = (self.template.demonstration(item.review, words(item.sentiment)) + self.template.separator for item in examples)
        return train_tokenizer(texts, vocab_size, self.normalize)

    def plan_prompts(self, stage: str) -> PromptPlan:
        """What a stage scores; demonstrations are drawn, queries are read as they are needed."""
        if self._plan is not None and self._plan[0] == stage:
            return self._plan[1]
        query_file, queries, pool_file, examples = self.files.of_prompts(stage, self._draws)
        tokenizer, context = self._make_tokenizer(), self._context()
        from_pool = _is_same_file(query_file, pool_file)
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
            samplers=make_samplers(Pool(examples), self.conditions, queries, from_pool),
            builders=[builders[condition.template, condition.label_words] for condition in self.conditions],
            from_pool=from_pool,
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


def _is_same_file(first: Path | None, second: Path | None) -> bool:
    return first is not None and second is not None and first.resolve() == second.resolve()
