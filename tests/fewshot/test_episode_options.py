"""Episodes that differ: layouts, class proportions, short episodes, label words that the demonstrations alone tell."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.episodes import EpisodeOptions, Episodes
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.scores import Demonstration
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import load_tokenizer
from rope_gpt2.sequences import IGNORED, collate_sequences

TEMPLATES = (
    DEFAULT_TEMPLATE,
    "{text}\nSentiment: {label}\n\n",
    "{text} =>{label}\n",
    "Text: {text} It was {label} \n",
    "{text}\n{label}\n",
    "{text}\nAnswer: {label} ",  # the separator joins the next word
)
WORDS = [LABELS, ("bad", "utterly wonderful")]
MIXED = {"balance": 0.5, "random_words": 0.4, "flipped": 0.3, "max_shots": 3}
FREQUENT = ("movie", "the", "with", "film", "and", "good", "not", "a", "story", "of", "that", "This")  # one token behind a space
LONG = 100_000  # tokens; any prompt fits

fragments = [
    "Dull.",
    "isn't",
    "'s",
    "...",
    " ! ",
    "\n\nReview: ",
    "\nSentiment: negative",
    "\u0301",
    "(",
    '"',
    "\u3000",
    "<|endoftext|>",
    "--",
]
reviews = (
    st.lists(st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.sampled_from(fragments)), min_size=1, max_size=8)
    .map("".join)
    .filter(lambda text: text.strip())
)


@pytest.fixture(scope="module")
def shown(examples):
    return examples[:100]


@pytest.fixture(params=["trained", "GPT-2's"])
def any_tokenizer(request, tokenizer):
    if request.param == "trained":
        return tokenizer
    return load_tokenizer(str(request.getfixturevalue("sst2_folder").parent / "gpt2_tokenizer"))


def make(examples, tokenizer, max_length=160, seed=0, template=DEFAULT_TEMPLATE, words=LABELS, **options):
    return Episodes(examples, tokenizer, Template(template), Verbalizer(words), max_length, seed, EpisodeOptions(**options))


class Shown:
    """One episode whose label words are one token each, as it stands in a sequence, read back with the prompts' own tokens.

    Attributes:
        examples: what it shows.
        tokens: its token ids.
        labels: the token ids shown as the label of each example.
        places: where each label begins in the sequence.
    """

    def __init__(self, examples, item, start, tokenizer, template):
        builder = PromptBuilder(tokenizer, template, Verbalizer(), LONG)
        self.examples, self.labels, self.places, place = examples, [], [], start
        for number, query in enumerate(builder.encode(examples)):
            head = list(query.later if number else query.alone)
            assert item.input_ids[place : place + len(head)].tolist() == head
            place += len(head)
            self.places.append(place)
            self.labels.append((int(item.input_ids[place]),))
            place += 1
        self.tokens, self.end = item.input_ids[start:place].tolist(), place


def read(episodes, examples, tokenizer, templates, epoch=0):
    """All episodes of an epoch whose label words are one token each, with the sequence they stand in and its template."""
    for index in range(len(episodes)):
        item, start = episodes.get(epoch, index), 0
        template = templates[episodes._epoch(epoch).templates[index]]
        for members in episodes.members(epoch, index):
            shown = Shown([examples[member] for member in members], item, start, tokenizer, template)
            start = shown.end
            yield item, template, shown


def prompt_ids(examples, tokenizer, template, verbalizer):
    """Token ids of the prompt whose query is the last of the examples, and of its label word."""
    *shown, query = examples
    demonstrations = [Demonstration(example.row, example.review, example.sentiment, example.sentiment) for example in shown]
    sampler = SimpleNamespace(prepare=lambda queries: None, sample=lambda query, from_pool: demonstrations)
    builder = PromptBuilder(tokenizer, template, verbalizer, LONG)
    (prompt,) = builder.build(sampler, builder.encode([query]))
    return [*prompt.prefix_ids, *prompt.query_ids, *builder.label_token_ids[LABELS.index(query.sentiment)]]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_an_episode_is_the_prompt_with_the_same_demonstrations(shown, any_tokenizer, template, words):
    episodes = make(shown, any_tokenizer, template=template, words=words)
    for index in range(len(episodes)):
        (members,) = episodes.members(0, index)
        theirs = prompt_ids([shown[member] for member in members], any_tokenizer, Template(template), Verbalizer(words))
        assert episodes.get(0, index).input_ids[: len(theirs)].tolist() == theirs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(reviews, min_size=1, max_size=5), template=st.sampled_from(TEMPLATES))
def test_an_episode_of_any_reviews_is_the_prompt_with_the_same_demonstrations(any_tokenizer, texts, template):
    examples = [Example(row, text, LABELS[row % 2]) for row, text in enumerate(texts, start=1)]
    episodes = make(examples, any_tokenizer, 1024, template=template)
    for index in range(len(episodes)):
        (members,) = episodes.members(0, index)
        theirs = prompt_ids([examples[member] for member in members], any_tokenizer, Template(template), Verbalizer())
        assert episodes.get(0, index).input_ids[: len(theirs)].tolist() == theirs


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.lists(st.sampled_from(FREQUENT), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8, unique=True),
    template=st.sampled_from(["{text}\nAnswer: {label} ", "{text} => {label}  ", "Q{text}\n{label} "]),
    max_shots=st.integers(0, 3),
    spare=st.integers(3, 20),
)
def test_examples_fit_wherever_they_stand(tokenizer, texts, template, max_shots, spare):
    examples = [Example(row, text, LABELS[row % 2]) for row, text in enumerate(texts, start=1)]
    alone = max(len(prompt_ids([example], tokenizer, Template(template), Verbalizer())) for example in examples)
    episodes = make(examples, tokenizer, alone + spare, template=template, max_shots=max_shots)
    assert not episodes.left_out
    for index in range(len(episodes)):
        theirs = [
            prompt_ids([examples[member] for member in members], tokenizer, Template(template), Verbalizer())
            for members in episodes.members(0, index)
        ]
        together = [token for ids in theirs for token in ids]
        assert episodes.get(0, index).input_ids[: len(together)].tolist() == together


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_episode_with_words_of_its_own_is_the_prompt_with_those_words(shown, any_tokenizer, template):
    episodes = make(shown, any_tokenizer, template=template, random_words=1.0)
    for _, layout, episode in read(episodes, shown, any_tokenizer, [Template(template)]):
        by_label = {example.sentiment: label for example, label in zip(episode.examples, episode.labels, strict=True)}
        if len(by_label) == 2:
            words = tuple(any_tokenizer.decode(by_label[label]).strip() for label in LABELS)
            assert set(words) <= set(episodes.random_words)
            assert episode.tokens == prompt_ids(episode.examples, any_tokenizer, layout, Verbalizer(words))


def test_all_templates_are_dealt_out_evenly_and_every_example_stands_once(shown, tokenizer):
    episodes = make(shown, tokenizer, templates=TEMPLATES)
    for epoch in range(3):
        counts = Counter(episodes._epoch(epoch).templates.tolist())
        assert len(counts) == len(TEMPLATES)
        assert max(counts.values()) - min(counts.values()) <= 1
        stood = []
        for index, template in enumerate(episodes._epoch(epoch).templates):
            (members,) = episodes.members(epoch, index)
            theirs = prompt_ids([shown[member] for member in members], tokenizer, Template(TEMPLATES[template]), Verbalizer())
            assert episodes.get(epoch, index).input_ids[: len(theirs)].tolist() == theirs
            stood += members
        assert sorted(stood) == list(range(len(shown)))
    assert not np.array_equal(episodes._epoch(0).templates, episodes._epoch(1).templates)


def test_labels_count_once_the_demonstrations_tell_their_words(shown, tokenizer):
    usual = Verbalizer().token_ids(tokenizer, Template())
    kinds = Counter()
    episodes = make(shown, tokenizer, **(MIXED | {"max_shots": 0}))
    for item, _, episode in (found for epoch in range(4) for found in read(episodes, shown, tokenizer, [Template()], epoch)):
        by_label = {LABELS.index(example.sentiment): label for example, label in zip(episode.examples, episode.labels, strict=True)}
        kind = next(
            (name for name, ids in (("usual", usual), ("flipped", usual[::-1])) if all(ids[key] == by_label[key] for key in by_label)), ""
        )
        kinds[kind] += 1
        needed = {"usual": 0, "flipped": 1, "": 2}[kind]
        for number, (label, place) in enumerate(zip(episode.labels, episode.places, strict=True)):
            known = len(set(episode.labels[:number])) >= needed
            assert item.is_label[place - 1] == known
            assert item.targets[place - 1] == (label[0] if known else IGNORED)
    total = sum(kinds.values())
    assert total > 60
    for kind, share in (("usual", 0.3), ("flipped", 0.3), ("", 0.4)):
        assert abs(kinds[kind] / total - share) < 4 * (share * (1 - share) / total) ** 0.5


@pytest.mark.parametrize("words", WORDS)
def test_every_token_of_an_exchanged_label_word_counts_from_the_second_on(shown, tokenizer, words):
    ids = Verbalizer(words).token_ids(tokenizer, Template())
    episodes = make(shown, tokenizer, words=words, flipped=1.0)
    for index in range(len(episodes)):
        (members,) = episodes.members(0, index)
        item = episodes.get(0, index)
        exchanged = [token for member in members[1:] for token in ids[shown[member].sentiment == "negative"]]
        assert item.targets[item.is_label].tolist() == exchanged


@pytest.mark.parametrize("max_shots", [1, 3, 50])
def test_short_episodes_keep_apart_and_fill_their_sequence(shown, tokenizer, max_shots):
    episodes = make(shown, tokenizer, max_shots=max_shots)
    assert len(episodes) == len(make(shown, tokenizer))
    for index in range(len(episodes)):
        item, ends = episodes.get(0, index), []
        for members in episodes.members(0, index):
            assert len(members) <= max_shots + 1
            start = ends[-1] if ends else 0
            ours = Shown([shown[member] for member in members], item, start, tokenizer, Template())
            ends.append(ours.end)
            assert item.position_ids[start : ours.end].tolist() == list(range(ours.end - start))
            assert item.targets[start : ours.end - 1].tolist() == ours.tokens[1:]
            assert item.targets[ours.end - 1] == IGNORED  # an episode does not foretell the next
            assert not item.is_label[ours.end - 1]
        assert item.position_ids[ends[-1] :].tolist() == list(range(160 - ends[-1]))
        assert (item.targets[ends[-1] :] == IGNORED).all()
    batch = collate_sequences([episodes.get(0, index) for index in range(2)])
    assert batch.position_ids.shape == batch.input_ids.shape


def test_proportions_vary_where_they_are_drawn(tokenizer):
    examples = [Example(row, f"film {row:05} is so", LABELS[row % 3 > 0]) for row in range(1, 1201)]

    def proportions(balance):
        episodes = make(examples, tokenizer, balance=balance)
        members = [episodes.members(0, index)[0] for index in range(len(episodes))]
        assert sorted(member for sequence in members for member in sequence) == list(range(len(examples)))  # each once all the same
        return np.array([np.mean([examples[member].sentiment == "positive" for member in sequence]) for sequence in members])

    assert np.std(proportions(1.0)) > 1.25 * np.std(proportions(0.0))
    assert abs(np.mean(proportions(1.0)) - 2 / 3) < 0.03


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.one_of(st.sampled_from(["good", "Good", " GOOD ", "bad", "so so"]), reviews), min_size=1, max_size=12),
    max_length=st.integers(16, 120),
    options=st.sampled_from([{}, {"balance": 1.0}, {"templates": TEMPLATES}, {"max_shots": 1}, MIXED | {"templates": TEMPLATES[:2]}]),
)
def test_no_text_stands_twice_in_a_sequence_and_the_same_number_of_sequences_is_full(tokenizer, texts, max_length, options):
    examples = [Example(row, text, LABELS[row % 2]) for row, text in enumerate(texts, start=1)]
    try:
        episodes = make(examples, tokenizer, max_length, **options)
    except InputError as error:
        if "no training review fits" not in str(error):
            raise
        return
    folded = [" ".join(text.lower().split()) for text in texts]
    for epoch in range(2):
        seen = []
        for index in range(len(episodes)):
            assert len(episodes.get(epoch, index).input_ids) == max_length
            members = [member for part in episodes.members(epoch, index) for member in part]
            assert len({folded[member] for member in members}) == len(members)
            seen += members
        assert len(set(seen)) == len(seen) <= len(examples) - episodes.left_out
        if len(set(folded)) == len(folded) and all(text.isascii() for text in texts):
            assert len(seen) == len(examples) - episodes.left_out


def test_texts_that_the_tokenizer_reads_the_same_never_stand_together(tokenizer):
    texts = ["Don't go.", "do n't go .", "DON’T GO.", *(f"Film {row} is fine." for row in range(40))]
    examples = [Example(row, text, LABELS[row % 2]) for row, text in enumerate(texts, start=1)]
    episodes = make(examples, tokenizer, 128)
    for epoch in range(20):
        for index in range(len(episodes)):
            assert sum(member < 3 for member in episodes.members(epoch, index)[0]) <= 1


def test_a_sequence_with_all_options_is_a_function_of_seed_epoch_and_index(shown, tokenizer):
    options = MIXED | {"templates": TEMPLATES[:3]}
    ours, theirs = make(shown, tokenizer, seed=3, **options), make(shown, tokenizer, seed=3, **options)
    for epoch, index in ((2, 1), (0, 0), (2, 0), (0, 1)):  # asked in another order, as after a resume
        theirs.get(1, index)
        for our, their in zip(ours.get(epoch, index)[:4], theirs.get(epoch, index)[:4], strict=True):
            assert torch.equal(our, their)
    assert any(
        not torch.equal(ours.get(0, 0).input_ids, other.input_ids)
        for other in (ours.get(1, 0), make(shown, tokenizer, **options).get(0, 0))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": 1.5}, r"balance must be a share in \[0, 1\], got 1\.5"),
        ({"random_words": -0.1}, r"random_words must be a share in \[0, 1\], got -0\.1"),
        ({"flipped": float("nan")}, r"flipped must be a share in \[0, 1\], got nan"),
        ({"random_words": 0.6, "flipped": 0.6}, r"random_words and flipped must be at most 1 together, got 0\.6 and 0\.6"),
        ({"max_shots": -1}, r"max_shots must be 0 \(as many as fit\) or more, got -1"),
        ({"random_words_pool": 1}, r"random_words_pool must be 0 \(all words\) or at least 2, got 1"),
        ({"templates": ["{text}"]}, r"template must hold \{text\} once"),
    ],
)
def test_options_that_make_no_sense_are_refused(shown, tokenizer, options, message):
    with pytest.raises(InputError, match=message):
        make(shown, tokenizer, **options)
