"""What is held fixed while all queries are scored, and the grid of all that one run scores.

A *condition* fixes the demonstrations (how many, which draw, which order, under which labels) and how they are laid out (template, label
words). Two conditions whose prompts would be the same are one: without demonstrations neither seed, order, labels nor selection matter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import factorial

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE

SELECTIONS = ("balanced", "random", "similar")
DEMONSTRATION_LABELS = ("gold", "random", "flipped", "none")
MAX_ORDERS = 24  # all orders of 4 demonstrations


@dataclass(frozen=True, slots=True)
class Condition:
    """What is held fixed while all queries are scored.

    Attributes:
        shots: number of demonstrations, 0 for none.
        demonstration_seed: which draw of demonstrations (and of random labels).
        order: which order of these demonstrations in the prompt, from 0.
        demonstration_labels: "gold"; "random" draws each label anew; "flipped" shows the other one; "none" shows the reviews alone
            (Min et al. 2022, "Rethinking the role of demonstrations").
        selection: "balanced" (equal label counts; an odd one goes to a label chosen by the seed), "random", or "similar" (those nearest
            to each query by TF-IDF, so that every query has demonstrations of its own).
        template: layout with {text} and {label}.
        label_words: the words for `LABELS`.
    """

    shots: int
    demonstration_seed: int = 0
    order: int = 0
    demonstration_labels: str = "gold"
    selection: str = "balanced"
    template: str = DEFAULT_TEMPLATE
    label_words: tuple[str, ...] = LABELS

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise InputError(f"shots must be 0 or more, got {self.shots}; give how many demonstrations a prompt holds")
        for name, value, known in (
            ("selection", self.selection, SELECTIONS),
            ("demonstration labels", self.demonstration_labels, DEMONSTRATION_LABELS),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}; choose one of them")


def count_orders(orders: int | str, shots: int) -> int:
    """How many orders of so many demonstrations are scored: as many as asked for, or there are; "all" are 24 at most.

    >>> count_orders("all", 3), count_orders("all", 16), count_orders(5, 2), count_orders(5, 16)
    (6, 24, 2, 5)
    """
    wanted = MAX_ORDERS if orders == "all" else int(orders)
    if wanted < 1:
        raise InputError(f"orders must be at least 1, or 'all', got {orders}; give another number")
    return min(wanted, factorial(min(max(shots, 0), 10)))


def expand_grid(
    shots: Iterable[int],
    seeds: int = 1,
    orders: int | str = 1,
    demonstration_labels: Iterable[str] = ("gold",),
    selections: Iterable[str] = ("balanced",),
    templates: Iterable[str] = (DEFAULT_TEMPLATE,),
    label_words: Iterable[Sequence[str]] = (LABELS,),
) -> list[Condition]:
    """Every combination, each once; what would give the same prompts is scored once.

    Args:
        shots: numbers of demonstrations.
        seeds: how many demonstration seeds, 0 up to this number.
        orders: how many orders of each draw, or "all" (24 at most).
        demonstration_labels, selections, templates, label_words: as in `Condition`.
    """
    if seeds < 1:
        raise InputError(f"seeds must be at least 1, got {seeds}; give a larger number")
    conditions: dict[Condition, None] = {}
    layouts = list(product(templates, [tuple(words) for words in label_words]))
    for (template, words), selection, labels, count in product(layouts, selections, demonstration_labels, shots):
        for seed in range(seeds):
            for order in range(count_orders(orders, count)):
                condition = Condition(count, seed, order, labels, selection, template, words)
                conditions[_canonical(condition)] = None
    return list(conditions)


def _canonical(condition: Condition) -> Condition:
    """The first of the conditions that give the same prompts."""
    if condition.shots == 0:
        return Condition(0, template=condition.template, label_words=condition.label_words)
    if condition.selection == "similar" and condition.demonstration_labels != "random":  # no draw depends on the seed
        return replace(condition, demonstration_seed=0)
    return condition
