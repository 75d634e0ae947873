"""Labelled reviews → classifiers that count words and letters → random sequences of words with their labels, to train a network on.

A small network that learns from few reviews learns them by heart; a penalised linear model of words cannot, and errs on other
reviews. Words out of their order show the network what that model holds of each of them (distillation: Hinton et al. 2015), and the
reviews themselves how words go together.

Let N be texts, W known words and runs of words.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS, Example

LONGEST_RUN = 3  # words that are counted together, and that stay together in a random sequence, at most
WORD_PENALTY, LETTER_PENALTY = 0.3, 3.0  # scikit-learn's C
LETTERS = 2, 5  # letters that are counted together, within a word and the spaces around it
SUREST = 1e-6  # a probability is as far from 0 and 1 at least: float32's log odds end near there
FLATTENING = 0.5  # of a word's frequency, for random sequences: 1 draws words as reviews have them, 0 all alike
LENGTHS = 6, 24  # words of a random sequence


class WordCounts:
    """Logistic regression on words and runs of words, each weighted by its naive-Bayes log ratio (Wang and Manning 2012).

    Args:
        examples: labelled reviews, of both labels.

    Raises:
        InputError: if a label is missing.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        # a second or two to import, for this alone
        from sklearn.feature_extraction.text import CountVectorizer  # type: ignore[import-untyped]

        is_positive = _labels(examples)
        self._vectorizer = CountVectorizer(binary=True, ngram_range=(1, LONGEST_RUN), token_pattern=r"\S+", dtype=np.float32)
        counts = self._vectorizer.fit_transform(example.review for example in examples)
        positive, negative = (1 + np.asarray(counts[chosen].sum(axis=0)).ravel() for chosen in (is_positive, ~is_positive))
        self._ratios = np.log(positive / positive.sum()) - np.log(negative / negative.sum())  # [W]
        self._model = _fit(counts.multiply(self._ratios).tocsr(), is_positive, examples, WORD_PENALTY)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """N texts → [N] probabilities of `positive`."""
        counts = self._vectorizer.transform(texts)
        found: NDArray[np.float64] = self._model.predict_proba(counts.multiply(self._ratios).tocsr())[:, 1]
        return found


class LetterCounts:
    """Logistic regression on runs of letters within words, weighted by tf-idf: it tells of words that no review has from their parts.

    Args:
        examples: labelled reviews, of both labels.

    Raises:
        InputError: if a label is missing, or no two reviews share a part of a word.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        is_positive = _labels(examples)
        self._vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=LETTERS, sublinear_tf=True, min_df=2)
        try:
            counts = self._vectorizer.fit_transform(example.review for example in examples)
        except ValueError as error:  # sklearn's word for an empty vocabulary
            raise InputError("no two training reviews share a part of a word; give a CSV with more reviews") from error
        self._model = _fit(counts, is_positive, examples, LETTER_PENALTY)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """N texts → [N] probabilities of `positive`."""
        found: NDArray[np.float64] = self._model.predict_proba(self._vectorizer.transform(texts))[:, 1]
        return found


def _labels(examples: Sequence[Example]) -> NDArray[np.bool_]:
    is_positive = np.array([example.sentiment == LABELS[1] for example in examples], dtype=bool)
    if not is_positive.any() or is_positive.all():
        missing = LABELS[0] if is_positive.any() else LABELS[1]
        raise InputError(f"no training review is {missing}; give a CSV with reviews of both labels")
    return is_positive


def _fit(features: Any, is_positive: NDArray[np.bool_], examples: Sequence[Example], penalty: float) -> Any:
    """Longer reviews weigh more, by the root of their words: what is classified in the end are sentences."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    words = np.array([len(example.review.split()) for example in examples])
    return LogisticRegression(C=penalty, solver="liblinear").fit(features, is_positive, sample_weight=np.sqrt(words))


def mean_log_odds(probabilities: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[N] probabilities of several classifiers → [N] probabilities whose log odds are the mean of theirs.

    The mean of classifiers that err on different texts is right more often than each (product of experts: Hinton 2002).
    """
    odds = [np.log(bounded) - np.log1p(-bounded) for each in probabilities for bounded in (each.clip(SUREST, 1 - SUREST),)]
    found: NDArray[np.float64] = 1 / (1 + np.exp(-np.mean(odds, axis=0)))
    return found


def random_sequences(examples: Sequence[Example], count: int, seed: int) -> list[str]:
    """Runs of one to `LONGEST_RUN` words of reviews, up to a length drawn from `LENGTHS`.

    Each holds a word that is drawn by the root of how often it stands in the reviews, in one of its places: by its frequency alone a rare
    word, as most of those that tell are, would hardly be shown.
    """
    generator = random.Random(f"word sequences {seed}")
    reviews = [example.review.split() for example in examples]
    places: dict[str, list[tuple[int, int]]] = {}
    for number, review in enumerate(reviews):
        for place, word in enumerate(review):
            places.setdefault(word, []).append((number, place))
    known = list(places)
    cumulative = np.cumsum([len(places[word]) ** FLATTENING for word in known]).tolist()
    sequences = []
    for _ in range(count):
        words: list[str] = []
        length = generator.randint(*LENGTHS)
        while len(words) < length:
            (word,) = generator.choices(known, cum_weights=cumulative)
            number, place = generator.choice(places[word])
            run = generator.randint(1, LONGEST_RUN)
            start = max(0, place - generator.randint(0, run - 1))
            words += reviews[number][start : start + run]
        sequences.append(" ".join(words))
    return sequences


def draw_labels(texts: Sequence[str], probabilities: NDArray[np.float64], seed: int) -> list[tuple[str, str, float]]:
    """(text, label, probability of that label) for each text, the label drawn with the probability that it is positive."""
    draws = np.random.default_rng(random.Random(f"word labels {seed}").getrandbits(128)).random(len(texts))
    labels = [
        (LABELS[1], probability) if draw < probability else (LABELS[0], 1 - probability)
        for draw, probability in zip(draws, probabilities.tolist(), strict=True)
    ]
    return [(text, *label) for text, label in zip(texts, labels, strict=True)]
