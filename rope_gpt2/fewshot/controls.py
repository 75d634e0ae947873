"""Gold labels against the controls → one plain sentence: does this model use its demonstrations, their labels, or neither?

A model trained on labelled reviews has the task in its weights, so an accuracy alone says nothing of the prompt. Two questions, each
answered by paired comparisons on the same rows: gold labels against no demonstrations, and gold labels against wrong ones (random or
flipped; Min et al. 2022, "Rethinking the role of demonstrations").
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.fewshot.groups import Group, paired_draws
from rope_gpt2.fewshot.intervals import Comparison, could_be_shown, crossed_interval, direction, draws_in_words, paired_comparison

_PHRASES = {
    "gold - zero": "against 0 shots",
    "gold - random": "against random labels",
    "gold - flipped": "against flipped labels",
    "gold - none": "against reviews without labels",
}
_DEMONSTRATIONS = {
    "better": "gains from its demonstrations",
    "worse": "loses by its demonstrations",
    "not shown": "shows no gain from its demonstrations",
}
_LABELS = {
    "better": "uses the labels of its demonstrations",
    "worse": "does worse with right labels on its demonstrations than with wrong ones",
    "mixed": "answers to the labels of its demonstrations, better by right ones than by wrong ones of one kind, worse than by the other",
    "not shown": "shows no use of the labels of its demonstrations",
}
_PRESENCE = {  # gold labels against none, where right ones show no gain over wrong ones
    "better": "; it does better where they have labels than where they have none",
    "worse": "; it does worse where they have labels than where they have none",
}


@dataclass(frozen=True, slots=True)
class Controls:
    """What one number of shots shows, under one calibration.

    Attributes:
        shots, selection, template, label_words, calibration: of the conditions compared.
        comparisons: gold - zero, gold - random, gold - flipped, gold - none: those that were run.
        demonstrations: what gold - zero shows: "better", "worse" or "not shown" (see `direction`); "not asked" without 0 shots.
        labels: the same, of gold - random and gold - flipped; either is enough, so a model that ignores labels passes for one that
            uses them in up to one run of ten, not of twenty; "mixed" where one says better and the other worse.
        verdict: one plain sentence.
    """

    shots: int
    selection: str
    template: str
    label_words: str
    calibration: str
    comparisons: tuple[Comparison, ...]
    demonstrations: str
    labels: str
    verdict: str


def compare_controls(groups: Sequence[Group], right: NDArray, calibration: str = "none") -> tuple[Controls, ...]:
    """Controls for every group with gold labels and demonstrations, in the order of `groups`.

    Args:
        groups: of a run.
        right: [C, n] whether each prediction is right.
        calibration: of these predictions.
    """
    return tuple(
        _compare(group, _find_controls(group, groups), right, calibration)
        for group in groups
        if group.setting.shots and group.setting.demonstration_labels == "gold"
    )


def flags_to_add(shots: int) -> str:
    """What to give `evaluate` for a verdict."""
    return f"--shots 0 {shots or 4} --demonstration-labels gold random flipped"


def unasked_verdict(shots: int) -> str:
    """The sentence of a run without any comparison."""
    return f"Whether this model uses its demonstrations or their labels was not asked: add {flags_to_add(shots)}."


def _find_controls(gold: Group, groups: Sequence[Group]) -> dict[str, Group]:
    """name → the group that `gold` stands against; 0 shots have no selection."""
    found = {}
    for group in groups:
        ours, theirs = gold.setting, group.setting
        if (ours.template, ours.label_words) != (theirs.template, theirs.label_words):
            continue
        if theirs.shots == 0:
            found["gold - zero"] = group
        elif (ours.shots, ours.selection) == (theirs.shots, theirs.selection) and theirs.demonstration_labels != "gold":
            found[f"gold - {theirs.demonstration_labels}"] = group
    return {name: found[name] for name in _PHRASES if name in found}


def _compare(gold: Group, against: dict[str, Group], right: NDArray, calibration: str) -> Controls:
    comparisons = tuple(paired_comparison(*paired_draws(gold, right, control, right), name) for name, control in against.items())
    setting = gold.setting
    demonstrations = _direction([c for c in comparisons if c.name == "gold - zero"])
    labels = _direction([c for c in comparisons if c.name in ("gold - random", "gold - flipped")])
    presence = _direction([c for c in comparisons if c.name == "gold - none"])
    if demonstrations != "not asked" or labels != "not asked":
        shots = f"At {setting.shots} shot{'' if setting.shots == 1 else 's'}" + f" with calibration {calibration}" * (calibration != "none")
        verdict = f"{shots} this model {_claim(demonstrations, labels, presence)}: {_evidence(gold, comparisons)}"
        verdict += _follows_labels(gold, against, right, comparisons) + _not_asked(setting.shots, demonstrations, labels) + "."
    else:
        verdict = unasked_verdict(setting.shots)
    return Controls(
        shots=setting.shots,
        selection=setting.selection,
        template=setting.template,
        label_words=setting.label_words,
        calibration=calibration,
        comparisons=comparisons,
        demonstrations=demonstrations,
        labels=labels,
        verdict=verdict,
    )


def _direction(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return "not asked"
    shown = {direction(comparison.ci95, comparison.p_value) for comparison in comparisons} - {"not shown"}
    return "mixed" if len(shown) > 1 else next(iter(shown), "not shown")


def _claim(demonstrations: str, labels: str, presence: str) -> str:
    after = _PRESENCE.get(presence, "") if labels == "not shown" else ""
    if demonstrations == labels == "better":
        return "uses its demonstrations and their labels"
    if demonstrations == labels == "not shown" and not after:
        return "uses neither its demonstrations nor their labels, as far as these rows show"
    of_labels = "shows no use of which labels its demonstrations have" if after else _LABELS.get(labels)
    if "not asked" in (demonstrations, labels):
        return (of_labels or _DEMONSTRATIONS[demonstrations]) + after
    joint = "and" if demonstrations == labels else "but"
    return f"{_DEMONSTRATIONS[demonstrations]} {joint} {str(of_labels).replace('its demonstrations', 'these')}{after}"


def _evidence(gold: Group, comparisons: Sequence[Comparison]) -> str:
    draws, orders = len(gold.members), max(comparison.draws for comparison in comparisons)
    size = f"n = {comparisons[0].n}, {draws_in_words(draws, orders)}"
    figures = ", ".join(_figure(comparison) for comparison in comparisons)
    return f"gold labels make {figures}; {size}"


def _figure(comparison: Comparison) -> str:
    low, high = comparison.ci95
    text = f"{_points(comparison.difference)} points {_PHRASES[comparison.name]} (95 % interval {_points(low)} to {_points(high)}"
    if direction(comparison.ci95, comparison.p_value) == "not shown":
        if not low <= 0 <= high:
            text += f"; but p = {comparison.p_value:.3f}"
        text += f"; {could_be_shown(comparison.smallest_detectable)}"
    return text + ")"


def _points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # adding 0 makes -0.0 a 0.0


def _follows_labels(gold: Group, against: dict[str, Group], right: NDArray, comparisons: Sequence[Comparison]) -> str:
    """Below chance under flipped labels, interval and all, and below gold ones: what is predicted is what is shown."""
    if _direction([c for c in comparisons if c.name == "gold - flipped"]) != "better" or float(np.mean(gold.draws(right))) <= 0.5:
        return ""
    flipped = against["gold - flipped"].draws(right)
    if crossed_interval(flipped)[1] >= 0.5:
        return ""
    return f"; with flipped labels accuracy falls to {100 * float(flipped.mean()):.1f} %, below 50 %: predictions follow the shown labels"


def _not_asked(shots: int, demonstrations: str, labels: str) -> str:
    return f"; to ask for the rest, add {flags_to_add(shots)}" if "not asked" in (demonstrations, labels) else ""
