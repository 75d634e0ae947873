"""What the data module hands to Lightning: prompt batches of one process, and training sequences that can be resumed."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from rope_gpt2.fewshot.batches import Item, PromptBatch, collate_prompts, group_prompts
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.content_free import ContentFree
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler
from rope_gpt2.fewshot.examples import Example, ExampleFile
from rope_gpt2.fewshot.prompts import EncodedQuery, PromptBuilder
from rope_gpt2.sequences import SequenceBatch, SequenceSource, TrainingSequence, collate_sequences


@dataclass(frozen=True)
class PromptPlan:
    """What one run scores.

    Attributes:
        queries: what is judged; iterated anew for every pass.
        conditions: the grid.
        samplers: the demonstrations of each condition.
        builders: the layout of each condition; conditions of one layout share theirs.
        from_pool: whether queries are rows of the pool's own file.
        content_free: scored with the first window under every condition.
        window_rows: queries in a window.
        batch_tokens: tokens of queries in a batch, padding included, at most.
    """

    queries: Sequence[Example] | ExampleFile
    conditions: Sequence[Condition]
    samplers: Sequence[DemonstrationSampler]
    builders: Sequence[PromptBuilder]
    from_pool: bool
    content_free: Sequence[ContentFree]
    window_rows: int
    batch_tokens: int
    _encoded: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_windows(self) -> int:
        """Pieces of the queries."""
        return -(-len(self.queries) // self.window_rows)

    @property
    def num_prompts(self) -> int:
        """Prompts of all conditions, content-free inputs among them."""
        free = sum(len(self.content_free) for builder in self.builders if not builder.channel)
        return len(self.queries) * len(self.conditions) + free

    def num_done(self, is_done: Callable[[Item], bool]) -> int:
        """Prompts of the pieces of work that are done."""
        sizes = [min(self.window_rows, len(self.queries) - window * self.window_rows) for window in range(self.num_windows)]
        items = ((size, Item(window, condition)) for window, size in enumerate(sizes) for condition in range(len(self.conditions)))
        return sum(size + (len(self.content_free) if item.window == 0 else 0) for size, item in items if is_done(item))

    def windows(self) -> Iterator[list[Example]]:
        """The queries, piece by piece."""
        queries = iter(self.queries)
        while window := list(itertools.islice(queries, self.window_rows)):
            yield window

    def encode(self, window: int, queries: Sequence[Example], builder: PromptBuilder) -> list[EncodedQuery]:
        """Tokenize a window, once for all conditions of a layout; the last window stays in memory."""
        if self._encoded.get("window") != window:
            self._encoded.clear()
            self._encoded["window"] = window
        if builder not in self._encoded:
            free = self.content_free if window == 0 and not builder.channel else ()
            self._encoded[builder] = builder.encode(queries) + builder.encode_content_free(free)
        return self._encoded[builder]

    def check(self) -> None:
        """Refuse a query that cannot fit, before anything is written.

        Raises:
            InputError: for the first such query.
        """
        for window, queries in enumerate(self.windows()):
            for builder in dict.fromkeys(self.builders):
                self.encode(window, queries, builder)


class PromptBatches(IterableDataset[PromptBatch]):
    """The prompt batches of one process, window by window and condition by condition.

    Iterable, so that Lightning adds no sampler that would repeat rows, and memory stays flat however many rows there are.

    Args:
        plan: what is scored.
        rank, world: which process this is, of how many; it takes every world-th window.
        is_done: tells whether a piece of work was done before.
    """

    def __init__(self, plan: PromptPlan, rank: int = 0, world: int = 1, is_done: Callable[[Item], bool] | None = None) -> None:
        self.plan, self.rank, self.world, self.is_done = plan, rank, world, is_done

    def __iter__(self) -> Iterator[PromptBatch]:
        plan = self.plan
        for window, queries in enumerate(plan.windows()):
            if window % self.world != self.rank:
                continue
            for condition, (sampler, builder) in enumerate(zip(plan.samplers, plan.builders, strict=True)):
                item = Item(window, condition)
                if self.is_done is not None and self.is_done(item):
                    continue
                prompts = builder.build(sampler, plan.encode(window, queries, builder), plan.from_pool)
                groups = group_prompts(prompts, plan.batch_tokens, builder.channel)
                for place, group in enumerate(groups, start=1):
                    heads = builder.heads(group.prompts[0])
                    yield collate_prompts(group, builder.label_token_ids, heads, item, place == len(groups), builder.verbalizer)


class SequenceDataset(Dataset[TrainingSequence]):
    """Training sequences by (epoch, index)."""

    def __init__(self, source: SequenceSource) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: tuple[int, int]) -> TrainingSequence:
        return self.source.get(*place)


class SequenceLoader(DataLoader[Any]):
    """Batches of sequences, resumable in the middle of an epoch and at its end.

    Args:
        source: what to serve.
        batch_size: sequences in a batch.
        rank, world: which process this is, of how many.
        reached: batches in an epoch → (epoch, batches of it that were trained on); an epoch begins after them. Without it the epoch is the
            sampler's, which Lightning sets.
    """

    def __init__(
        self,
        source: SequenceSource,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        reached: Callable[[int], tuple[int, int]] | None = None,
    ) -> None:
        dataset = SequenceDataset(source)
        # a remainder smaller than a batch would weigh its examples more, so it is dropped; the next epoch shuffles anew
        sampler: DistributedSampler[Any] = DistributedSampler(
            dataset, num_replicas=world, rank=rank, shuffle=False, drop_last=len(dataset) >= world
        )
        drop_last = len(sampler) >= batch_size
        super().__init__(dataset, batch_size, sampler=sampler, collate_fn=collate_sequences, drop_last=drop_last)
        self._reached = reached

    def __iter__(self) -> Iterator[SequenceBatch]:  # type: ignore[override]
        epoch, trained = self._place()
        indices: Any
        for indices in itertools.islice(self.batch_sampler or (), trained, None):
            yield collate_sequences([self.dataset[epoch, index] for index in indices])

    def _place(self) -> tuple[int, int]:
        if self._reached is not None:
            return self._reached(len(self))
        sampler: Any = self.sampler
        return sampler.epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader can be resumed."""
        return {"trained": self._place()[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: Lightning's own progress, restored by then, is where the next epoch begins.

        This call cannot be relied on: where the length of the schedule was asked for, Lightning has set its loader up before it
        reads the checkpoint, and does not call this.
        """
