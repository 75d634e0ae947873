"""Random sequences of words, with the labels of classifiers that count words and letters."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from running import ROOT, call

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS, Example, read_examples
from rope_gpt2.fewshot.splits import hold_out
from rope_gpt2.training.word_counts import LENGTHS, LONGEST_RUN, LetterCounts, WordCounts, draw_labels, mean_log_odds, random_sequences

DEMO = ROOT / "data" / "demo.csv"


@pytest.fixture(scope="module")
def examples():
    return read_examples(DEMO)


@pytest.mark.parametrize("classifier", [WordCounts, LetterCounts])
def test_a_word_counts_as_its_reviews_are_labelled(classifier):
    good = [Example(row, f"wonderful film number {row}", "positive") for row in range(8)]
    bad = [Example(row, f"awful film number {row}", "negative") for row in range(8)]
    wonderful, awful, unknown, both = classifier(good + bad).probabilities(["Wonderful .", "awful .", "zebra", "awful wonderful"])
    assert wonderful > 0.6 > 0.4 > awful
    assert unknown == pytest.approx(0.5, abs=0.05)
    assert awful + 0.1 < both < wonderful - 0.1


def test_letters_tell_of_a_word_that_no_review_has():
    good = [Example(row, f"{word} film", "positive") for row, word in enumerate(["hopeful", "joyful", "hopefully", "joyfully"])]
    bad = [Example(row, f"{word} film", "negative") for row, word in enumerate(["hopeless", "joyless", "hopelessly", "joylessly"])]
    texts = ["thoughtful", "thoughtless"]
    full, less = LetterCounts(good + bad).probabilities(texts)
    assert full > 0.55 > 0.45 > less
    assert WordCounts(good + bad).probabilities(texts) == pytest.approx([0.5, 0.5], abs=0.01)


@pytest.mark.sst2
@pytest.mark.parametrize("classifier", [WordCounts, LetterCounts])
def test_on_sst2_sentences_that_it_has_not_counted_it_is_far_above_chance(classifier, sst2_folder: Path):
    training, held_out = hold_out(read_examples(sst2_folder / "train.csv")[::5], 500, seed=0)
    probabilities = classifier(training).probabilities([example.review for example in held_out])
    right = (probabilities > 0.5) == [example.sentiment == "positive" for example in held_out]
    assert right.mean() > 0.65


@pytest.mark.parametrize("classifier", [WordCounts, LetterCounts])
def test_only_one_label_is_refused(classifier, examples):
    for label, missing in (LABELS, LABELS[::-1]):
        with pytest.raises(InputError, match=f"no training review is {missing}"):
            classifier([example for example in examples if example.sentiment == label])


def test_reviews_that_share_no_part_of_a_word_are_refused():
    with pytest.raises(InputError, match="share a part of a word"):
        LetterCounts([Example(1, "good", "positive"), Example(2, "ill", "negative")])


def test_sequences_are_made_of_runs_of_the_reviews_alone(examples):
    sequences = random_sequences(examples, 200, seed=0)
    pairs = {tuple(pair) for e in examples for pair in itertools.pairwise(e.review.split())}
    words = {word for example in examples for word in example.review.split()}
    shares = []
    for sequence in sequences:
        parts = sequence.split()
        assert LENGTHS[0] <= len(parts) < LENGTHS[1] + LONGEST_RUN
        assert words.issuperset(parts)
        shares.append(np.mean([pair in pairs for pair in itertools.pairwise(parts)]))
    assert 0.3 < np.mean(shares) < 0.9  # runs stay together, a sequence does not
    assert sequences == random_sequences(examples, 200, seed=0) != random_sequences(examples, 200, seed=1)


def test_rare_words_stand_in_sequences_more_often_than_in_reviews():
    reviews = [Example(row, f"a film film film word{row}", LABELS[row % 2]) for row in range(100)]
    words = [word for sequence in random_sequences(reviews, 300, seed=0) for word in sequence.split()]
    rare = [word for word in words if word.startswith("word")]
    assert len(rare) > 1.5 * len(words) / 5  # a fifth of the reviews' words
    assert len(set(rare)) == 100


def test_labels_are_drawn_with_their_probability():
    texts = [str(number) for number in range(4000)]
    drawn = draw_labels(texts, np.full(4000, 0.8), seed=0)
    assert [text for text, _, _ in drawn] == texts
    share = np.mean([label == "positive" for _, label, _ in drawn])
    assert share == pytest.approx(0.8, abs=0.03)
    assert {(label, round(probability, 6)) for _, label, probability in drawn} == {("positive", 0.8), ("negative", 0.2)}
    assert drawn == draw_labels(texts, np.full(4000, 0.8), seed=0) != draw_labels(texts, np.full(4000, 0.8), seed=1)


def test_the_mean_of_log_odds_is_that_of_several_classifiers():
    first, second = np.array([0.9, 0.2, 0.5, 1.0]), np.array([0.9, 0.8, 0.1, 0.0])
    assert mean_log_odds([first]) == pytest.approx([0.9, 0.2, 0.5, 1.0], abs=1e-5)
    assert mean_log_odds([first, second]) == pytest.approx([0.9, 0.5, 0.25, 0.5])
    assert mean_log_odds([first, first, second])[1] == pytest.approx(1 / (1 + 4 ** (1 / 3)))


def test_the_command_writes_a_file_that_fit_takes(tmp_path, capsys):
    output = tmp_path / "words.csv"
    options = ["--train", str(DEMO), "--validation", "configs/../data/demo.csv", "--count", "30", "--output", str(output)]
    assert call(["words", *options]) == 2  # its own validation file
    assert "is both training and validation file" in capsys.readouterr().err
    assert not output.exists()
    options[2:4] = ["--holdout", "50"]
    assert call(["words", *options]) == 0
    assert "30 sequences of their words" in capsys.readouterr().out
    rows = list(csv.DictReader(output.open()))
    assert len(rows) == 30
    assert [example.sentiment for example in read_examples(output)] == [row["sentiment"] for row in rows]
    first = output.read_bytes()
    assert call(["words", *options]) == 0
    assert output.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--count", "0"], "--count must be at least 1"),
        (["--count", "many"], "invalid int value"),
        (["--holdout", "0"], "holdout must lie between 1"),
        (["--train", "nowhere.csv"], "nowhere.csv"),
        (["--output", "/proc/none/words.csv"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, options, said):
    given = {"--train": str(DEMO), "--holdout": "50", "--output": str(tmp_path / "out.csv")} | dict([options])
    assert call(["words", *(part for pair in given.items() for part in pair)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(("error: ", "rope-gpt2 words: error: "))
    assert said in error
    assert not (tmp_path / "out.csv").exists()


def test_held_out_reviews_are_not_counted(tmp_path):
    """A word that only held-out reviews have is never written."""
    reviews = [(f"the film number {row} is just about fine word{row}", LABELS[row % 2]) for row in range(60)]
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("review", "sentiment"), *reviews])
    output = tmp_path / "out.csv"
    assert call(["words", "--train", str(path), "--holdout", "20", "--count", "2000", "--output", str(output)]) == 0
    written = {word for example in read_examples(output) for word in example.review.split() if word.startswith("word")}
    assert len(written) == 40
