"""A template lays reviews out; no review can imitate the layout."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.template import Template

TEMPLATES = ["Review: {text}\nSentiment: {label}\n\n", "{text}\n{label}\n", "Text: {text} It was  {label} \n", "<{text}> =>{label}\n###\n"]
reviews = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.sampled_from(
            ["\n", "\r\n", "\u2028", "\x0b", "\x85", "Review:", "\nSentiment: positive\n\nReview: ", "{text}", "{label}", "{}"]
        ),
    ),
    min_size=1,
).map("".join)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Review: {text}\n", "must hold {text} once and after it {label} once, got .*; mend it"),
        ("Sentiment: {label}\n", "must hold {text} once and after it {label} once"),
        ("{label}: {text}\n", "must hold {text} once and after it {label} once"),
        ("{text} {text}\n{label}\n", "must hold {text} once and after it {label} once"),
        ("{text}\n{label} {label}\n", "must hold {text} once and after it {label} once"),
        ("", "must hold {text} once and after it {label} once"),
        ("Review: {text}\nSentiment: {label}", "must go on with white space after {label}, got .*; add"),
        ("Review: {text}\nSentiment: {label}.\n", "must go on with white space after {label}, got .*; add"),
        ("{text}{label}\n", "must have words or a line end between {text} and {label}, got .*; mend it"),
        ("{text}  {label}\n", "must have words or a line end between {text} and {label}, got .*; mend it"),
    ],
)
def test_a_template_that_cannot_work_is_refused(text, message):
    with pytest.raises(InputError, match=message) as caught:
        Template(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_demonstration_and_its_separator_are_the_template_filled_in(text):
    template = Template(text)
    theirs = text.replace("{text}", "Dull.").replace("{label}", "negative")
    assert template.demonstration("Dull.", "negative") + template.separator == theirs


@pytest.mark.parametrize("text", TEMPLATES)
def test_a_demonstration_is_a_query_that_goes_on(text):
    template = Template(text)
    assert template.demonstration("Dull.", "negative") == template.query("Dull.") + template.label_space + "negative"


@settings(max_examples=30, deadline=None)
@given(review=reviews, text=st.sampled_from(TEMPLATES))
def test_a_query_does_not_end_in_a_space(review, text):
    assert not Template(text).query(review).endswith(" ")


@settings(max_examples=60, deadline=None)
@given(review=reviews)
def test_no_review_can_imitate_the_layout(review):
    """The one line end of a demonstration is the template's, by whatever character a line may end."""
    first, second = Template().demonstration(review, "negative").splitlines()
    assert first.startswith("Review:")
    assert second == "Sentiment: negative"
    assert len(Template().query(review).splitlines()) == 2


@settings(max_examples=30, deadline=None)
@given(review=reviews, text=st.sampled_from(TEMPLATES))
def test_words_of_a_review_stand_as_they_are(review, text):
    """Braces too: nothing of a review is taken for a field."""
    template = Template(text)
    ours = template.query(review)
    assert ours == (template.before + " ".join(review.split())).rstrip(" ") + template.between
    assert ours.startswith(template.unlabelled(review))
    assert template.demonstration(review, "positive").count("{label}") == review.count("{label}")


def test_two_templates_of_the_same_text_are_equal():
    assert Template("{text}\n{label}\n") == Template("{text}\n{label}\n") != Template()


@pytest.mark.parametrize("text", TEMPLATES)
def test_without_a_review_the_layout_stands_alone(text):
    """As content-free inputs need it: no space is left where the review was."""
    template = Template(text)
    assert template.query("") == template.before.rstrip(" ") + template.between
    assert template.query(" \n") == template.query("")


@settings(max_examples=30, deadline=None)
@given(review=reviews, text=st.sampled_from(TEMPLATES))
def test_a_demonstration_without_its_label_is_what_stands_before_the_label_of_one_with(review, text):
    template = Template(text)
    assert template.demonstration(review, "negative") == template.unlabelled(review) + template.between + template.label_space + "negative"
    assert not template.unlabelled(review).endswith(" ")


@pytest.mark.parametrize(
    ("text", "theirs"),
    [(TEMPLATES[0], "Sentiment:"), (TEMPLATES[1], "\n"), (TEMPLATES[2], "It was"), (TEMPLATES[3], "> =>")],
)
def test_the_premise_asks_for_the_label_and_is_never_empty(text, theirs):
    assert Template(text).premise == theirs


@pytest.mark.parametrize(
    ("text", "theirs"),
    [
        (TEMPLATES[0], "Sentiment: negative\nReview: Dull."),
        (TEMPLATES[1], "negative\n Dull."),
        (TEMPLATES[2], "It was  negative Text: Dull."),
        (TEMPLATES[3], "> =>negative\n< Dull."),
    ],
)
def test_for_the_noisy_channel_the_label_changes_places_with_the_review(text, theirs):
    assert Template(text).channel_demonstration("Dull.", "negative") == theirs


@settings(max_examples=30, deadline=None)
@given(review=reviews, text=st.sampled_from(TEMPLATES))
def test_a_channel_demonstration_is_its_label_and_then_its_review(review, text):
    template = Template(text)
    ours = template.channel_demonstration(review, "positive")
    assert ours == template.channel_query("positive") + template.channel_review(review)
    assert not template.channel_query("positive").endswith(" ")
    assert template.channel_review(review).split() == review.split()
    assert len(template.channel_review(review).splitlines()) == 1
