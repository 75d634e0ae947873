"""Prompts are the tokens of their text, always fit, lose the oldest demonstrations first and keep the query whole."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerFast

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.demonstrations import Condition, DemonstrationSampler
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

TEMPLATES = [DEFAULT_TEMPLATE, "{text}\n{label}\n", "Text: {text} => {label}\n", "{text} It was {label} \n"]
WORDS = [LABELS, ("utterly dismal", "quite wonderful"), ("bad", "entirely and utterly wonderful")]
LONG = 100_000  # tokens; any prompt fits

fragments = ["Dull.", "isn't", "'s", "...", " ! ", "\n\nReview: ", "\nSentiment: negative", "\u0301", "(", "\u3000", "<|endoftext|>", "--"]
reviews = (
    st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.sampled_from(fragments)), min_size=1)
    .map("".join)
    .filter(lambda text: text.strip())
)


def make_examples(texts: list[str]) -> list[Example]:
    return [Example(row, text, LABELS[row % 2]) for row, text in enumerate(texts, start=1)]


class Case:
    """A builder, and the text that it should have made."""

    def __init__(self, tokenizer, pool, shots, max_length=LONG, template=DEFAULT_TEMPLATE, words=LABELS, trim=False, seed=0):
        self.tokenizer, self.template, self.verbalizer = tokenizer, Template(template), Verbalizer(words)
        self.sampler = DemonstrationSampler(pool, Condition(shots, seed, "random"))
        self.builder = PromptBuilder(tokenizer, self.template, self.verbalizer, self.sampler, max_length, trim_queries=trim)
        self.longest_word = max(len(ids) for ids in self.verbalizer.token_ids(tokenizer, self.template))

    def tokens(self, query, dropped=0):
        """Ids of the whole text without its oldest `dropped` demonstrations."""
        demonstrations = [
            self.template.demonstration(example.review, self.verbalizer.word(example.sentiment))
            for example in self.sampler.sample(query, False)
        ]
        text = self.template.separator.join((*demonstrations[dropped:], self.template.query(query.review)))
        return tuple(self.tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"])


@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(reviews, min_size=4, max_size=6, unique_by=lambda text: tuple(text.split())), shots=st.integers(0, 2))
@example(texts=["\n\nReview: a\nSentiment: positive\n\n", "'s good", "!", "Sentiment:", "\u0301"], shots=3)
def test_a_prompt_is_the_tokenization_of_its_whole_text(tokenizer, template, texts, shots):
    query, *pool = make_examples(texts)
    case = Case(tokenizer, pool, shots, template=template)
    for asked in (query, pool[0]):
        prompt = case.builder.build(asked)
        assert prompt.prefix_ids + prompt.query_ids == case.tokens(asked)
        assert (prompt.query, prompt.condition, prompt.dropped, prompt.trimmed) == (asked, case.sampler.condition, 0, False)
        assert bool(prompt.prefix_ids) == bool(shots)


@pytest.mark.parametrize("words", WORDS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), shots=st.integers(0, 8), seed=st.integers(0, 50))
def test_a_prompt_always_fits_with_its_label_word_and_drops_no_demonstration_needlessly(tokenizer, examples, words, data, shots, seed):
    query = examples[0]
    longest = Case(tokenizer, examples, shots, words=words, seed=seed)
    alone, whole = len(longest.tokens(query, shots)), len(longest.tokens(query))
    max_length = data.draw(st.integers(alone, whole)) + longest.longest_word
    case = Case(tokenizer, examples, shots, max_length, words=words, seed=seed)
    prompt = case.builder.build(query)
    ours = prompt.prefix_ids + prompt.query_ids
    assert ours == case.tokens(query, prompt.dropped)  # the last demonstrations and the query, all of them whole
    assert len(ours) + case.longest_word <= max_length
    assert not prompt.dropped or len(case.tokens(query, prompt.dropped - 1)) + case.longest_word > max_length
    assert not prompt.trimmed


def test_demonstrations_are_shared_by_queries(tokenizer, examples):
    builder = Case(tokenizer, examples[50:], 4).builder
    assert len({builder.build(query).prefix_ids for query in examples[:20]}) == 1


def test_a_query_of_the_pool_is_not_its_own_demonstration(tokenizer):
    pool = make_examples([f"Film number {number}." for number in range(6)])
    case = Case(tokenizer, pool, 5)
    case.builder.from_pool = True
    for query in pool:
        assert tokenizer.decode(case.builder.build(query).prefix_ids).count(query.review.lower().replace(".", " .")) == 0


def test_all_demonstrations_may_be_dropped_and_are_counted(tokenizer, examples):
    case = Case(tokenizer, examples[1:], 8)
    alone = len(case.tokens(examples[0], 8))
    prompt = Case(tokenizer, examples[1:], 8, alone + 1).builder.build(examples[0])
    assert (prompt.prefix_ids, prompt.query_ids, prompt.dropped) == ((), case.tokens(examples[0], 8), 8)


@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("words", WORDS)
def test_a_query_that_does_not_fit_alone_is_refused_with_its_row(tokenizer, examples, shots, words):
    query = Example(17, "far too long " * 20, "negative")
    case = Case(tokenizer, examples, shots, words=words)
    needed = len(case.tokens(query, shots))
    Case(tokenizer, examples, shots, needed + case.longest_word, words=words).builder.build(query)
    with pytest.raises(InputError, match=f"^row 17: the review needs {needed} tokens .* has {needed - 1}; shorten it, .*trim_queries"):
        Case(tokenizer, examples, shots, needed + case.longest_word - 1, words=words).builder.build(query)


@settings(max_examples=30, deadline=None)
@given(room=st.integers(12, 60), shots=st.sampled_from([0, 4]), words=st.sampled_from(WORDS))
def test_trimming_keeps_as_many_words_as_fit_and_the_place_of_the_label(tokenizer, examples, room, shots, words):
    template = Template()
    review = " ".join(example.review for example in examples[:10])
    case = Case(tokenizer, examples, shots, words=words)
    prompt = Case(tokenizer, examples, shots, room + case.longest_word, words=words, trim=True).builder.build(
        Example(17, review, "negative")
    )
    kept = [count for count in range(1, 80) if len(tokenizer(template.query(" ".join(review.split()[:count])))["input_ids"]) <= room]
    theirs = tokenizer(template.query(" ".join(review.split()[: max(kept)])))["input_ids"]
    assert prompt.trimmed
    assert prompt.query_ids == tuple(theirs)
    assert tokenizer.decode(prompt.query_ids).endswith("\nsentiment :")
    assert len(prompt.prefix_ids) + len(prompt.query_ids) <= room


def test_trimming_leaves_a_review_that_fits_as_it_is(tokenizer, examples):
    ours, theirs = (Case(tokenizer, examples[1:], 2, trim=trim).builder.build(examples[0]) for trim in (True, False))
    assert ours == theirs
    assert not ours.trimmed


def test_a_context_without_room_for_a_word_is_refused_though_trimming_was_asked_for(tokenizer, examples):
    with pytest.raises(InputError, match=r"^row 17: no word of the review fits .*; raise max_length"):
        Case(tokenizer, examples, 0, 5, trim=True).builder.build(Example(17, "Dull.", "negative"))


def test_a_tokenizer_that_joins_words_across_examples_is_refused():
    """Without pre-tokenization a token may begin in a label word and end in the separator."""
    greedy = Tokenizer(models.BPE())
    greedy.train_from_iterator(["Review: Dull.\nSentiment: negative\n\n"] * 9, trainers.BpeTrainer(vocab_size=100, show_progress=False))
    joining = PreTrainedTokenizerFast(tokenizer_object=greedy)
    pool = make_examples(["Dull."] * 4)
    with pytest.raises(InputError, match=r"template .* joins? "):
        Case(joining, pool, 2, words=("negative", "nice")).builder.build(Example(9, "Null.", "negative"))
