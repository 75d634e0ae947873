"""Packing: every example once an epoch, no sequence too long, no text twice in one, whatever the lengths."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.fewshot.episode_packing import Packing

MAX_LENGTH = 40


@st.composite
def cases(draw):
    """Lengths under each template, classes, texts."""
    count, templates = draw(st.integers(1, 60)), draw(st.integers(1, 3))
    base = draw(st.lists(st.integers(1, MAX_LENGTH - 10), min_size=count, max_size=count))
    extra = draw(st.lists(st.integers(0, 10), min_size=templates, max_size=templates))
    positive = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    texts = draw(st.lists(st.integers(0, draw(st.sampled_from([3, 20, 10**6]))), min_size=count, max_size=count))
    return np.array(extra)[:, None] + np.array(base), np.array(positive), np.array(texts)


@settings(max_examples=150, deadline=None)
@given(case=cases(), balance=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 100))
def test_an_epoch_deals_each_example_out_once_and_parts_equal_texts(case, balance, seed):
    lengths, positive, texts = case
    packing = Packing(lengths, positive, texts, MAX_LENGTH, balance)
    epoch = packing.epoch(np.random.default_rng(seed))
    sequences = [epoch.sequence(index) for index in range(len(packing))]
    dealt = [member for sequence in sequences for member in sequence]
    assert len(set(dealt)) == len(dealt)
    missing = set(range(len(texts))) - set(dealt)
    assert all((texts == texts[member]).sum() > 1 for member in missing)
    for sequence, template in zip(sequences, epoch.templates, strict=True):
        assert lengths[template, sequence].sum() <= MAX_LENGTH
        assert len(set(texts[sequence].tolist())) == len(sequence)


def test_a_repeated_text_finds_another_place_where_there_is_one():
    texts = np.array([0, 0, 0, *range(1, 38)])
    packing = Packing(np.full((1, 40), 10), np.zeros(40, dtype=bool), texts, MAX_LENGTH)
    for seed in range(50):
        assert len(packing.epoch(np.random.default_rng(seed)).members) == 40


def test_examples_of_one_length_meet_others_in_each_epoch():
    lengths = np.array([[10] * 100])
    packing = Packing(lengths, np.arange(100) % 2 == 0, np.arange(100), MAX_LENGTH)
    pairs = set()
    for seed in range(300):
        epoch = packing.epoch(np.random.default_rng(seed))
        pairs |= {other for index in range(len(packing)) for other in epoch.sequence(index) if 0 in epoch.sequence(index)}
    assert len(pairs) == 100


def test_the_longest_example_stands_under_every_template():
    lengths = np.array([[30, *range(2, 22)], [32, *range(4, 24)]])
    packing = Packing(lengths, np.arange(21) % 2 == 0, np.arange(21), MAX_LENGTH)
    templates = set()
    for seed in range(50):
        epoch = packing.epoch(np.random.default_rng(seed))
        templates |= {int(epoch.templates[index]) for index in range(len(packing)) if 0 in epoch.sequence(index)}
    assert templates == {0, 1}
