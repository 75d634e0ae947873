"""Scores → the rows that the headline gets wrong most often and most surely, with their prompts."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.groups import setting_of
from rope_gpt2.fewshot.metrics import Summary
from rope_gpt2.fewshot.scores import UNCERTAIN, ScoredCondition, Scores
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

COUNT = 20  # mistakes on the page
REPLACED = "[another demonstration stood here]"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A row that most conditions of a summary get wrong.

    Attributes:
        row, review, sentiment: the query and its label.
        predicted: what is predicted most often where it is wrong; "uncertain" for generated text that names neither label.
        confidence: mean probability of the wrong label, of the two, over all conditions, in [0, 1]; NaN for generated text.
        share_wrong: fraction of the conditions that are wrong, in [0, 1].
        prompt: as the first of these conditions puts it, before anything was dropped or cut.
        replaced: the query is itself among that condition's demonstrations, so others that are not known stood in its prompt.
        prompts_dropped, prompts_trimmed: of all queries' prompts under that condition: how many lost their oldest demonstrations, or the
            end of their review, because they exceeded the context.
    """

    row: int
    review: str
    sentiment: str
    predicted: str
    confidence: float
    share_wrong: float
    prompt: str
    replaced: bool = False
    prompts_dropped: int = 0
    prompts_trimmed: int = 0


def worst_mistakes(
    scores: Scores, summary: Summary, read_reviews: Callable[[Iterable[int]], Mapping[int, str]], count: int = COUNT, channel: bool = False
) -> list[Mistake]:
    """The rows wrong in most conditions of `summary`, those with the highest mean probability of the wrong label first, uncalibrated.

    One condition is held in memory at a time beside two arrays of [n].

    Args:
        scores: of the run.
        summary: whose conditions are looked at; its calibration is not applied.
        read_reviews: rows → the text of each; asked once, for the rows that are shown.
        count: how many at most.
        channel: the scores are of the noisy channel; prompts then stand as given for the review's own label.

    Returns:
        Mistakes, the worst first; ties in the order of rows. Rows that are always right are left out.
    """
    chosen = [index for index, scored in enumerate(scores.conditions) if _belongs(scored, summary)]
    if not chosen:
        return []
    wrong = np.zeros(len(scores.rows), dtype=np.int32)
    uncertain = np.zeros_like(wrong)
    confidence = np.zeros(len(scores.rows))
    for predicted, wrong_probability in _predict(scores, chosen):
        wrong += predicted != scores.sentiments
        uncertain += predicted == UNCERTAIN
        confidence += wrong_probability
    confidence /= len(chosen)
    worst = [place for place in np.lexsort((scores.rows, -confidence, -wrong))[:count] if wrong[place]]
    first, reviews = scores.conditions[chosen[0]], read_reviews(scores.rows[worst].tolist())
    return [
        Mistake(
            row=(row := int(scores.rows[place])),
            review=reviews[row],
            sentiment=LABELS[scores.sentiments[place]],
            predicted="uncertain" if 2 * uncertain[place] > wrong[place] else LABELS[1 - scores.sentiments[place]],
            confidence=float(confidence[place]),
            share_wrong=float(wrong[place] / len(chosen)),
            prompt=render_prompt(first, reviews[row], LABELS[scores.sentiments[place]] if channel else None),
            replaced=any(_is_same(one.review, reviews[row]) for one in first.demonstrations or ()),
            prompts_dropped=first.prompts_dropped,
            prompts_trimmed=first.prompts_trimmed,
        )
        for place in worst
    ]


def render_prompt(scored: ScoredCondition, review: str, channel_label: str | None = None) -> str:
    """The prompt as text: demonstrations oldest first, then the query up to where the label word follows.

    Where every query has demonstrations of its own (selection "similar") the query stands alone. A query that is itself among the
    demonstrations was given others: `REPLACED` stands in its place.

    Args:
        scored: the condition with its demonstrations.
        review: the query.
        channel_label: for the noisy channel, the label that the review is scored under: it stands before the review.
    """
    template, verbalizer = Template(scored.condition.template), Verbalizer(scored.condition.label_words)
    lay_out = template.demonstration if channel_label is None else template.channel_demonstration
    shown = []
    for one in scored.demonstrations or ():
        if _is_same(one.review, review):
            shown.append(REPLACED)
        else:
            shown.append(template.unlabelled(one.review) if one.shown is None else lay_out(one.review, verbalizer.word(one.shown)))
    if channel_label is None:
        return template.separator.join((*shown, template.query(review)))
    return template.separator.join((*shown, template.channel_query(verbalizer.word(channel_label)) + template.channel_review(review)))


def _is_same(review: str, other: str) -> bool:
    """But for white space, as demonstrations are drawn."""
    return review.split() == other.split()


def _belongs(scored: ScoredCondition, summary: Summary) -> bool:
    ours = setting_of(scored.condition)
    layout, shown = (ours.shots, ours.template, ours.label_words), (ours.demonstration_labels, ours.selection)
    return layout == (summary.shots, summary.template, summary.label_words) and (
        ours.shots == 0 or shown == (summary.demonstration_labels, summary.selection)
    )


def _predict(scores: Scores, chosen: list[int]) -> Iterator[tuple[NDArray[np.int8], NDArray[np.float32] | float]]:
    """[n] prediction and [n] probability of the wrong label, condition by condition; a tie goes to the first of `LABELS`."""
    for index in chosen:
        if scores.generated is not None:
            yield scores.generated[index], np.nan
            continue
        negative, positive = scores.label_logprobs[index].T
        margin = np.where(scores.sentiments == 1, negative - positive, positive - negative)
        yield (positive > negative).astype(np.int8), expit(margin)
