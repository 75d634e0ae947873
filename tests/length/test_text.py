"""Documents become one stream, whatever its limit."""

import pytest
from running import ROOT

from rope_gpt2.length import text
from rope_gpt2.length.text import read_tokens
from rope_gpt2.model.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(ROOT / "checkpoints" / "mini"))


def test_documents_are_parted_by_the_end_of_text_token(tokenizer):
    documents = ["A warm film.\nAnd a long one.", "Dull <|endoftext|> stuff."]
    stream = read_tokens(documents, tokenizer).tolist()
    assert stream.count(tokenizer.eos_token_id) == 1  # what a text says is no token of its own
    border = stream.index(tokenizer.eos_token_id)
    assert stream[:border] == tokenizer(documents[0], add_special_tokens=False)["input_ids"]


def test_a_limited_stream_is_the_beginning_of_the_whole(tokenizer, monkeypatch):
    monkeypatch.setattr(text, "PORTION", 40)
    documents = ["\n".join(f"Line {number} of a text that goes on." for number in range(20))] * 2
    whole = read_tokens(documents, tokenizer).tolist()
    for limit in (1, 30, len(whole), len(whole) + 5):
        assert read_tokens(documents, tokenizer, limit).tolist() == whole[:limit]


def test_portions_end_with_a_line_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(text, "PORTION", 5)
    portions = list(text._portions("one\ntwo\nthree four five\nsix"))
    assert "".join(portions) == "one\ntwo\nthree four five\nsix"
    assert all(portion.endswith("\n") for portion in portions[:-1])
    assert len(portions) == 3
