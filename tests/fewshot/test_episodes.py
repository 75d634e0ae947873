"""Training sequences: every example once an epoch and whole, every label word a target, the same for the same seed and epoch."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.episodes import EpisodeOptions, Episodes
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.template import DEFAULT_TEMPLATE, Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.sequences import IGNORED, collate_sequences

TEMPLATES = [DEFAULT_TEMPLATE, "{text}\nSentiment: {label}\n\n", "{text} =>{label}\n", "Text: {text} It was {label} \n"]
WORDS = [LABELS, ("bad", "utterly wonderful")]
SHOWN = 100  # examples; enough for some twenty sequences


@pytest.fixture(scope="module")
def tokenizer(examples):
    """Without the normalizer, so that decoding gives back the very text."""
    texts = [Template().demonstration(example.review, example.sentiment) + Template().separator for example in examples]
    return train_tokenizer(texts, vocab_size=600, normalize=False)


@pytest.fixture(scope="module")
def shown(examples):
    return examples[:SHOWN]


def make(examples, tokenizer, max_length=128, seed=0, template=DEFAULT_TEMPLATE, words=LABELS):
    return Episodes(examples, tokenizer, Template(template), Verbalizer(words), max_length, seed)


def length(item) -> int:
    """Tokens of a sequence: its last has no target."""
    return int((item[1] != IGNORED).sum()) + 1


def texts(episodes, tokenizer, epoch=0) -> list[str]:
    items = [episodes.get(epoch, index) for index in range(len(episodes))]
    return [tokenizer.decode(item[0][: length(item)]) for item in items]


@pytest.mark.parametrize("epoch", range(4))
def test_each_example_stands_once_and_whole_in_every_epoch(shown, tokenizer, epoch):
    template = Template()
    ours = Counter(text for sequence in texts(make(shown, tokenizer), tokenizer, epoch) for text in sequence.split(template.separator))
    assert ours == Counter(template.demonstration(example.review, example.sentiment) for example in shown)


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_sequence_is_the_text_of_the_template(shown, tokenizer, template, words):
    layout, verbalizer = Template(template), Verbalizer(words)
    known = {layout.demonstration(example.review, verbalizer.word(example.sentiment)) for example in shown}
    episodes = make(shown, tokenizer, template=template, words=words)
    for index, text in enumerate(texts(episodes, tokenizer)):
        item = episodes.get(0, index)
        assert set(text.split(layout.separator)) <= known
        assert item[0][: length(item)].tolist() == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_token_of_every_label_word_is_a_target_and_flagged(shown, tokenizer, template, words):
    layout, verbalizer = Template(template), Verbalizer(words)
    sentiments = {layout.query(example.review): example.sentiment for example in shown}
    ids = dict(zip(LABELS, verbalizer.token_ids(tokenizer, layout), strict=True))
    episodes = make(shown, tokenizer, template=template, words=words)
    for index in range(len(episodes)):
        item = episodes.get(0, index)
        tokens, targets, is_label = item[:3]
        text = tokenizer.decode(tokens[: length(item)]).strip("\n")
        labels = [
            next(sentiment for query, sentiment in sentiments.items() if part.startswith(query)) for part in text.split(layout.separator)
        ]
        assert targets[is_label].tolist() == [token for label in labels for token in ids[label]]


@pytest.mark.parametrize("max_length", [64, 128, 300])
def test_targets_are_the_next_tokens_and_padding_is_ignored(shown, tokenizer, max_length):
    episodes = make(shown, tokenizer, max_length)
    for index in range(len(episodes)):
        item = episodes.get(0, index)
        tokens, targets, is_label = item[:3]
        end = length(item)
        assert tokens.shape == targets.shape == is_label.shape == (max_length,)
        assert end <= max_length
        assert targets[: end - 1].tolist() == tokens[1:end].tolist()
        assert (targets[end - 1 :] == IGNORED).all()
        assert (tokens[end:] == tokenizer.pad_token_id).all()
        assert not is_label[targets == IGNORED].any()


def test_a_sequence_is_a_function_of_seed_epoch_and_index(shown, tokenizer):
    ours, theirs = make(shown, tokenizer, seed=3), make(shown, tokenizer, seed=3)
    for epoch, index in ((2, 1), (0, 0), (2, 0), (0, 1)):  # asked in another order, as after a resume
        theirs.get(1, index)
        for our, their in zip(ours.get(epoch, index)[:3], theirs.get(epoch, index)[:3], strict=True):
            assert torch.equal(our, their)


def test_epochs_and_seeds_differ_in_order(shown, tokenizer):
    assert texts(make(shown, tokenizer), tokenizer, epoch=0) != texts(make(shown, tokenizer), tokenizer, epoch=1)
    assert texts(make(shown, tokenizer, seed=0), tokenizer) != texts(make(shown, tokenizer, seed=1), tokenizer)


@pytest.mark.parametrize("max_length", [64, 128, 300])
def test_sequences_are_filled(shown, tokenizer, max_length):
    """Were two neighbours less than full together, they would be one: so there are at most twice as many as the tokens need."""
    episodes = make(shown, tokenizer, max_length)
    assert len(episodes) <= 2 * episodes.num_tokens / max_length + 1


def test_too_long_examples_are_left_out_and_counted(shown, tokenizer):
    long = [Example(row, "very " * 200 + "long", "negative") for row in (1001, 1002)]
    episodes = make([*shown[:10], long[0], *shown[10:], long[1]], tokenizer)
    assert episodes.left_out == 2
    assert not any("very very very" in text for text in texts(episodes, tokenizer))
    assert sum(text.count("Sentiment:") for text in texts(episodes, tokenizer)) == len(shown)
    assert make(shown, tokenizer).left_out == 0


def test_an_example_that_fills_a_sequence_is_kept(tokenizer):
    example = Example(1, "A long and winding film.", "negative")
    layout = Template()
    needed = len(tokenizer(layout.separator + layout.demonstration(example.review, "negative"))["input_ids"])
    assert make([example], tokenizer, needed).left_out == 0
    assert length(make([example], tokenizer, needed).get(0, 0)) <= needed


def test_reviews_of_which_none_fits_are_refused(shown, tokenizer):
    with pytest.raises(InputError, match=r"no training review fits 4 tokens; raise data\.max_length or shorten the reviews"):
        make(shown, tokenizer, 4)


def test_a_batch_stacks_sequences(shown, tokenizer):
    episodes = make(shown, tokenizer)
    batch = collate_sequences([episodes.get(0, index) for index in range(3)])
    assert batch.input_ids.shape == batch.targets.shape == batch.is_label.shape == (3, 128)
    assert batch.position_ids is None
    for ours, theirs in zip(batch[:3], episodes.get(0, 2)[:3], strict=True):
        assert torch.equal(ours[2], theirs)


@pytest.mark.parametrize("options", [EpisodeOptions(), EpisodeOptions(max_shots=2, flipped=0.5)], ids=["plain", "flipped"])
def test_a_label_in_doubt_stands_beside_its_target_with_the_other_word(shown, tokenizer, options):
    doubtful = [replace(example, confidence=0.5 + row / 1000) for row, example in enumerate(shown)]
    certain, doubted = (Episodes(some, tokenizer, Template(), Verbalizer(), 128, 0, options) for some in (shown, doubtful))
    ids = {tokens[0] for tokens in Verbalizer().token_ids(tokenizer, Template())}
    for index in range(len(doubted)):
        plain, item = certain.get(0, index), doubted.get(0, index)
        assert plain.doubts is None
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(item[:3], plain[:3], strict=True))
        members = [member for episode in doubted.members(0, index) for member in episode]
        written = item.doubts[item.doubts > 0].tolist()
        assert written == pytest.approx([1 - doubtful[member].confidence for member in members])
        for place in item.doubts.nonzero()[:, 0].tolist():
            assert {int(item.input_ids[place + 1]), int(item.others[place])} == ids
        assert (item.doubts > 0)[item.is_label].all()


def test_a_label_in_doubt_that_is_not_one_token_is_refused(shown, tokenizer):
    doubtful = [replace(shown[0], confidence=0.5), *shown[1:]]
    with pytest.raises(InputError, match=r"soft labels need label words of one token each.*model\.new_words"):
        make(doubtful, tokenizer, words=("bad", "utterly wonderful"))
