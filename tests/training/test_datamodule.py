"""SentimentDataModule: what is trained on beside the training file, and how episodes are asked to differ."""

import csv
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from running import DEMO, call, fit_arguments

from rope_gpt2.corpus.overlap import words_of
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.episodes import EpisodeOptions, Episodes
from rope_gpt2.fewshot.examples import Example, read_examples
from rope_gpt2.sequences import Mixture, collate_sequences
from rope_gpt2.training import training_sequences
from rope_gpt2.training.datamodule import SentimentDataModule

REVIEWS = [example.review for example in read_examples(DEMO)]
NEW = [f"A {word} film that nobody has seen before, number {number}." for number, word in enumerate(["fine", "dull"] * 20)]


def write_csv(path: Path, reviews: Sequence[str]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["review", "sentiment"])
        writer.writerows((review, "positive" if place % 2 else "negative") for place, review in enumerate(reviews))
    return str(path)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A training file, one that is evaluated, and one that holds reviews of both beside new ones, not quite as they stand there."""
    train, test = REVIEWS[:300], REVIEWS[300:]
    disguised = [re.sub(r"([.,!?])", r" \1", review).replace("n't", " n't") + " ..." for review in test]
    quoted = [f"They say: {review} Indeed." for review in test if len(words_of(review)) >= 5]
    more = [*(f"  {review.upper()} " for review in [*train, *test]), *disguised, *quoted, *NEW]
    parts = {"train": train, "test": test, "more": more}
    return {name: write_csv(tmp_path / f"{name}.csv", reviews) for name, reviews in parts.items()}


def key(text: str) -> str:
    return " ".join(words_of(text))


def trained_on(data: SentimentDataModule, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Example], EpisodeOptions]:
    """The examples that episodes are made of, and how."""
    made: list[tuple[list[Example], EpisodeOptions]] = []

    class Watched(Episodes):
        def __init__(self, examples: Sequence[Example], *arguments: Any) -> None:
            made.append((list(examples), arguments[-1]))
            super().__init__(examples, *arguments)

    monkeypatch.setattr(training_sequences, "Episodes", Watched)
    data.train_dataloader()
    return made[0]


@pytest.mark.parametrize("option", ["test", "validation"])
def test_more_reviews_to_train_on_hold_none_that_is_held_out_or_evaluated(files: dict[str, str], option: str, monkeypatch):
    names = {"test": files["test"]} if option == "test" else {"test": files["test"], "validation": files["test"]}
    data = SentimentDataModule(train=files["train"], holdout=60, more_train=[files["more"]], max_length=256, **names)
    examples, _ = trained_on(data, monkeypatch)
    trained = {key(example.review) for example in examples}
    judged = {key(example.review) for example in data.plan_prompts("validate").queries}
    assert len(judged) == (60 if option == "test" else len(REVIEWS[300:]))
    assert not trained & (judged | set(map(key, REVIEWS[300:])))
    assert not any("they say" in review for review in trained)
    assert trained >= set(map(key, NEW))
    assert len(trained) == 300 + len(NEW) - (60 if option == "test" else 0)


def test_more_reviews_are_no_demonstrations(files: dict[str, str]):
    data = SentimentDataModule(train=files["train"], test=files["test"], holdout=60, more_train=[files["more"]], max_length=256)
    shown = {example.review for sampler in data.plan_prompts("validate").samplers for example in sampler.pool.examples}
    assert shown
    assert shown <= set(REVIEWS[:300])


@pytest.mark.parametrize("words", [0, 1, 8])
def test_reviews_of_fewer_words_are_not_trained_on_and_stay_demonstrations(files: dict[str, str], words: int, monkeypatch):
    options = {"train": files["train"], "test": files["test"], "holdout": 60, "max_length": 256}
    data = SentimentDataModule(**options, more_train=[files["more"]], min_words=words)
    whole = SentimentDataModule(**options, more_train=[files["more"]])
    ours, theirs = trained_on(data, monkeypatch)[0], trained_on(whole, monkeypatch)[0]
    assert ours == [example for example in theirs if len(example.review.split()) >= words]
    assert (len(ours) < len(theirs)) == (words == 8)
    assert data.plan_prompts("validate").samplers[0].pool.examples == whole.plan_prompts("validate").samplers[0].pool.examples


def test_soft_labels_are_the_confidences_of_more_train_alone(files: dict[str, str], tmp_path: Path, monkeypatch):
    soft = tmp_path / "soft.csv"
    soft.write_text(
        "review,sentiment,confidence\n" + "".join(f'"{review}",positive,0.{row}\n' for row, review in enumerate(NEW[:9], start=1))
    )
    options = {"train": files["train"], "test": files["test"], "holdout": 60, "max_length": 256, "more_train": [str(soft)]}
    confidences = [example.confidence for example in trained_on(SentimentDataModule(**options, soft_labels=True), monkeypatch)[0]]
    assert [confidence for confidence in confidences if confidence < 1] == [row / 10 for row in range(1, 10)]
    assert {example.confidence for example in trained_on(SentimentDataModule(**options), monkeypatch)[0]} == {1.0}


def test_soft_labels_without_more_reviews_are_refused(files: dict[str, str]):
    with pytest.raises(InputError, match=r"soft_labels is of the reviews of data\.more_train"):
        SentimentDataModule(train=files["train"], soft_labels=True)


def test_the_default_test_set_is_kept_out_of_training_where_it_is_on_disk(files: dict[str, str], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("ROPE_GPT2_DATA", str(tmp_path))
    (tmp_path / "sst2").mkdir()
    write_csv(tmp_path / "sst2" / "validation.csv", REVIEWS[250:])
    data = SentimentDataModule(train=files["train"], holdout=60, more_train=[files["more"]], max_length=256)
    trained = {key(example.review) for example in trained_on(data, monkeypatch)[0]}
    assert not trained & set(map(key, REVIEWS[250:]))
    assert len(trained) == 250 - 60 + len(NEW)


def test_a_least_length_that_no_review_has_is_refused():
    data = SentimentDataModule(train=str(DEMO), test=str(DEMO), holdout=60, min_words=1000, max_length=256)
    with pytest.raises(InputError, match="min_words"):
        data.train_dataloader()


def test_the_options_of_episodes_reach_them(monkeypatch):
    given = {"random_words": 0.25, "random_words_pool": 50, "held_out_words": ["foo"], "flipped": 0.125}
    templates = ["{text} => {label}\n", "{text}\n{label}\n"]
    more = {"episode_templates": templates, "episode_balance": 0.5, "episode_shots": 3}
    data = SentimentDataModule(train=str(DEMO), test=str(DEMO), holdout=60, max_length=256, **given, **more)
    _, options = trained_on(data, monkeypatch)
    assert options == EpisodeOptions(tuple(templates), 0.5, 3, 0.25, 50, ("foo",), 0.125)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"random_words": 1.5}, "random_words must be a share"),
        ({"random_words": 0.6, "flipped": 0.6}, "at most 1 together"),
        ({"episode_shots": -1}, "shots must be 0"),
        ({"text": "x.txt", "text_share": 1.0}, "text_share must lie in"),
        ({"text_drop": ["("], "text": "data/demo.csv"}, "is no regular expression"),
        ({"text": "nowhere.txt"}, "nowhere.txt: no such file"),
        ({"more_train": ["nowhere.csv"]}, "nowhere.csv: no such file"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused_before_the_run_begins(options: dict[str, Any], expected: str, tmp_path: Path):
    with pytest.raises(InputError, match=expected):
        SentimentDataModule(train=str(DEMO), test=str(DEMO), holdout=60, max_length=256, cache_dir=str(tmp_path), **options).prepare_data()


# Text among the episodes


def text_lines() -> list[str]:
    return [
        f"{number} {word} words about the weather of that {word} day, and of what came after it"
        for number, word in enumerate(["long", "short"] * 60)
    ]


@pytest.fixture
def with_text(files: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    """Options for text that quotes every review of the training file and of the evaluated one."""
    lines = [*text_lines(), *(f"Somebody wrote: {review.lower()} So it goes." for review in REVIEWS)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    return {
        "train": files["train"],
        "test": files["test"],
        "holdout": 60,
        "max_length": 64,
        "text": str(tmp_path / "text.txt"),
        "cache_dir": str(tmp_path / "cache"),
    }


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_text_is_strewn_among_the_episodes_with_its_share(with_text: dict[str, Any], share: float):
    data = SentimentDataModule(**with_text, text_share=share)
    source = data.train_dataloader().dataset.source
    assert isinstance(source, Mixture)
    kinds = [bool(source.get(0, index).is_label.any()) for index in range(len(source))]  # text has no label words
    assert sum(kinds) == len(source.main)
    assert abs((len(kinds) - sum(kinds)) - share * len(kinds)) <= 0.5


def test_a_share_of_nothing_reads_no_text(with_text: dict[str, Any]):
    data = SentimentDataModule(**(with_text | {"text": "nowhere.txt"}), text_share=0.0)
    assert isinstance(data.train_dataloader().dataset.source, Episodes)


def test_text_that_quotes_an_evaluated_review_is_left_out(with_text: dict[str, Any]):
    data = SentimentDataModule(**with_text, text_drop=["Somebody wrote: "])
    packed = data.train_dataloader().dataset.source.other
    served = "".join(data.tokenizer.decode(packed.get(0, index).input_ids) for index in range(len(packed)))
    documents = {re.sub(r"\W+", " ", document).strip() for document in served.split("<|endoftext|>")}
    quotable = [re.sub(r"\W+", " ", review.lower()).strip() for review in REVIEWS]
    long_enough = {review for review in quotable[300:] if len(review.split()) >= 5}
    assert len(long_enough) > 50
    assert not any(review in document for review in long_enough for document in documents)
    trained = [review for review in quotable[:300] if not any(review == other for other in quotable[300:])]
    assert sum(any(review in document for document in documents) for review in trained) > 100
    assert not any("somebody wrote" in document for document in documents)


def test_text_that_quotes_a_held_out_review_is_left_out(with_text: dict[str, Any]):
    data = SentimentDataModule(**with_text)
    judged = [key(example.review) for example in data.plan_prompts("validate").queries]
    packed = data.train_dataloader().dataset.source.other
    served = [key(data.tokenizer.decode(packed.cache.document(index), skip_special_tokens=True)) for index in range(len(packed.cache))]
    assert len(judged) == 60
    assert not any(review in document for review in judged for document in served)
    assert sum("somebody wrote" in document for document in served) > 100


def test_text_stands_in_a_batch_with_short_episodes(with_text: dict[str, Any]):
    data = SentimentDataModule(**with_text, episode_shots=1, batch_size=8)
    source = data.train_dataloader().dataset.source
    batch = collate_sequences([source.get(0, index) for index in range(len(source))])
    is_text = ~batch.is_label.any(dim=1)
    assert is_text.any()
    assert (batch.position_ids[is_text] == torch.arange(64)).all()
    assert (batch.position_ids[~is_text] != torch.arange(64)).any()


def test_what_was_prepared_is_not_read_again(files: dict[str, str], with_text: dict[str, Any]):
    data = SentimentDataModule(**with_text, more_train=[files["more"]])
    data.prepare_data()
    for path in (files["more"], with_text["text"]):
        Path(path).unlink()
    source = data.train_dataloader().dataset.source
    assert len(source) > len(source.main) > 0


# Through the command line


@pytest.mark.parametrize("kind", ["more", "labels", "text"])
def test_a_fit_takes_the_options(kind: str, files: dict[str, str], tmp_path: Path, caplog):
    for name in ("lightning.pytorch", "lightning.fabric"):
        caplog.set_level(logging.INFO, logger=name)  # evaluate, in an earlier test, may have raised it
    (tmp_path / "text.txt").write_text("\n".join(text_lines()) + "\n")
    options = {
        "more": {
            "data.more_train": f"['{files['more']}']",
            "data.min_words": "3",
            "data.episode_balance": "0.5",
            "data.episode_templates": r'["{text} =>{label}\n", "{text}\n{label}\n"]',
        },
        "labels": {
            "data.random_words": "0.4",
            "data.random_words_pool": "40",
            "data.held_out_words": "[foo, bar]",
            "data.flipped": "0.3",
            "data.episode_shots": "4",
        },
        "text": {"data.text": str(tmp_path / "text.txt"), "data.text_share": "0.3", "data.cache_dir": str(tmp_path / "cache")},
    }[kind]
    given = {"data.train": files["train"], "data.test": files["test"], "trainer.max_steps": "3", "trainer.limit_val_batches": "1"}
    arguments = fit_arguments(tmp_path / "logs", **{name.replace(".", "__"): value for name, value in (given | options).items()})
    assert call(arguments) == 0
    assert (tmp_path / "logs" / "version_0" / "pretrained" / "model.safetensors").is_file()
    said = caplog.text
    assert re.search(r"Training on \d+ reviews: \d+ sequences of episodes(, \d+ of text)?, \d+ tokens an epoch", said)
    assert (" of text" in said) == (kind == "text")
    if kind == "more":
        left_out = re.search(r"Left out, for they overlap with held-out or evaluated reviews: (\d+) reviews of data.more_train", said)
        assert int(left_out[1]) >= 2 * len(REVIEWS[300:])
