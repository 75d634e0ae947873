"""CorpusDataModule under a trainer: what is held out stays out, and a run that goes on ends as an undisturbed one."""

import os
import random
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.errors import InputError
from rope_gpt2.model.tokenizer import tokenizer_to_json, train_tokenizer
from rope_gpt2.training.corpus_datamodule import CorpusDataModule
from rope_gpt2.training.module import RopeGPT2Module


def make_texts(count: int = 300) -> list[str]:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghij", k=generator.randint(2, 6))) for _ in range(200)]
    return [f"{index} " + " ".join(generator.choices(words, k=generator.randint(2, 25))) for index in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "train.txt").write_text("\n".join(make_texts()))
    (folder / "validation.txt").write_text("\n".join([*make_texts()[:20], "one more that stands nowhere else"]))
    return folder


def make_data(folder: Path, **options: Any) -> CorpusDataModule:
    chosen = {"train": str(folder / "train.txt"), "holdout": 40, "max_length": 32, "batch_size": 4, "eval_batch_size": 3}
    return CorpusDataModule(**(chosen | {"cache_dir": str(folder / "cache")} | options))


def documents_of(data: CorpusDataModule, loader) -> list[list[int]]:
    """What a loader serves, cut after each end of text."""
    tokens = torch.cat([batch.input_ids.flatten() for batch in loader]).tolist()
    documents: list[list[int]] = [[]]
    for token in tokens:
        documents[-1].append(token)
        if token == data.tokenizer.eos_token_id:
            documents.append([])
    return documents[:-1]


def test_training_and_validation_share_no_document(folder: Path):
    data = make_data(folder)
    data.setup("fit")
    trained, held_out = documents_of(data, data.train_dataloader()), documents_of(data, data.val_dataloader())
    assert len(trained) > 200
    assert len(held_out) >= 35
    assert not {tuple(document) for document in trained[1:]} & {tuple(document) for document in held_out}


def test_a_validation_file_takes_its_documents_out_of_training(folder: Path):
    data = make_data(folder, validation=str(folder / "validation.txt"))
    data.setup("fit")
    trained, validated = documents_of(data, data.train_dataloader()), documents_of(data, data.val_dataloader())
    assert {data.tokenizer.decode(document) for document in validated} > {f"{text}<|endoftext|>" for text in make_texts()[:15]}
    assert not {tuple(document) for document in trained} & {tuple(document) for document in validated}


def test_a_validation_file_that_holds_everything_is_refused(folder: Path):
    data = make_data(folder, validation=str(folder / "train.txt"))
    data.setup("fit")
    with pytest.raises(InputError, match="holds every training document"):
        data.train_dataloader()


def test_excluded_texts_never_train(folder: Path):
    data = make_data(folder, exclude=str(folder / "validation.txt"))
    data.setup("fit")
    trained = {data.tokenizer.decode(document[:-1]) for document in documents_of(data, data.train_dataloader())}
    assert data._caches[0].excluded == 20
    assert not trained & set(make_texts()[:20])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_held_out_text_and_count_nothing_twice(folder: Path, monkeypatch, world: int):
    parts, counts = [], []
    for rank in range(world):
        data = make_data(folder)
        data.setup("fit")
        monkeypatch.setattr(data, "_process", lambda rank=rank: (rank, world))
        batches = list(data.val_dataloader())
        parts += [row for batch in batches for row in map(tuple, batch.input_ids.tolist())]
        counts.append([len(batch.input_ids) for batch in batches])
    assert all(count == counts[0] for count in counts)
    assert len(set(parts)) == len(parts)
    data = make_data(folder)
    data.setup("fit")
    whole = [row for batch in data.val_dataloader() for row in map(tuple, batch.input_ids.tolist())]
    assert set(parts) <= set(whole)
    assert len(parts) == len(whole) // world * world


def test_too_few_held_out_sequences_for_the_processes_are_refused(folder: Path, monkeypatch):
    data = make_data(folder)
    data.setup("fit")
    monkeypatch.setattr(data, "_process", lambda: (0, 1000))
    with pytest.raises(InputError, match="too few for 1000 processes"):
        data.val_dataloader()


def test_a_second_run_neither_learns_a_tokenizer_nor_reads_the_text(folder: Path, monkeypatch):
    first = make_data(folder)
    first.setup("fit")
    monkeypatch.setattr(DocumentStream, "__iter__", lambda self: pytest.fail("read again"))
    second = make_data(folder)
    second.setup("fit")
    assert first.tokenizer is not None and second.tokenizer is not None  # noqa: PT018
    assert tokenizer_to_json(first.tokenizer) == tokenizer_to_json(second.tokenizer)
    assert first._caches[0].folder == second._caches[0].folder
    # loaders read tokens alone
    assert len(list(second.train_dataloader())) > 10


def test_documents_can_be_kept_apart(folder: Path):
    data = make_data(folder, separate_documents=True)
    data.setup("fit")
    for loader in (data.train_dataloader(), data.val_dataloader()):
        batch = next(iter(loader))
        assert batch.position_ids is not None
        assert (batch.position_ids[:, 0] == 0).all()


def test_html_tags_and_dropped_patterns_are_gone(tmp_path: Path):
    (tmp_path / "train.txt").write_text("\n".join(f"{text}.<br /><br />So &amp; so [cut]" for text in make_texts()))
    data = make_data(tmp_path, train=str(tmp_path / "train.txt"), clean_html=True, drop=r"\s*\[cut\]")
    data.setup("fit")
    text = data.tokenizer.decode(data._caches[0].document(0))
    assert text.endswith("so & so<|endoftext|>")
    assert "br" not in text.split()


def test_there_are_no_reviews_to_test_or_predict(folder: Path):
    for loader in (make_data(folder).test_dataloader, make_data(folder).predict_dataloader):
        with pytest.raises(InputError, match="no labelled reviews"):
            loader()


BAD = [
    ({"train": "nowhere.txt"}, "nowhere.txt: no such file"),
    ({"train": []}, "no text was named"),
    ({"validation": "nowhere.txt"}, "nowhere.txt: no such file"),
    ({"exclude": "nowhere.csv"}, "nowhere.csv: no such file"),
    ({"holdout": 200}, "holdout must lie between 0 and 150"),
    ({"holdout": -1}, "holdout must be 0 or more"),
    ({"tokenizer_documents": -1}, "tokenizer_documents must be 0 or more"),
    ({"batch_size": 0}, "batch_size must be at least 1"),
    ({"eval_batch_size": 0}, "eval_batch_size must be at least 1"),
    ({"order_seed": -1}, "order_seed must be 0 or more"),
    ({"max_length": 0}, "at least 1 token, got 0"),
    ({"max_length": 100_000}, "fewer than a sequence of 100000"),
    ({"tokenizer": "nowhere"}, "tokenizer 'nowhere' cannot be loaded"),
    ({"cache_dir": "README.md"}, "README.md: cannot be written"),
    ({"drop": "("}, "is no regular expression"),
]


@pytest.mark.parametrize(("options", "expected"), BAD, ids=[str(options) for options, _ in BAD])
def test_bad_options_are_refused(folder: Path, options: dict[str, Any], expected: str):
    def prepare() -> None:
        data = make_data(folder, **options)
        data.prepare_data()
        data.setup("fit")
        data.train_dataloader()

    with pytest.raises(InputError) as caught:
        prepare()
    assert expected in str(caught.value)


def test_validation_without_held_out_documents_is_refused(folder: Path):
    data = make_data(folder, holdout=0)
    data.setup("fit")
    with pytest.raises(InputError, match="no document is held out"):
        data.val_dataloader()


class Stop(L.Callback):
    """Presses Ctrl-C after a number of training batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.epoch_loop.total_batch_idx + 1 == self.after:
            raise KeyboardInterrupt


def fit(
    folder: Path, run: Path, stop_after: int | None = None, resume: Path | None = None, is_told: bool = True
) -> dict[str, torch.Tensor]:
    L.seed_everything(3, verbose=False)
    module = RopeGPT2Module(vocab_size=400, n_positions=32, n_embd=32, n_layer=2, n_head=4, dropout=0.2, warmup_steps=3, compile=False)
    checkpoint = ModelCheckpoint(dirpath=run, filename="last", save_top_k=1, save_on_exception=True, enable_version_counter=False)
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=[checkpoint] + ([Stop(stop_after)] if stop_after else []),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
    )
    data = make_data(folder, max_length=None, batch_size=16)
    data.ckpt_path = str(resume) if resume is not None and is_told else None
    trainer.fit(module, data, ckpt_path=resume)
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("batches", [1, 9, 20])
def test_resuming_gives_the_weights_of_not_stopping(folder: Path, tmp_path: Path, batches: int):
    undisturbed = fit(folder, tmp_path / "undisturbed")
    with pytest.raises(SystemExit):
        fit(folder, tmp_path, stop_after=batches)
    ours = fit(folder, tmp_path, resume=tmp_path / "last.ckpt")
    assert all(torch.equal(ours[name], theirs) for name, theirs in undisturbed.items())


@pytest.mark.parametrize("is_told", [True, False])
def test_a_run_goes_on_with_the_tokenizer_of_its_checkpoint(folder: Path, tmp_path: Path, monkeypatch, is_told: bool):
    """Even where another one would be learned now; told of the checkpoint, none is learned."""
    undisturbed = fit(folder, tmp_path / "undisturbed")
    with pytest.raises(SystemExit):
        fit(folder, tmp_path, stop_after=3)
    learned = []

    def learn(self, vocab_size):
        learned.append(vocab_size)
        return train_tokenizer(make_texts()[:5], 300)

    monkeypatch.setattr(CorpusDataModule, "_learn_tokenizer", learn)
    ours = fit(folder, tmp_path, resume=tmp_path / "last.ckpt", is_told=is_told)
    assert bool(learned) != is_told
    assert all(torch.equal(ours[name], theirs) for name, theirs in undisturbed.items())


@pytest.mark.slow
@pytest.mark.sst2
def test_the_critics_corpus_is_read_within_seconds():
    import time

    from rope_gpt2.corpus.documents import read_documents

    path = Path(os.environ.get("ROPE_GPT2_DATA", "data")) / "corpora" / "rt_critics_decontaminated.txt.gz"
    if not path.is_file():
        pytest.skip("the corpus is not on this machine")
    start = time.process_time()
    assert sum(1 for _ in read_documents(str(path))) == 911_231
    assert time.process_time() - start < 20
