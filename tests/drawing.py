"""A pool of reviews and draws from it."""

from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS, Example

STRANGER = Example(10_000, "A review from elsewhere.", "positive")


def make_pool(size: int) -> list[Example]:
    return [Example(row, f"review number {row}", LABELS[row % 2]) for row in range(1, size + 1)]


def draw(pool, shots, seed, selection="balanced", query=STRANGER, from_pool=False, **changes):
    return DemonstrationSampler(Pool(pool), Condition(shots, seed, selection=selection, **changes)).sample(query, from_pool)


def rows(demonstrations) -> list[int]:
    return [item.row for item in demonstrations]
