"""Conditions → groups: the seeds and orders of one setting, whose results are one figure with its spread.

Let C be conditions, n queries, D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS, SELECTIONS, Condition


@dataclass(frozen=True, slots=True)
class Setting:
    """All of a condition but its seed and order.

    Attributes:
        shots, demonstration_labels, selection, template: as in `Condition`.
        label_words: joined by `join_words`.
    """

    shots: int
    demonstration_labels: str
    selection: str
    template: str
    label_words: str


@dataclass(frozen=True, slots=True)
class Group:
    """The conditions of one setting.

    Attributes:
        setting: what they share.
        members: a tuple for each seed, ascending, of the indices (into the run's conditions) of its orders, ascending.
    """

    setting: Setting
    members: tuple[tuple[int, ...], ...]

    @property
    def indices(self) -> list[int]:
        """All of its conditions."""
        return [index for orders in self.members for index in orders]

    def by_seed(self, values: NDArray) -> NDArray[np.float64]:
        """[C] → [seeds]: mean over the orders of each seed."""
        return np.array([values[list(orders)].mean(dtype=np.float64) for orders in self.members])

    def draws(self, right: NDArray) -> NDArray[np.float32]:
        """[C, n] → [D, n]: each seed's mean over its orders; with a single seed, each order."""
        if len(self.members) == 1:
            return right[list(self.members[0])].astype(np.float32)
        return np.stack([right[list(orders)].mean(axis=0, dtype=np.float32) for orders in self.members])


def join_words(words: Sequence[str]) -> str:
    r"""Label words as one, for tables and sentences: joined by "/", with "\" before a "/" or "\" of their own, so that no two are alike.

    >>> join_words(("bad", "good")), join_words(("a/b", "c")) == join_words(("a", "b/c"))
    ('bad/good', False)
    """
    return "/".join(word.replace("\\", "\\\\").replace("/", "\\/") for word in words)


def setting_of(condition: Condition) -> Setting:
    """What a condition shares with its other seeds and orders."""
    words = join_words(condition.label_words)
    return Setting(condition.shots, condition.demonstration_labels, condition.selection, condition.template, words)


def group_conditions(conditions: Sequence[Condition]) -> list[Group]:
    """The groups of a run, in the order of layouts (as they first occur), selections, demonstration labels and shots."""
    found: dict[Setting, dict[int, dict[int, int]]] = {}
    for index, condition in enumerate(conditions):
        found.setdefault(setting_of(condition), {}).setdefault(condition.demonstration_seed, {})[condition.order] = index
    layouts = list(dict.fromkeys((setting.template, setting.label_words) for setting in found))

    def rank(setting: Setting) -> tuple[int, int, int, int]:
        layout = layouts.index((setting.template, setting.label_words))
        return layout, SELECTIONS.index(setting.selection), DEMONSTRATION_LABELS.index(setting.demonstration_labels), setting.shots

    return [
        Group(setting, tuple(tuple(index for _, index in sorted(orders.items())) for _, orders in sorted(found[setting].items())))
        for setting in sorted(found, key=rank)
    ]


def paired_draws(a: Group, right_a: NDArray, b: Group, right_b: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The draws of two groups, paired: by seed where either has several, else by order; a group that has one stands against all.

    Args:
        a, b: groups, of one run or of two.
        right_a, right_b: [C, n] whether each prediction of their run is right; the same n queries.

    Returns:
        [D, n] or [1, n] each; where the numbers of draws differ, the first of the larger.
    """
    seeds = max(len(a.members), len(b.members)) > 1
    draws_a, draws_b = (
        draws.mean(axis=0, keepdims=True) if seeds and len(group.members) == 1 else draws
        for group, draws in ((a, a.draws(right_a)), (b, b.draws(right_b)))
    )
    if 1 < len(draws_a) != len(draws_b) > 1:
        fewer = min(len(draws_a), len(draws_b))
        return draws_a[:fewer], draws_b[:fewer]
    return draws_a, draws_b
