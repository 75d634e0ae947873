"""Prompts are the tokens of their text, always fit, lose the oldest demonstrations first and keep the query whole."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers
from transformers import PreTrainedTokenizerFast

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.conditions import DEMONSTRATION_LABELS, Condition
from rope_gpt2.fewshot.content_free import ContentFree, content_free_inputs
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
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

    def __init__(
        self,
        tokenizer,
        pool,
        shots,
        max_length=LONG,
        template=DEFAULT_TEMPLATE,
        words=LABELS,
        trim=False,
        seed=0,
        channel=False,
        selection="random",
        **changes,
    ):
        self.tokenizer, self.template, self.verbalizer, self.channel = tokenizer, Template(template), Verbalizer(words), channel
        self.sampler = DemonstrationSampler(Pool(pool), Condition(shots, seed, selection=selection, **changes))
        self.builder = PromptBuilder(tokenizer, self.template, self.verbalizer, max_length, trim_queries=trim, channel=channel)

    @property
    def longest_word(self):
        """Tokens that a prompt needs beside demonstrations and query."""
        if not self.channel:
            return max(len(ids) for ids in self.verbalizer.token_ids(self.tokenizer, self.template))
        heads = [self.template.separator + self.template.channel_query(word) for word in self.verbalizer.words]
        return max(len(self.ids(head)) for head in heads)

    def ids(self, text):
        return tuple(self.tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"])

    def build(self, *queries, from_pool=False):
        return self.builder.build(self.sampler, self.builder.encode(queries), from_pool)

    def demonstration(self, item):
        if item.shown is None:
            return self.template.unlabelled(item.review)
        render = self.template.channel_demonstration if self.channel else self.template.demonstration
        return render(item.review, self.verbalizer.word(item.shown))

    def text(self, query, dropped=0, label=0, from_pool=False):
        """The whole text without its oldest `dropped` demonstrations."""
        asked = self.template.query(query.review)
        if self.channel:
            asked = self.template.channel_query(self.verbalizer.words[label]) + self.template.channel_review(query.review)
        shown = [self.demonstration(item) for item in self.sampler.sample(query, from_pool)]
        return self.template.separator.join((*shown[dropped:], asked))

    def tokens(self, query, dropped=0, label=0, from_pool=False):
        return self.ids(self.text(query, dropped, label, from_pool))

    def assert_is(self, prompt, query, dropped=0, from_pool=False):
        """A prompt has the tokens of its text, under every label."""
        heads = self.builder.heads(prompt)
        assert len(heads) == (2 if self.channel else 0)
        for label, head in enumerate(heads or ((),)):
            assert prompt.prefix_ids + head + prompt.query_ids == self.tokens(query, dropped, label, from_pool)


LAYOUTS = pytest.mark.parametrize("template", TEMPLATES)
CHANNEL = pytest.mark.parametrize("channel", [False, True])


@LAYOUTS
@CHANNEL
@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(reviews, min_size=4, max_size=6, unique_by=lambda text: tuple(text.split())),
    shots=st.integers(0, 2),
    labels=st.sampled_from(DEMONSTRATION_LABELS),
)
@example(texts=["\n\nReview: a\nSentiment: positive\n\n", "'s good", "!", "Sentiment:", "\u0301"], shots=3, labels="gold")
@example(texts=["\n\nReview: a\nSentiment: positive\n\n", "'s good", "!", "Sentiment:", "\u0301"], shots=3, labels="none")
def test_a_prompt_is_the_tokenization_of_its_whole_text(tokenizer, template, channel, texts, shots, labels):
    query, *pool = make_examples(texts)
    case = Case(tokenizer, pool, shots, template=template, channel=channel, demonstration_labels=labels)
    for asked, prompt in zip((query, pool[0]), case.build(query, pool[0]), strict=True):
        case.assert_is(prompt, asked)
        assert (prompt.query, prompt.dropped, prompt.trimmed) == (asked, 0, False)
        assert bool(prompt.prefix_ids) == bool(shots)


@CHANNEL
@pytest.mark.parametrize("words", WORDS)
@settings(max_examples=20, deadline=None)
@given(data=st.data(), shots=st.integers(0, 8), seed=st.integers(0, 50), selection=st.sampled_from(["random", "similar"]))
def test_a_prompt_always_fits_with_its_label_word_and_drops_no_demonstration_needlessly(
    tokenizer, examples, words, channel, data, shots, seed, selection
):
    query, options = examples[0], {"words": words, "seed": seed, "channel": channel, "selection": selection}
    longest = Case(tokenizer, examples, shots, **options)
    (whole,) = longest.build(query)
    max_length = len(whole.query_ids) + longest.longest_word + data.draw(st.integers(0, len(whole.prefix_ids)))
    case = Case(tokenizer, examples, shots, max_length, **options)
    (prompt,) = case.build(query)
    case.assert_is(prompt, query, prompt.dropped)  # the last demonstrations and the query, all of them whole
    assert len(prompt.prefix_ids + prompt.query_ids) + case.longest_word <= max_length
    assert not prompt.trimmed
    if prompt.dropped:
        beside = len(case.builder.heads(whole)[0]) if channel else 0  # it stands in `tokens`, and is counted as the longest head
        assert len(case.tokens(query, prompt.dropped - 1)) - beside + case.longest_word > max_length


@CHANNEL
@pytest.mark.parametrize("shots", [1, 4])
def test_the_demonstrations_dropped_are_as_few_as_in_a_search_of_all(tokenizer, examples, shots, channel):
    """At every length of context, from that of the query alone on."""
    query, whole = examples[0], Case(tokenizer, examples[50:], shots, channel=channel)
    (prompt,) = whole.build(query)
    beside = len(whole.builder.heads(prompt)[0]) if channel else 0  # it stands in `tokens`, and is counted as the longest head
    lengths = [len(whole.tokens(query, dropped)) - beside + whole.longest_word for dropped in range(shots)]
    alone = len(prompt.query_ids) + whole.longest_word
    for max_length in range(alone, max(lengths) + 2):
        theirs = next((dropped for dropped, length in enumerate(lengths) if length <= max_length), shots)
        (ours,) = Case(tokenizer, examples[50:], shots, max_length, channel=channel).build(query)
        assert ours.dropped == theirs
        whole.assert_is(ours, query, ours.dropped)


def test_demonstrations_are_shared_by_queries(tokenizer, examples):
    prompts = Case(tokenizer, examples[50:], 4).build(*examples[:20])
    assert len({id(prompt.prefix_ids) for prompt in prompts}) == 1


def test_queries_keep_their_order_and_may_have_demonstrations_of_their_own(tokenizer, examples):
    case = Case(tokenizer, examples, 3, selection="similar")
    prompts = case.build(*examples[:20], from_pool=True)
    for prompt, query in zip(prompts, examples[:20], strict=True):
        case.assert_is(prompt, query, from_pool=True)
    assert len({prompt.prefix_ids for prompt in prompts}) > 10


def test_a_query_of_the_pool_is_not_its_own_demonstration(tokenizer):
    pool = make_examples([f"Film number {number}." for number in range(6)])
    for prompt in Case(tokenizer, pool, 5).build(*pool, from_pool=True):
        assert tokenizer.decode(prompt.prefix_ids).count(prompt.query.review.lower().replace(".", " .")) == 0


def test_queries_are_tokenized_once_for_all_conditions(tokenizer, examples):
    case = Case(tokenizer, examples[50:], 4)
    encoded = case.builder.encode(examples[:20])
    for shots in (0, 2, 4):
        other = Case(tokenizer, examples[50:], shots)
        assert case.builder.build(other.sampler, encoded) == other.build(*examples[:20])


def test_no_queries_make_no_prompts(tokenizer, examples):
    assert Case(tokenizer, examples[50:], 4).build() == []


@CHANNEL
def test_all_demonstrations_may_be_dropped_and_are_counted(tokenizer, examples, channel):
    case = Case(tokenizer, examples[1:], 8, channel=channel)
    (whole,) = case.build(examples[0])
    (prompt,) = Case(tokenizer, examples[1:], 8, len(whole.query_ids) + case.longest_word, channel=channel).build(examples[0])
    assert (prompt.prefix_ids, prompt.dropped) == ((), 8)
    case.assert_is(prompt, examples[0], dropped=8)


@pytest.mark.parametrize("shots", [0, 4])
@pytest.mark.parametrize("words", WORDS)
def test_a_query_that_does_not_fit_alone_is_refused_with_its_row(tokenizer, examples, shots, words):
    query = Example(17, "far too long " * 20, "negative")
    case = Case(tokenizer, examples, shots, words=words)
    needed = len(case.tokens(query, shots))
    Case(tokenizer, examples, shots, needed + case.longest_word, words=words).build(query)
    with pytest.raises(InputError, match=f"^row 17: the review needs {needed} tokens .* has {needed - 1}; shorten it, .*trim_queries"):
        Case(tokenizer, examples, shots, needed + case.longest_word - 1, words=words).build(query)


@settings(max_examples=30, deadline=None)
@given(room=st.integers(12, 60), shots=st.sampled_from([0, 4]), words=st.sampled_from(WORDS), channel=st.booleans())
def test_trimming_keeps_as_many_words_as_fit_and_the_place_of_the_label(tokenizer, examples, room, shots, words, channel):
    template = Template()
    review = " ".join(example.review for example in examples[:10])
    query = Example(17, review, "negative")
    longest_word = Case(tokenizer, examples, shots, words=words, channel=channel).longest_word
    case = Case(tokenizer, examples, shots, room + longest_word, words=words, trim=True, channel=channel)
    (prompt,) = case.build(query)
    render = template.channel_review if channel else template.query
    kept = [count for count in range(1, 80) if len(case.ids(render(" ".join(review.split()[:count])))) <= room]
    assert prompt.trimmed
    assert prompt.query == query  # as it stands in the file
    assert prompt.query_ids == case.ids(render(" ".join(review.split()[: max(kept)])))
    assert channel or tokenizer.decode(prompt.query_ids).endswith("\nsentiment :")
    assert len(prompt.prefix_ids) + len(prompt.query_ids) <= room


def test_trimming_leaves_a_review_that_fits_as_it_is(tokenizer, examples):
    ours, theirs = (Case(tokenizer, examples[1:], 2, trim=trim).build(examples[0]) for trim in (True, False))
    assert ours == theirs
    assert not ours[0].trimmed


@CHANNEL
def test_a_context_without_room_for_a_word_is_refused_though_trimming_was_asked_for(tokenizer, examples, channel):
    with pytest.raises(InputError, match=r"^row 17: no word of the review fits .*; raise max_length"):
        Case(tokenizer, examples, 0, 5, trim=True, channel=channel).build(Example(17, "Dull.", "negative"))


def test_a_tokenizer_that_joins_words_across_examples_is_refused():
    """Without pre-tokenization a token may begin in a label word and end in the separator."""
    greedy = Tokenizer(models.BPE())
    greedy.train_from_iterator(["Review: Dull.\nSentiment: negative\n\n"] * 9, trainers.BpeTrainer(vocab_size=100, show_progress=False))
    joining = PreTrainedTokenizerFast(tokenizer_object=greedy)
    pool = make_examples(["Dull."] * 4)
    with pytest.raises(InputError, match=r"template .* joins? "):
        Case(joining, pool, 2, words=("negative", "nice")).build(Example(9, "Null.", "negative"))


# Content-free inputs.


@LAYOUTS
@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize("kind", ["contextual", "domain"])
def test_content_free_inputs_stand_where_a_review_stands(tokenizer, examples, template, shots, kind):
    case, inputs = Case(tokenizer, examples[50:], shots, template=template), content_free_inputs([kind], examples[50:])
    prompts = case.builder.build(case.sampler, case.builder.encode_content_free(inputs))
    for place, (prompt, item) in enumerate(zip(prompts, inputs, strict=True), start=1):
        query = Example(-place, item.text, LABELS[0])
        assert prompt.query == query
        case.assert_is(prompt, query)


@LAYOUTS
@pytest.mark.parametrize("shots", [0, 3])
def test_pmi_asks_for_the_label_without_a_review(tokenizer, examples, template, shots):
    """Holtzman et al. 2021: the premise behind the same demonstrations."""
    case = Case(tokenizer, examples[50:], shots, template=template)
    encoded = case.builder.encode_content_free(content_free_inputs(["pmi"], examples))
    (prompt,) = case.builder.build(case.sampler, encoded)
    shown = [case.demonstration(item) for item in case.sampler.sample(prompt.query, False)]
    assert prompt.prefix_ids + prompt.query_ids == case.ids(case.template.separator.join((*shown, case.template.premise)))
    assert prompt.query_ids


def test_content_free_inputs_are_those_of_a_review_of_the_same_text(tokenizer, examples):
    case, text = Case(tokenizer, examples[50:], 3), "words of the pool"
    (ours,) = case.builder.build(case.sampler, case.builder.encode_content_free([ContentFree("domain", text)]))
    (theirs,) = case.build(Example(5, text, "negative"))
    assert (ours.prefix_ids, ours.query_ids, ours.dropped) == (theirs.prefix_ids, theirs.query_ids, theirs.dropped)


def test_a_content_free_text_that_is_longer_than_the_context_is_cut(tokenizer, examples):
    """Its length is that of the pool's reviews, so no row of the evaluated file is to blame."""
    case = Case(tokenizer, examples[50:], 0, 30)
    (ours,) = case.builder.encode_content_free([ContentFree("domain", "so long a text " * 20)])
    assert ours.trimmed
    assert 25 < len(ours.alone) + case.longest_word <= 30
