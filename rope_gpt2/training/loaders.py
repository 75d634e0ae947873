"""What the data module hands to Lightning: prompt batches of one process, and episodes that can be resumed."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from rope_gpt2.fewshot.batches import PromptBatch, collate_prompts
from rope_gpt2.fewshot.episodes import EpisodeBatch, Episodes, collate_episodes
from rope_gpt2.fewshot.prompts import Prompt


class PromptBatches(IterableDataset[PromptBatch]):
    """The prompt batches of one process. Iterable, so that Lightning adds no sampler that would repeat rows."""

    def __init__(self, groups: Sequence[Sequence[Prompt]], pad_token_id: int) -> None:
        self.groups, self.pad_token_id = groups, pad_token_id

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[PromptBatch]:
        return (collate_prompts(group, self.pad_token_id) for group in self.groups)


class EpisodeDataset(Dataset[Any]):
    """Episodes by (epoch, index)."""

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        return self.episodes.get(*place)


class EpisodeSampler(DistributedSampler[Any]):
    """(epoch, index) of the episodes of one process; Lightning sets the epoch and leaves a distributed sampler as it is."""

    def __iter__(self) -> Iterator[Any]:
        return ((self.epoch, index) for index in super().__iter__())


class EpisodeLoader(DataLoader[EpisodeBatch]):
    """Batches of episodes, resumable in the middle of an epoch.

    Args:
        episodes: what to serve.
        batch_size: episodes in a batch.
        rank, world: which process this is, of how many.
        trained: tells how many batches of this epoch were trained on; an epoch begins after them.
    """

    def __init__(self, episodes: Episodes, batch_size: int, rank: int = 0, world: int = 1, trained: Callable[[], int] = int) -> None:
        dataset = EpisodeDataset(episodes)
        # a remainder smaller than a batch would weigh its examples more, so it is dropped; the next epoch shuffles anew
        sampler = EpisodeSampler(dataset, num_replicas=world, rank=rank, shuffle=False, drop_last=len(dataset) >= world)
        drop_last = len(sampler) >= batch_size
        super().__init__(dataset, batch_size, sampler=sampler, collate_fn=collate_episodes, drop_last=drop_last)
        self._trained = trained

    def __iter__(self) -> Iterator[EpisodeBatch]:  # type: ignore[override]
        for places in itertools.islice(self.batch_sampler or (), self._trained() % len(self), None):
            yield collate_episodes([self.dataset[place] for place in places])

    def state_dict(self) -> dict[str, int]:
        """Tells Lightning that this loader can be resumed."""
        return {"trained": self._trained()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Nothing to do: Lightning's own progress, restored by then, is where the next epoch begins.

        This call cannot be relied on: where the length of the schedule was asked for, Lightning has set its loader up before it
        reads the checkpoint, and does not call this.
        """
