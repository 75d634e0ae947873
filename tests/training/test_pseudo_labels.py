"""Self-training: what a model is sure of becomes a training file."""

import csv

import pytest
import torch
from running import ROOT, call
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig

from rope_gpt2.commands import label
from rope_gpt2.commands.context import choose_context
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import read_examples
from rope_gpt2.training.checkpoints import load_checkpoint
from rope_gpt2.training.pseudo_labels import Labeller, choose, limited, write_labelled
from rope_gpt2.training.whole_files import open_whole

MINI = str(ROOT / "checkpoints" / "mini")
FILMS = ["A wonderful, moving film.", "A dull, lifeless mess.", "It is a film.", "One of the best films of the year!"]


def test_the_chosen_are_sure_and_of_both_labels_alike():
    generator = torch.Generator().manual_seed(0)
    pieces = [([f"document {piece} {index}" for index in range(50)], torch.rand(50, generator=generator)) for piece in range(4)]
    known = {text: float(value) for texts, values in pieces for text, value in zip(texts, values, strict=True)}
    chosen = choose(pieces, 0.8, 20, seed=1)
    assert sum(label == "positive" for _, label, _ in chosen) == sum(label == "negative" for _, label, _ in chosen) == 10
    for text, sentiment, confidence in chosen:
        assert confidence == pytest.approx(max(known[text], 1 - known[text]))
        assert confidence >= 0.8
        assert (sentiment == "positive") == (known[text] >= 0.5)
    assert chosen == choose(pieces, 0.8, 20, seed=1) != choose(pieces, 0.8, 20, seed=2)


def test_without_a_count_the_rarer_label_tells_how_many():
    pieces = [(["a", "b", "c", "d", "a"], torch.tensor([0.95, 0.96, 0.97, 0.02, 0.95]))]
    chosen = choose(pieces, 0.9, 0, seed=0)
    assert len(chosen) == 2
    assert ("d", "negative", pytest.approx(0.98)) in chosen


def test_where_a_label_is_missing_the_message_names_it():
    with pytest.raises(InputError, match=r"no document is negative with a confidence of at least 0\.9"):
        choose([(["a"], torch.tensor([0.99]))], 0.9, 0, seed=0)


def test_what_is_written_is_read_as_training_reviews(tmp_path):
    chosen = [('He said "no, never",\nand left', "negative", 0.91), ("fine", "positive", 0.99)]
    write_labelled(chosen, tmp_path / "sub" / "labelled.csv")
    read = read_examples(tmp_path / "sub" / "labelled.csv", False)
    assert [(example.review.split(), example.sentiment) for example in read] == [(text.split(), label) for text, label, _ in chosen]
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["labelled.csv"]


def test_a_limit_reads_no_further():
    def pieces():
        yield ["a", "b"]
        yield ["c", "d"]
        raise AssertionError("read too far")

    assert [list(piece) for piece in limited(pieces(), 3)] == [["a", "b"], ["c"]]


def test_probabilities_do_not_depend_on_the_other_documents():
    model, tokenizer = load_checkpoint(MINI)
    labeller = Labeller(model, tokenizer, 512)
    together = labeller.probabilities(FILMS)
    alone = torch.cat([labeller.probabilities([text]) for text in FILMS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together[0] > 0.5 > together[1]


def test_the_command_writes_a_file_that_fit_takes(tmp_path, capsys):
    text = tmp_path / "films.txt"
    text.write_text("\n".join(f"{film} {number}" for number in range(20) for film in FILMS) + "\n")
    output = tmp_path / "labelled.csv"
    assert call(["label", "--checkpoint", MINI, "--text", str(text), "--output", str(output), "--count", "10"]) == 0
    assert "80 documents read" in capsys.readouterr().out
    rows = list(csv.DictReader(output.open()))
    assert len(rows) == 10
    assert all(float(row["confidence"]) >= 0.9 for row in rows)


def test_a_place_that_cannot_be_written_is_refused_before_the_model_is_loaded(tmp_path, capsys, monkeypatch):
    def loaded(name):
        raise AssertionError("loaded")

    monkeypatch.setattr(label, "load_checkpoint", loaded)
    text = tmp_path / "films.txt"
    text.write_text("\n".join(FILMS))
    for output, said in ((tmp_path, "is a folder"), (text / "out.csv", "cannot be written")):
        assert call(["label", "--checkpoint", MINI, "--text", str(text), "--output", str(output)]) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["films.txt"]


def test_a_file_that_could_not_be_written_whole_leaves_nothing_behind(tmp_path):
    path = tmp_path / "kept.csv"
    path.write_text("old")

    def write(error: BaseException) -> None:
        with open_whole(path, "--output") as file:
            file.write("new")
            raise error

    for error, expected in ((OSError(28, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)):
        with pytest.raises(expected):
            write(error)
        assert [(left.name, left.read_text()) for left in tmp_path.iterdir()] == [("kept.csv", "old")]


@pytest.mark.parametrize("config", [LlamaConfig, GPTNeoXConfig, GPT2Config])
def test_the_context_is_found_in_every_family_of_configs(config):
    sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = AutoModelForCausalLM.from_config(config(max_position_embeddings=96, **sizes))
    assert choose_context(None, model, "name") == 96
    assert choose_context(40, model, "name") == 40


def test_a_longer_context_than_the_position_table_is_refused():
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=96))
    with pytest.raises(InputError, match="--max-length 97: the position table of name ends at 96"):
        choose_context(97, model, "name")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-confidence", "0.3"], "--min-confidence must lie between 0.5 and 1"),
        (["--count", "-1"], "--count must be 0 (as many as there are) or at least 2"),
        (["--count", "1"], "--count must be 0 (as many as there are) or at least 2"),
        (["--limit", "-1"], "--limit must be 0 (all documents) or more"),
        (["--max-length", "0"], "--max-length must be at least 1"),
        (["--text", "nowhere.txt"], "nowhere.txt"),
        (["--checkpoint", "nowhere"], "nowhere: no such folder"),
        (["--output", "/proc/none/labelled.csv"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, capsys, options, said):
    text = tmp_path / "films.txt"
    text.write_text("\n".join(FILMS))
    given = {"--checkpoint": MINI, "--text": str(text), "--output": str(tmp_path / "out.csv")} | dict([options])
    assert call(["label", *(part for pair in given.items() for part in pair)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert said in error
    assert not (tmp_path / "out.csv").exists()
