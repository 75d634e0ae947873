"""Comparison of two runs → what the terminal shows: a table, a sentence a setting, and what makes the comparison unfair."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from rope_gpt2.fewshot.comparison import RunComparison, SettingComparison
from rope_gpt2.fewshot.groups import Setting, setting_of
from rope_gpt2.fewshot.headline import percent
from rope_gpt2.fewshot.intervals import could_be_shown, draws_in_words
from rope_gpt2.fewshot.pairing import FACTORS
from rope_gpt2.fewshot.scores import Scores

_COLUMNS = {"demonstration_labels": "labels", "selection": "selection", "template": "template", "label_words": "label words"}
_DEVICE = {"precision": "precision", "accelerator": "device"}


def comparison_table(comparison: RunComparison) -> Table:
    """A row for each setting; a column for each part of it that is not the same everywhere."""
    settings, several = comparison.settings, len(comparison.settings) > 1
    shown = _varying(one.a for one in settings)
    table = Table(
        title=f"B less A, {comparison.n} reviews, calibration {comparison.calibration}, majority baseline "
        f"{percent(comparison.majority_baseline)} %",
        caption=("p by Holm's correction for all settings; " if several else "")
        + "alone: reviews (times draws) that A, or B, alone has right; could show: the difference that is shown in 80 % of cases"
        + (" by the p-value before that correction" if several else ""),
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("shots", justify="right", no_wrap=True)
    for name in shown:
        table.add_column(_COLUMNS[name], no_wrap=name not in ("template", "label_words"))
    for column in ("A %", "B %", "B - A", "95 % interval", "p", "alone", "could show"):
        table.add_column(column, justify="right", no_wrap=column != "could show")
    for one in settings:
        table.add_row(str(one.a.shots), *(escape(_one_line(getattr(one.a, name))) for name in shown), *_figures(one))
    return table


def _figures(one: SettingComparison) -> list[str]:
    return [
        percent(one.accuracy_a),
        percent(one.accuracy_b),
        _signed(one.difference),
        f"{_signed(one.ci95[0])} to {_signed(one.ci95[1])}",
        _p(one.p_holm),
        f"{one.only_a}, {one.only_b}",
        percent(one.smallest_detectable) if one.smallest_detectable < 1 else "none",
    ]


def sentences(comparison: RunComparison) -> list[str]:
    """What each setting shows, a plain sentence each."""
    shown = _varying(one.a for one in comparison.settings)
    return [f"At {_name(one.a, shown)}, {_claim(one, len(comparison.settings))}." for one in comparison.settings]


def _claim(one: SettingComparison, settings: int) -> str:
    p_value = _p(one.p_value, named=True)
    if settings > 1:
        p_value += f", {_p(one.p_holm)} by Holm's correction for {settings} settings"
    low, high = one.ci95
    if one.outcome == "not shown":
        interval = f"B less A is {_signed(one.difference)} points, 95 % interval {_signed(low)} to {_signed(high)}; {p_value}"
        claim = f"no difference shown: {interval}; {could_be_shown(one.smallest_detectable)}"
        claim += " before that correction" if settings > 1 and one.smallest_detectable < 1 else ""
    else:
        low, high = sorted((abs(low), abs(high)))  # both have the sign of the difference
        points = f"{percent(abs(one.difference))} points (95 % interval {percent(low)} to {percent(high)}; {p_value})"
        claim = f"B is {one.outcome} than A by {points}"
    return claim + (f"; {draws_in_words(one.seeds, one.draws)}" if one.draws > 1 or one.a.shots else "")


def notes(comparison: RunComparison) -> list[str]:
    """How settings were paired and which were not, a sentence each."""
    everywhere = _varying([*(setting for one in comparison.settings for setting in (one.a, one.b)), *comparison.only_a, *comparison.only_b])
    found = []
    for one in comparison.settings:
        if one.differs:
            parts = (f"{_COLUMNS[name]} ({_quoted(one.a, name)} and {_quoted(one.b, name)})" for name in one.differs)
            found.append(
                f"A and B have another {' and another '.join(parts)}: settings of the same shots and demonstration labels are paired."
            )
    for name, other, alone in (("A", "B", comparison.only_a), ("B", "A", comparison.only_b)):
        if alone:
            found.append(
                f"Not compared, as {other} has no single counterpart: {name}'s {'; '.join(_name(one, everywhere) for one in alone)}."
            )
    return list(dict.fromkeys(found))


def warnings(comparison: RunComparison, a: Scores, b: Scores, plan_a: Mapping[str, Any], plan_b: Mapping[str, Any]) -> list[str]:
    """What differs between the runs and makes the comparison unfair, a sentence each.

    Args:
        comparison: of the two.
        a, b: their scores.
        plan_a, plan_b: `plan` of their manifests; what one of them lacks is not spoken of.
    """
    compared = {one.a for one in comparison.settings}, {one.b for one in comparison.settings}
    found = [*_demonstrations(comparison, plan_a, plan_b), *_lost_demonstrations((a, b), compared)]
    if differing := [name for name in _DEVICE if _differ(plan_a, plan_b, name)]:
        values = (", ".join(str(plan[name]) for name in differing) for plan in (plan_a, plan_b))
        what = " and ".join(_DEVICE[name] for name in differing)
        found.append(f"A and B were scored with another {what} ({' against '.join(values)}), which alone changes close predictions.")
    if _differ(plan_a, plan_b, "scoring"):
        found.append(f"A was scored by {plan_a['scoring']} and B by {plan_b['scoring']}: a difference may be one of the scoring.")
    if _differ(plan_a, plan_b, "data", "sha256"):
        found.append(f"The reviews compared are the same, but come from other files ({_paths(plan_a, plan_b, 'data')}).")
    return found


def _demonstrations(comparison: RunComparison, plan_a: Mapping[str, Any], plan_b: Mapping[str, Any]) -> list[str]:
    """Other seeds and orders, other demonstrations under the same seeds, other pools."""
    found = []
    if left_out := [one for one in comparison.settings if one.left_out]:
        shots = ", ".join(dict.fromkeys(str(one.a.shots) for one in left_out))
        found.append(f"One run has seeds or orders that the other has not (at {shots} shots): only those of both are compared.")
    other, paired = sum(one.other_demonstrations for one in comparison.settings), sum(one.conditions for one in comparison.settings)
    pools = _differ(plan_a, plan_b, "pool", "sha256") and any(one.a.shots for one in comparison.settings)
    source = f"they are drawn from other pools ({_paths(plan_a, plan_b, 'pool')})" if pools else ""
    if other:
        because = f"; {source}" if source else ""
        found.append(f"A and B show other demonstrations in {other} of {paired} paired conditions{because}: a difference may be theirs.")
    elif source:
        found.append(f"A and B may show other demonstrations: {source}.")
    return found


def _lost_demonstrations(runs: tuple[Scores, Scores], compared: tuple[set[Setting], set[Setting]]) -> list[str]:
    """Prompts that exceeded the context of one run and not of the other; over all rows of the settings compared."""
    found = []
    for name, what in (("prompts_dropped", "lost demonstrations that exceeded the context"), ("prompts_trimmed", "had their review cut")):
        shares = []
        for scores, settings in zip(runs, compared, strict=True):
            lost = [getattr(one, name) for one in scores.conditions if setting_of(one.condition) in settings]
            shares.append(sum(lost) / (len(scores.rows) * len(lost)))
        if shares[0] != shares[1]:
            found.append(f"{percent(shares[0])} % of A's prompts and {percent(shares[1])} % of B's {what}.")
    return found


def _differ(plan_a: Mapping[str, Any], plan_b: Mapping[str, Any], *keys: str) -> bool:
    values: list[Any] = [plan_a, plan_b]
    for key in keys:
        values = [value.get(key) if isinstance(value, Mapping) else None for value in values]
    return None not in values and values[0] != values[1]


def _paths(plan_a: Mapping[str, Any], plan_b: Mapping[str, Any], name: str) -> str:
    return " and ".join(str(plan[name].get("path")) for plan in (plan_a, plan_b))


def _varying(settings: Iterable[Setting]) -> list[str]:
    """Parts of settings that are not the same in all; what shows no demonstrations has neither labels nor a selection."""
    all_of_them = list(settings)
    shown = [one for one in all_of_them if one.shots]
    return [name for name in _COLUMNS if len({getattr(one, name) for one in (all_of_them if name in FACTORS[1:] else shown)}) > 1]


def _name(setting: Setting, varying: Sequence[str]) -> str:
    parts = [f"{setting.shots} shot{'' if setting.shots == 1 else 's'}"]
    if setting.shots and (setting.demonstration_labels != "gold" or "demonstration_labels" in varying):
        parts.append(f"{setting.demonstration_labels} labels" if setting.demonstration_labels != "none" else "reviews without labels")
    if setting.shots and "selection" in varying:
        parts.append(f"{setting.selection} selection")
    return " with ".join([", ".join(parts), *(f"{_COLUMNS[name]} {_quoted(setting, name)}" for name in FACTORS[1:] if name in varying)])


def _quoted(setting: Setting, name: str) -> str:
    return f"'{_one_line(getattr(setting, name))}'"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def _signed(difference: float) -> str:
    """In percentage points, in characters that every terminal has."""
    text = percent(difference)
    return f"+{text}" if float(text) > 0 else text


def _p(p_value: float, named: bool = False) -> str:
    """Two digits, and never 0."""
    if p_value < 0.001:
        return "p < 0.001" if named else "< 0.001"
    digits = 3 if 0.045 <= p_value < 0.055 else 2  # on which side of 0.05
    return f"{'p = ' if named else ''}{p_value:.{digits}g}"
