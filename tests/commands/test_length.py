"""`rope-gpt2 length`: a table, a file, a figure; one sentence for bad input, and nothing half written."""

import json

import pytest
import torch
from running import DEMO
from transformers import GPT2Config, GPT2LMHeadModel

from rope_gpt2.commands import length as command
from rope_gpt2.commands.main import main
from rope_gpt2.model.tokenizer import load_tokenizer

MINI = "checkpoints/mini"
SHORT = ["--text", str(DEMO), "--tokens", "800", "--training-length", "32", "--precision", "32-true"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """A tiny stock GPT-2, its table of 32 positions, with the tokenizer of the small model."""
    folder = tmp_path_factory.mktemp("stock")
    tokenizer = load_tokenizer(MINI)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_it_writes_what_it_measured_and_draws_it(tmp_path, capsys):
    output, plot = tmp_path / "new" / "length.json", tmp_path / "length.svg"
    options = ["--lengths", "1", "2", "--rope-type", "linear", "--rope-factor", "auto", "--output", str(output), "--plot", str(plot)]
    assert main(["length", "--checkpoint", MINI, *SHORT, *options]) == 0
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["checkpoint"] == MINI
    assert content["text"] == [str(DEMO)]
    assert (content["training_length"], content["position_encoding"]) == (32, "rope")
    assert content["rope_parameters"]["rope_type"] == "default"  # the checkpoint's own
    results = content["results"]
    assert [(one["length"], one["windows"], one["positions"]) for one in results] == [
        (32, "apart", "all"),
        (32, "sliding", "all"),
        (64, "apart", "all"),
        (64, "apart", "beyond"),
        (64, "sliding", "all"),
        (64, "sliding", "beyond"),
    ]
    assert {(one["length"], one["rope_factor"]) for one in results} == {(32, 1.0), (64, 2.0)}
    assert all(one["interval"][0] < one["perplexity"] < one["interval"][1] for one in results)
    assert [set(one) for one in content["attention"]] == [{"layer", "head", "mean_distance", "beyond"}] * 16
    assert plot.read_text(encoding="utf-8").startswith("<?xml")
    printed = capsys.readouterr()
    assert "linear x multiple" in printed.out
    assert f"{results[0]['perplexity']:.1f} " in printed.out
    assert "{:.3f}–{:.3f}".format(*results[-1]["ratio_interval"]) in printed.out
    assert "…" not in printed.out  # nothing is cut off in 80 columns
    assert printed.err == ""
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["length.json", "length.svg"]


def test_a_stock_gpt2_is_measured_as_far_as_its_table_goes(stock, tmp_path, capsys):
    output = tmp_path / "length.json"
    assert main(["length", "--checkpoint", stock, *SHORT, "--lengths", "1", "4", "--windows", "apart", "--output", str(output)]) == 0
    content = json.loads(output.read_text(encoding="utf-8"))
    assert content["position_encoding"] == "learned"
    assert "perplexity" in content["results"][0]
    assert content["results"][1]["error"] == "128 tokens exceed the learned position table of 32"
    assert "128 tokens exceed" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--lengths", "0"], "each above 0, got 0; give 1 2 4 8"),
        (["--lengths", "nan"], "each above 0, got nan"),
        (["--lengths", "one"], "invalid float value: 'one'; see --help"),
        (["--text", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--stride", "0"], "--stride must be at least 1, got 0"),
        (["--tokens", "-1"], "--tokens must be at least 0, got -1"),
        (["--plot", "plot.pdf"], "--plot plot.pdf: must end in .png or .svg"),
        (["--output", "tests"], "tests: is a folder; name a file in it with --output"),
        (["--rope-factor", "auto"], "needs --rope-type"),
        (["--tokens", "70", "--lengths", "1", "2"], "the text has 70 tokens, but windows of 64 tokens need 97 at least"),
        (["--windows", "aside"], "invalid choice: 'aside'"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_file(options, sentence, stock, tmp_path, capsys):
    output = ["--output", str(tmp_path / "length.json")]
    assert main(["length", "--checkpoint", stock, *SHORT, *output, *options]) == 2
    *told, line = capsys.readouterr().err.splitlines()
    assert told == [f"{option} is given 2 times: the last counts; give all values at once" for option in options[:1] if option == "--text"]
    assert sentence in line
    assert not list(tmp_path.iterdir())


def test_a_scaling_of_what_has_no_rope_is_refused(stock, tmp_path, capsys):
    options = ["--lengths", "1", "--rope-type", "yarn", "--rope-factor", "2", "--output", str(tmp_path / "length.json")]
    assert main(["length", "--checkpoint", stock, *SHORT, *options]) == 2
    assert "only RoPE GPT-2 can be scaled" in capsys.readouterr().err


def test_an_interrupt_leaves_the_file_that_was_there(stock, tmp_path, monkeypatch, capsys):
    output = tmp_path / "length.json"
    output.write_text("before", encoding="utf-8")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_study", interrupted)
    assert main(["length", "--checkpoint", stock, *SHORT, "--lengths", "1", "--output", str(output)]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert output.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [output]
