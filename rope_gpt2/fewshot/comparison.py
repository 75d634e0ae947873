"""Two runs on the same reviews → by how much one is better than the other, setting by setting.

Let C be conditions, n queries (of both runs), D draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.cells import predict_calibrated
from rope_gpt2.fewshot.groups import Group, Setting, group_conditions, paired_draws
from rope_gpt2.fewshot.intervals import direction, paired_comparison
from rope_gpt2.fewshot.pairing import differing_factors, pair_settings, share_draws
from rope_gpt2.fewshot.scores import Scores


@dataclass(frozen=True, slots=True)
class SettingComparison:
    """B less A at one setting, on the same reviews.

    Attributes:
        a, b: the setting in each run.
        differs: those of `FACTORS` in which they differ; empty where both runs have the very setting.
        accuracy_a, accuracy_b: means over the draws compared.
        difference, ci95, p_value: accuracy of B less that of A, its 95 % interval, and the two-sided p-value on its own; see
            `paired_comparison`.
        p_holm: the p-value after Holm's correction over the settings compared.
        n, draws: number of queries, and of paired draws of demonstrations (seeds, or orders of a single seed).
        seeds: number of seeds among these draws; 1 where they are orders of one.
        only_a, only_b: discordant pairs: of the n · draws, those that A (or B) alone has right (where a draw has several orders: in
            more of them).
        smallest_detectable: difference that this comparison, on its own, would have shown in 80 % of cases; 1 where it can show none.
        outcome: "better" or "worse" (B than A) where p_holm is below 0.05 and the interval leaves out 0, else "not shown".
        conditions: number of paired conditions.
        left_out: number of conditions (seeds, orders) of this setting that one run alone has.
        other_demonstrations: number of paired conditions of the same selection that show other demonstrations, or other labels on them.
    """

    a: Setting
    b: Setting
    differs: tuple[str, ...]
    accuracy_a: float
    accuracy_b: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    p_holm: float
    n: int
    draws: int
    seeds: int
    only_a: int
    only_b: int
    smallest_detectable: float
    outcome: str
    conditions: int
    left_out: int
    other_demonstrations: int


@dataclass(frozen=True, slots=True)
class RunComparison:
    """B less A, at every setting that both have.

    Attributes:
        n: number of queries.
        majority_baseline: accuracy of always answering the commoner label.
        calibration: of both runs' scores.
        settings: in the order of A's groups.
        only_a, only_b: settings that have no counterpart.
    """

    n: int
    majority_baseline: float
    calibration: str
    settings: tuple[SettingComparison, ...]
    only_a: tuple[Setting, ...]
    only_b: tuple[Setting, ...]


def compare_scores(a: Scores, b: Scores, calibration: str = "none") -> RunComparison:
    """B less A at every setting that both have.

    Args:
        a, b: scores of the same queries, in the same order (`pair_rows`, `keep_rows`). Batch calibration looks at these queries alone.
        calibration: one of `CALIBRATIONS`.

    Raises:
        InputError: if the queries are not the same, no setting can be paired, or scores do not allow the calibration.
    """
    if not len(a.rows) or not np.array_equal(a.rows, b.rows) or not np.array_equal(a.sentiments, b.sentiments):
        raise InputError(f"a comparison needs the same queries, got {len(a.rows)} and {len(b.rows)} that differ; keep those of both")
    groups_a, groups_b = (group_conditions([scored.condition for scored in scores.conditions]) for scores in (a, b))
    pairs = pair_settings(groups_a, groups_b)
    if not pairs:
        raise InputError(
            f"the two runs have no setting in common (A: {_shots(groups_a)}; B: {_shots(groups_b)}); evaluate one of them with the other's "
            "--shots, --demonstration-labels, --selection, --template and --label-words"
        )
    right_a, right_b = (predict_calibrated(scores, calibration)[0] == scores.sentiments for scores in (a, b))
    compared = [_compare(a, group_a, right_a, b, group_b, right_b) for group_a, group_b in pairs]
    corrected = holm_correction([one.p_value for one in compared])
    paired_a, paired_b = {one.a for one in compared}, {one.b for one in compared}
    return RunComparison(
        n=len(a.rows),
        majority_baseline=float(np.bincount(a.sentiments, minlength=2).max() / len(a.rows)),
        calibration=calibration,
        settings=tuple(replace(one, p_holm=p, outcome=direction(one.ci95, p)) for one, p in zip(compared, corrected, strict=True)),
        only_a=tuple(group.setting for group in groups_a if group.setting not in paired_a),
        only_b=tuple(group.setting for group in groups_b if group.setting not in paired_b),
    )


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """p-values that hold for all of them together (Holm 1979): the smallest times their number m, the next times m - 1, ..., never less
    than the one before, 1 at most.

    >>> [round(p, 3) for p in holm_correction([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]))
    return [float(value) for value in corrected]


def _compare(a: Scores, group_a: Group, right_a: NDArray, b: Scores, group_b: Group, right_b: NDArray) -> SettingComparison:
    """One setting, with its p-value not corrected yet."""
    ours, theirs = share_draws(a, group_a, b, group_b)
    draws_b, draws_a = paired_draws(theirs, right_b, ours, right_a)
    result = paired_comparison(draws_b, draws_a, "B - A")
    return SettingComparison(
        a=group_a.setting,
        b=group_b.setting,
        differs=differing_factors(group_a.setting, group_b.setting),
        accuracy_a=float(draws_a.mean(dtype=np.float64)),
        accuracy_b=float(draws_b.mean(dtype=np.float64)),
        difference=result.difference,
        ci95=result.ci95,
        p_value=result.p_value,
        p_holm=result.p_value,
        n=result.n,
        draws=result.draws,
        seeds=max(len(ours.members), len(theirs.members)),
        only_a=int((draws_a > draws_b).sum()),
        only_b=int((draws_b > draws_a).sum()),
        smallest_detectable=result.smallest_detectable,
        outcome=direction(result.ci95, result.p_value),
        conditions=max(len(ours.indices), len(theirs.indices)),
        left_out=len(group_a.indices) - len(ours.indices) + len(group_b.indices) - len(theirs.indices),
        other_demonstrations=_count_other_demonstrations(a, ours, b, theirs),
    )


def _count_other_demonstrations(a: Scores, group_a: Group, b: Scores, group_b: Group) -> int:
    if group_a.setting.selection != group_b.setting.selection:
        return 0  # they are meant to differ
    return sum(_shown(a, i) != _shown(b, j) for i, j in zip(group_a.indices, group_b.indices, strict=False))


def _shown(scores: Scores, index: int) -> list[tuple[str, str | None]] | None:
    demonstrations = scores.conditions[index].demonstrations
    return None if demonstrations is None else [(item.review, item.shown) for item in demonstrations]


def _shots(groups: Sequence[Group]) -> str:
    by_labels: dict[str, list[str]] = {}
    for group in groups:
        by_labels.setdefault(group.setting.demonstration_labels, []).append(str(group.setting.shots))
    return "; ".join(f"shots {', '.join(dict.fromkeys(shots))} with labels {labels}" for labels, shots in by_labels.items())
