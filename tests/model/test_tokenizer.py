import os
from pathlib import Path

import huggingface_hub
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from rope_gpt2 import InputError
from rope_gpt2.model.tokenizer import (
    END_OF_TEXT,
    PADDING,
    load_tokenizer,
    tokenizer_from_json,
    tokenizer_to_json,
    train_tokenizer,
    treebank_normalizer,
    with_words,
)

TEXTS = [
    *("the film is great .", "the film is terrible .", "it does n't work , and it 's dull .", "a ( great ) film"),
    *("it was terrible .", "do n't bother !", "they 're great , `` really '' ...", "review : great\nreview : terrible\n"),
] * 20
NORMALIZED, PLAIN = train_tokenizer(TEXTS, 340), train_tokenizer(TEXTS, 340, normalize=False)

normalize = treebank_normalizer().normalize_str


# Training.


@pytest.mark.parametrize("vocab_size", [258, 270, 300, 5000])
def test_a_vocabulary_holds_the_bytes_and_no_more_than_was_asked(vocab_size):
    tokenizer = train_tokenizer(TEXTS, vocab_size)
    assert 258 <= len(tokenizer) <= vocab_size
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert len([token for token in tokenizer.get_vocab() if len(token) == 1]) == 256


@pytest.mark.parametrize("vocab_size", [257, 1, 0, -5])
def test_a_vocabulary_too_small_for_the_bytes_is_refused(vocab_size):
    with pytest.raises(InputError, match=rf"vocab_size must be at least 258 .*, got {vocab_size}; choose a larger one"):
        train_tokenizer(TEXTS, vocab_size)


def test_no_text_gives_the_bytes_alone():
    assert len(train_tokenizer([], 300)) == 258


def test_training_twice_gives_the_same_tokenizer():
    again = train_tokenizer(iter(TEXTS), 340)
    assert again.backend_tokenizer.to_str() == NORMALIZED.backend_tokenizer.to_str()


@pytest.mark.parametrize("word", [" great", " terrible", " n't", " 's", " film"])
def test_a_frequent_word_is_one_token_with_the_space_before_it(word):
    assert NORMALIZED.convert_ids_to_tokens(NORMALIZED.encode(word)) == [word.replace(" ", "Ġ")]


def test_no_token_reaches_over_a_space_or_from_a_word_into_a_mark():
    tokens = set(train_tokenizer(["great great, great."] * 50, 300, normalize=False).get_vocab())
    assert "Ġgreat" in tokens
    assert not [token for token in tokens if "great" in token and token.strip("Ġ") != "great"]


# Special tokens.


@pytest.mark.parametrize("tokenizer", [NORMALIZED, PLAIN], ids=["normalized", "plain"])
def test_the_special_tokens_end_a_text_and_pad_it(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (END_OF_TEXT, END_OF_TEXT, PADDING)
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    ids = tokenizer.encode(f"great{END_OF_TEXT}great{PADDING}")
    assert [token for token in ids if token in tokenizer.all_special_ids] == [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "greatgreat"


def test_encoding_adds_no_token():
    assert PLAIN.encode("") == []
    assert PLAIN.encode("great film") == PLAIN.encode("great film", add_special_tokens=False)


# Round trips.


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_comes_back_from_its_tokens_where_nothing_is_normalized(text):
    assert PLAIN.decode(PLAIN.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["naïve café", "e\u0301", "映画は最高", "🎬👍🏽", "\x00\x7f", " a  b ", "\n\n\t ", END_OF_TEXT, "\u2028\ufeff"]
)
def test_rare_characters_come_back_where_nothing_is_normalized(text):
    assert PLAIN.decode(PLAIN.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_normalized_tokens_stand_for_the_normalized_text(text):
    assert NORMALIZED.decode(NORMALIZED.encode(text)) == normalize(text)


# The normalizer.


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("Don't bother, it's dull.", "do n't bother , it 's dull ."),
        ("I can't, won't. Yes!", "i ca n't , wo n't . yes !"),
        ("They're here; I'm not: we'll see, I'd say we've lost?", "they 're here ; i 'm not : we 'll see , i 'd say we 've lost ?"),
        ("it’s a “great” film", "it 's a `` great '' film"),
        ('He said "no".', "he said `` no '' ."),
        ("A film (really) works", "a film ( really ) works"),
        ("well...maybe", "well ... maybe"),
        ("well…maybe", "well ... maybe"),
        ("good—not great -- fine", "good -- not great -- fine"),
        ("1,000 films, 3.5 stars", "1,000 films , 3.5 stars"),
        ("a well-made film", "a well-made film"),
        ("Review: It's good.\nSentiment: great\n\n", "review : it 's good .\nsentiment : great\n\n"),
    ],
)
def test_typed_text_takes_the_form_of_the_treebank(typed, plain):
    assert normalize(typed) == plain
    assert NORMALIZED.encode(typed) == NORMALIZED.encode(plain)


WORDS = st.sampled_from(["the", "film", "does", "it", "well-made", "1,000", "3.5", "rock", "(", ")", "``", "''", "--", "..."])
MARKS = st.sampled_from(["n't", "'s", "'re", "'ve", "'ll", "'d", "'m", ",", ".", "!", "?", ";", ":"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WORDS, MARKS)))
def test_text_of_the_treebank_stays_as_it_is(words):
    text = " ".join(["it", *words, "film"])
    assert normalize(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aAnt's.,!?;:\") \n3…—’“”é"))
def test_normalizing_twice_is_normalizing_once(text):
    assert normalize(normalize(text)) == normalize(text)


@pytest.mark.parametrize("text", ["semi-(dry)", "(dry)(wit)"])
def test_normalizing_twice_is_normalizing_once_before_a_bracket(text):
    assert normalize(normalize(text)) == normalize(text)


# Saving and loading.


def test_a_saved_tokenizer_comes_back_from_its_folder(tmp_path: Path):
    NORMALIZED.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path))
    assert again.special_tokens_map == NORMALIZED.special_tokens_map
    assert again.backend_tokenizer.to_str() == NORMALIZED.backend_tokenizer.to_str()
    for text in (*TEXTS[:8], "Don't, “ever”: 映画🎬"):
        assert again(text).input_ids == NORMALIZED(text).input_ids
        assert again.decode(again.encode(text)) == NORMALIZED.decode(NORMALIZED.encode(text))


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_a_tokenizer_comes_back_from_its_json(text):
    for tokenizer in (NORMALIZED, PLAIN):
        again = tokenizer_from_json(tokenizer_to_json(tokenizer))
        assert again.special_tokens_map == tokenizer.special_tokens_map
        assert again.encode(text) == tokenizer.encode(text)


@pytest.fixture
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read from the environment once, on import


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("name", ["no-such-name", "nobody/no-such-name", "./no/such/folder", "/no/such/folder"])
def test_a_tokenizer_that_is_nowhere_is_refused_with_its_name(name):
    with pytest.raises(InputError, match=rf"tokenizer '{name}' cannot be loaded \(no such folder, .*\); give a folder with"):
        load_tokenizer(name)


@pytest.mark.usefixtures("_offline")
def test_a_folder_without_a_tokenizer_is_refused_with_its_path(tmp_path: Path):
    with pytest.raises(InputError, match=rf"tokenizer '{tmp_path}' cannot be loaded \(the folder holds no readable tokenizer\)"):
        load_tokenizer(str(tmp_path))


@pytest.mark.usefixtures("_offline")
def test_vocabulary_and_merges_are_enough_to_load_a_tokenizer(tmp_path: Path):
    PLAIN.backend_tokenizer.model.save(str(tmp_path))
    assert load_tokenizer(str(tmp_path)).encode("the film is great") == PLAIN.encode("the film is great")


@pytest.mark.usefixtures("_offline")
@pytest.mark.skipif(not os.environ.get("ROPE_GPT2_DATA"), reason="GPT-2's vocabulary is not at hand; set ROPE_GPT2_DATA")
def test_the_vocabulary_of_gpt2_loads_from_a_folder():
    tokenizer = load_tokenizer(str(Path(os.environ["ROPE_GPT2_DATA"]) / "gpt2_tokenizer"))
    assert len(tokenizer) == 50_257
    assert tokenizer.encode("Hello world") == [15_496, 995]
    assert tokenizer.eos_token_id == 50_256
    assert tokenizer.decode(tokenizer.encode("naïve 映画🎬")) == "naïve 映画🎬"


# Words that become one token.


@pytest.mark.parametrize("tokenizer", [NORMALIZED, PLAIN])
def test_added_words_are_one_token_and_other_texts_keep_theirs(tokenizer):
    words = [" splendid", "sentiment", " the"]
    added, joined = with_words(tokenizer, words)
    for word in words:
        assert len(added(word)["input_ids"]) == 1
        assert added.decode(added(word)["input_ids"]) == word
    for text in (*TEXTS[:8], "splendidly sentimental", "unsplendid"):
        assert added.decode(added(text)["input_ids"]) == tokenizer.decode(tokenizer(text)["input_ids"])
    for text in TEXTS[:8]:
        assert added(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert len(added) == len(tokenizer) + len(joined)
    assert sorted(joined) == list(range(len(tokenizer), len(added)))
    assert (added.eos_token_id, added.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_each_new_token_stands_for_the_pieces_it_joins():
    added, joined = with_words(NORMALIZED, [" splendid"])
    for token, pieces in joined.items():
        assert " splendid".startswith(NORMALIZED.decode(pieces))
        assert added.decode([token]) == NORMALIZED.decode(pieces)
    assert NORMALIZED.decode(joined[added(" splendid")["input_ids"][0]]) == " splendid"


def test_added_words_survive_saving(tmp_path):
    added, _ = with_words(NORMALIZED, [" splendid"])
    added.save_pretrained(tmp_path)
    text = "a splendid film, splendidly made"
    assert load_tokenizer(str(tmp_path))(text)["input_ids"] == added(text)["input_ids"]
    assert tokenizer_from_json(tokenizer_to_json(added))(text)["input_ids"] == added(text)["input_ids"]


def test_what_is_no_single_word_is_refused():
    with pytest.raises(InputError, match="' two words' is more than one word to this tokenizer"):
        with_words(NORMALIZED, [" two words"])


@pytest.mark.parametrize("words", [["foo", " barfoo"], [" barfoo", "foo"], ["xyz", " xyzxyz", "xyzxyzx"], [" qzqzqz", "zqz", "qz"]])
def test_words_that_stand_in_one_another_are_one_token_each(words: list[str]):
    """The merges of one come before those of the next, and one merge may apply at several places."""
    added, joined = with_words(PLAIN, words)
    for word in words:
        ids = added(word)["input_ids"]
        assert len(ids) == 1
        assert added.decode(ids) == word
    for token, pieces in joined.items():
        assert max(pieces) < len(PLAIN)
        assert PLAIN.decode(pieces) == added.decode([token])


def test_without_words_a_tokenizer_of_any_kind_stays_itself():
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    assert with_words(other, []) == (other, {})
    with pytest.raises(InputError, match="this tokenizer is a WordLevel; take another"):
        with_words(other, ["b"])
