"""The worst mistakes are those that a count by hand gives, and a prompt reads as the model was given it."""

import dataclasses

import numpy as np
import pytest
from sample_scores import sample_reviews, sample_scores
from scipy.special import softmax

from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.metrics import evaluate
from rope_gpt2.fewshot.mistakes import render_prompt, worst_mistakes
from rope_gpt2.fewshot.scores import Demonstration, ScoredCondition, Scores


def reader(scores: Scores):
    """What reads the reviews of some rows, and of no others."""
    reviews = sample_reviews(scores)
    return lambda rows: {row: reviews[row] for row in rows}


def test_worst_mistakes_are_those_of_a_count_by_hand():
    scores = sample_scores()
    metrics = evaluate(scores)
    summary = metrics.summaries[metrics.headline]
    chosen = [
        i
        for i, one in enumerate(scores.conditions)
        if (one.condition.shots, one.condition.demonstration_labels) == (summary.shots, summary.demonstration_labels)
    ]
    theirs = []
    for place, row in enumerate(scores.rows.tolist()):
        probabilities = softmax(scores.label_logprobs[chosen, place].astype(np.float64), axis=-1)
        right = int(scores.sentiments[place])
        share = float((probabilities.argmax(axis=-1) != right).mean())
        theirs.append((-share, -float(probabilities[:, 1 - right].mean()), row))
    theirs = [entry for entry in sorted(theirs) if entry[0] < 0][:20]
    ours = worst_mistakes(scores, summary, reader(scores))
    assert [mistake.row for mistake in ours] == [row for *_, row in theirs]
    assert [mistake.share_wrong for mistake in ours] == pytest.approx([-share for share, *_ in theirs])
    assert [mistake.confidence for mistake in ours] == pytest.approx([-confidence for _, confidence, _ in theirs], rel=1e-5)
    for mistake in ours:
        assert mistake.sentiment == LABELS[scores.sentiments[mistake.row - 1]]
        assert {mistake.sentiment, mistake.predicted} == set(LABELS)
        assert mistake.prompt.endswith(f"Review: {mistake.review}\nSentiment:")


def test_rows_that_are_always_right_are_no_mistakes():
    scores = sample_scores(shots=(0,), labels=("gold",))
    right = np.where(scores.sentiments[None, :, None] == np.arange(2), -0.1, -3.0).astype(np.float32)
    metrics = evaluate(scores)
    assert worst_mistakes(dataclasses.replace(scores, label_logprobs=right), metrics.summaries[0], reader(scores)) == []


def test_generated_answers_can_name_neither_label():
    scores = sample_scores(generated=True)
    metrics = evaluate(scores)
    ours = worst_mistakes(scores, metrics.summaries[metrics.headline], reader(scores), count=200)
    assert {mistake.row for mistake in ours if mistake.predicted == "uncertain"} == set(range(1, 121, 10))
    assert all(np.isnan(mistake.confidence) for mistake in ours)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (("negative", "positive"), "Review: A bore.\nSentiment: bad\n\nReview: A joy.\nSentiment: good\n\nReview: So so.\nSentiment:"),
        ((None, None), "Review: A bore.\n\nReview: A joy.\n\nReview: So so.\nSentiment:"),
    ],
    ids=["labels", "no labels"],
)
def test_a_prompt_reads_as_the_model_was_given_it(shown, expected):
    demonstrations = tuple(
        Demonstration(row, review, "negative", label) for row, (review, label) in enumerate(zip(("A  bore.", "A joy."), shown, strict=True))
    )
    condition = Condition(2, label_words=("bad", "good"), demonstration_labels="none" if shown[0] is None else "gold")
    assert render_prompt(ScoredCondition(condition, demonstrations), "So\nso.") == expected
    assert (
        render_prompt(ScoredCondition(dataclasses.replace(condition, selection="similar"), None), "So so.") == "Review: So so.\nSentiment:"
    )


def test_under_the_noisy_channel_the_label_stands_before_the_review():
    demonstrations = (Demonstration(1, "A bore.", "negative", "negative"),)
    scored = ScoredCondition(Condition(1, label_words=("bad", "good")), demonstrations)
    assert render_prompt(scored, "A joy.", "positive") == "Sentiment: bad\nReview: A bore.\n\nSentiment: good\nReview: A joy."


def test_a_review_among_its_own_demonstrations_is_not_shown_there():
    demonstrations = tuple(Demonstration(row, review, "negative", "negative") for row, review in ((1, "A bore."), (2, "A  joy.")))
    scored = ScoredCondition(Condition(2), demonstrations)
    expected = "Review: A bore.\nSentiment: negative\n\n[another demonstration stood here]\n\nReview: A joy.\nSentiment:"
    assert render_prompt(scored, "A joy. ") == expected


def test_a_mistake_tells_what_its_condition_dropped_cut_and_replaced():
    scores = sample_scores(shots=(4,), labels=("gold",), seeds=1, orders=1)
    (first,) = scores.conditions
    scores = dataclasses.replace(scores, conditions=(dataclasses.replace(first, prompts_dropped=3, prompts_trimmed=2),))
    (summary,) = evaluate(scores, ["none"]).summaries
    worst = worst_mistakes(scores, summary, reader(scores))
    assert {(one.prompts_dropped, one.prompts_trimmed, one.replaced) for one in worst} == {(3, 2, False)}
    shown = first.demonstrations[0].review
    replaced = worst_mistakes(scores, summary, lambda rows: {row: shown if row == worst[0].row else "Else." for row in rows})
    assert [one.replaced for one in replaced] == [one.row == worst[0].row for one in worst]


def test_label_words_with_a_slash_keep_their_own_mistakes():
    """The first condition is right where the second is wrong."""
    scores = sample_scores(shots=(0,), labels=("gold",), content_free=())
    conditions = tuple(ScoredCondition(Condition(0, label_words=words), ()) for words in (("a/b", "c"), ("a", "b/c")))
    logprobs = np.concatenate([scores.label_logprobs, scores.label_logprobs[..., ::-1]])
    scores = dataclasses.replace(scores, conditions=conditions, label_logprobs=logprobs)
    first, second = (
        {mistake.row for mistake in worst_mistakes(scores, summary, reader(scores), count=200)}
        for summary in evaluate(scores, ["none"]).summaries
    )
    assert first | second == set(scores.rows.tolist())
    assert not first & second
