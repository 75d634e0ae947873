"""Two runs → what in them belongs together: the same reviews, the same settings, the same draws of demonstrations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.groups import Group, Setting
from rope_gpt2.fewshot.scores import Scores

FACTORS = ("selection", "template", "label_words")  # of a setting, beside shots and demonstration labels


@dataclass(frozen=True, slots=True)
class RowPairs:
    """The reviews of two runs, paired by row and text.

    Attributes:
        a, b: [m] places (not row numbers) of the reviews that both runs hold with the same label, in A's and in B's scores; by row.
        only_a, only_b: number of rows that the other run has not.
        changed: number of rows of both with another text or label.
        first: what is wrong with the first row that differs; empty where none does.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    only_a: int
    only_b: int
    changed: int
    first: str

    @property
    def differing(self) -> int:
        """Rows that cannot be paired."""
        return self.only_a + self.only_b + self.changed


def pair_rows(a: Scores, reviews_a: Mapping[int, str], b: Scores, reviews_b: Mapping[int, str]) -> RowPairs:
    """Which reviews two runs share.

    Args:
        a, b: scores of the runs.
        reviews_a, reviews_b: row → text, of all of their rows.
    """
    rows, in_a, in_b = np.intersect1d(a.rows, b.rows, assume_unique=True, return_indices=True)
    same_text = np.fromiter((reviews_a[row] == reviews_b[row] for row in rows.tolist()), bool, len(rows))
    same = same_text & (a.sentiments[in_a] == b.sentiments[in_b])
    alone = {"A": np.setdiff1d(a.rows, rows, assume_unique=True), "B": np.setdiff1d(b.rows, rows, assume_unique=True)}
    firsts = [(int(some[0]), f"row {some[0]} is in {name} alone") for name, some in alone.items() if len(some)]
    if not same.all():
        place = int(np.argmin(same))
        row = int(rows[place])
        texts = reviews_a[row], reviews_b[row]
        if same_text[place]:
            texts = LABELS[a.sentiments[in_a[place]]], LABELS[b.sentiments[in_b[place]]]
        firsts.append((row, f"row {row} is {_short(texts[0])} in A and {_short(texts[1])} in B"))
    return RowPairs(in_a[same], in_b[same], len(alone["A"]), len(alone["B"]), int((~same).sum()), min(firsts)[1] if firsts else "")


def keep_rows(scores: Scores, places: NDArray[np.int64]) -> Scores:
    """The scores of some queries; no copy where these are all.

    Args:
        scores: of a run.
        places: ascending, into `scores.rows`.
    """
    if len(places) == len(scores.rows):
        return scores
    return replace(
        scores,
        rows=scores.rows[places],
        sentiments=scores.sentiments[places],
        label_logprobs=scores.label_logprobs[:, places],
        generated=None if scores.generated is None else scores.generated[:, places],
    )


def pair_settings(a: Sequence[Group], b: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Groups of two runs that stand against each other: of the same shots and demonstration labels, and of all those of the other run
    each alone is the nearest to the other, by the number of `FACTORS` in which they differ.

    The very same setting is always the nearest. One template in A and another in B are paired; one in A and two others in B are not, as
    it would be a matter of taste which.
    """
    pairs = []
    for ours in a:
        theirs = _nearest(ours, b)
        if theirs is not None and _nearest(theirs, a) is ours:
            pairs.append((ours, theirs))
    return pairs


def share_draws(a: Scores, group_a: Group, b: Scores, group_b: Group) -> tuple[Group, Group]:
    """The two groups without the seeds and orders that the other one has not.

    Demonstrations that no seed draws (selection "similar", with labels that are not random) stand against every draw of another selection:
    nothing goes. A single seed of a selection that is drawn stands against the same seed of the other one alone: it may be a lucky one.

    Args:
        a, b: scores of the runs.
        group_a, group_b: a group of each.
    """
    found_a, found_b = _by_draw(a, group_a), _by_draw(b, group_b)
    shared = sorted(found_a.keys() & found_b.keys())
    if _is_undrawn(group_a) != _is_undrawn(group_b) or not shared:
        return group_a, group_b
    seeds = [list(draws) for _, draws in groupby(shared, key=lambda draw: draw[0])]
    return (
        replace(group_a, members=tuple(tuple(found_a[draw] for draw in draws) for draws in seeds)),
        replace(group_b, members=tuple(tuple(found_b[draw] for draw in draws) for draws in seeds)),
    )


def _is_undrawn(group: Group) -> bool:
    setting = group.setting
    return setting.selection == "similar" and setting.demonstration_labels != "random" and len(group.members) == 1


def _by_draw(scores: Scores, group: Group) -> dict[tuple[int, int], int]:
    """(seed, order) → index of the condition."""
    conditions = ((index, scores.conditions[index].condition) for index in group.indices)
    return {(condition.demonstration_seed, condition.order): index for index, condition in conditions}


def _nearest(group: Group, others: Sequence[Group]) -> Group | None:
    """The one that differs in the fewest factors; None where there are several, or none of these shots and labels."""
    key = (group.setting.shots, group.setting.demonstration_labels)
    alike = [other for other in others if (other.setting.shots, other.setting.demonstration_labels) == key]
    distances = [len(differing_factors(group.setting, other.setting)) for other in alike]
    return alike[distances.index(min(distances))] if distances and distances.count(min(distances)) == 1 else None


def differing_factors(a: Setting, b: Setting) -> tuple[str, ...]:
    """Those of `FACTORS` in which two settings differ."""
    return tuple(name for name in FACTORS if getattr(a, name) != getattr(b, name))


def _short(text: str, limit: int = 40) -> str:
    return repr(text if len(text) <= limit else text[: limit - 3] + "...")
