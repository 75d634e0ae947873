"""Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): trained here, or loaded from a folder or a hub name.

A tokenizer trained here carries a normalizer in its own file, which brings what a person types ("Don't bother, it's dull.") to the
form of SST-2 and its like: lower case, spaces before punctuation and clitics. So every tool that loads the tokenizer treats typed
text like the training text.
"""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    GPT2Tokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rope_gpt2.errors import InputError

END_OF_TEXT = "<|endoftext|>"
PADDING = "<|pad|>"

# GPT-2's pieces (words, numbers, marks, each with the space before it), and a clitic of the treebank as one piece.
_PIECES = r" ?n't\b| ?'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def treebank_normalizer() -> normalizers.Normalizer:
    """Lower case, and the spacing of the Penn Treebank that SST-2 is written in; line ends are kept."""
    titles = "".join(rf"(?<!\b{title})" for title in ("Mr", "Mrs", "Ms", "Dr", "St", "Jr", "Sr", "vs"))
    rules: list[Any] = [
        ("’", "'"),
        ("‘", "'"),
        ("“", ' "'),
        ("”", '"'),
        ("…", "..."),
        # the full stop of a sentence: before a capital, a closing mark or the end; "mr. x" and "l.a. is" keep theirs
        (Regex(rf"(?<!\.){titles} *\.(?=\s+[\p{{Lu}}\"'(]|[\"')]|\s*\n|\s*\z)"), " ."),
        normalizers.Lowercase(),
        (Regex(r" *n't\b"), " n't"),
        *((Regex(rf" *'{clitic}\b"), f" '{clitic}") for clitic in ("s", "re", "ve", "ll", "d", "m")),
        *((Regex(rf" *{re.escape(mark)}(?=\W|\z)"), f" {mark}") for mark in "!?;:,"),
        (Regex(r" *\.\.\.+"), " ..."),
        (Regex(r"\.\.\.(?=[^\s.])"), "... "),
        (Regex(r" *(?:—|--+) *"), " -- "),
        (Regex(r" *\( *"), " ( "),
        (Regex(r" *\)(?=\w)"), " ) "),
        (Regex(r" *\)"), " )"),
        (Regex(r'"(?=\w)'), "`` "),
        (Regex(r' *"'), " ''"),
        (Regex(r" {2,}"), " "),
        (Regex(r" +(?=\n)"), ""),
    ]
    steps = [rule if isinstance(rule, normalizers.Lowercase) else normalizers.Replace(*rule) for rule in rules]
    return normalizers.Sequence([normalizers.NFC(), *steps])


def train_tokenizer(texts: Iterable[str], vocab_size: int, normalize: bool = True) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE.

    Args:
        texts: training texts; never a text that the model will be evaluated on.
        vocab_size: tokens at most, the 256 bytes and two special tokens included; fewer where the texts hold fewer merges.
        normalize: carry the treebank normalizer.

    Raises:
        InputError: if `vocab_size` cannot hold the bytes.
    """
    if vocab_size < 258:
        raise InputError(f"vocab_size must be at least 258 (256 bytes and two special tokens), got {vocab_size}; choose a larger one")
    tokenizer = Tokenizer(models.BPE())
    if normalize:
        tokenizer.normalizer = treebank_normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=PADDING
    )


def tokenizer_to_json(tokenizer: PreTrainedTokenizerBase) -> str:
    """One text that holds a fast tokenizer and its special tokens; a Lightning checkpoint stores it."""
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return json.dumps({"tokenizer": tokenizer.backend_tokenizer.to_str(), "special_tokens": specials})


def tokenizer_from_json(text: str) -> PreTrainedTokenizerFast:
    """The tokenizer that `tokenizer_to_json` wrote."""
    content = json.loads(text)
    tokenizer = Tokenizer.from_str(content["tokenizer"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **content["special_tokens"])


def with_words(tokenizer: PreTrainedTokenizerBase, words: Sequence[str]) -> tuple[PreTrainedTokenizerBase, dict[int, list[int]]]:
    """A byte-level BPE in which each of the words is one token: merges of its pieces come behind all others.

    Args:
        tokenizer: stays as it is; without words it is returned itself, whatever its kind.
        words: with the space before them, where they have one; a word that is one token already changes nothing.

    Returns:
        The new tokenizer, and for each new id the ids of the pieces that it joins, as the old tokenizer knows them.

    Raises:
        InputError: for a tokenizer that is no byte-level BPE, or a word that its rules split before any merge.
    """
    if not words:
        return tokenizer, {}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    if content["model"]["type"] != "BPE":
        raise InputError(f"words can be added to a byte-level BPE alone, this tokenizer is a {content['model']['type']}; take another")
    vocabulary: dict[str, int] = content["model"]["vocab"]
    joined: dict[int, list[int]] = {}
    built = tokenizer.backend_tokenizer
    for word in words:
        # One merge after another, each of them read by what comes next: those of earlier words, or of an earlier place in this one, may
        # apply here as well. Behind all others a merge changes no word that is one token already.
        pieces = _pieces_of_a_word(built, word)
        for _ in range(len(pieces) - 1):
            if len(pieces) == 1:
                break
            (first, first_id), (second, second_id) = pieces[:2]
            content["model"]["merges"].append([first, second])
            if first + second not in vocabulary:
                new = max(max(vocabulary.values()) + 1, len(tokenizer) + len(joined))
                vocabulary[first + second] = new
                joined[new] = [piece for part in (first_id, second_id) for piece in joined.get(part, [part])]
            built = Tokenizer.from_str(json.dumps(content))
            pieces = _pieces_of_a_word(built, word)
        if len(pieces) > 1:
            raise InputError(f"{word!r} cannot be made one token of this tokenizer; leave it out, or take another tokenizer")
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return tokenizer_from_json(json.dumps({"tokenizer": built.to_str(), "special_tokens": specials})), joined


def _pieces_of_a_word(tokenizer: Tokenizer, word: str) -> list[tuple[str, int]]:
    """Token and id of each piece of a single word."""
    encoding = tokenizer.encode(word, add_special_tokens=False)
    if len({number for number in encoding.word_ids if number is not None}) != 1:
        raise InputError(f"{word!r} is more than one word to this tokenizer; give single words, with the space before them")
    return list(zip(encoding.tokens, encoding.ids, strict=True))


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """Load a fast tokenizer from a folder, or by its hub name ("gpt2").

    Raises:
        InputError: if there is none, or it is no fast tokenizer.
    """
    folder = Path(name_or_path)
    try:
        if folder.is_dir() and (folder / "vocab.json").is_file() and not (folder / "tokenizer.json").is_file():
            # GPT-2's own two files, without the configuration by which AutoTokenizer chooses a class
            tokenizer = GPT2Tokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        else:
            # None, the default, asks on the terminal whether to run the folder's code, and takes what is piped in for an answer
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare Exceptions and TypeErrors for damaged files
        where = "the folder holds no readable tokenizer" if folder.is_dir() else "no such folder, and no such name could be fetched"
        raise InputError(
            f"tokenizer {name_or_path!r} cannot be loaded ({where}); give a folder with tokenizer.json, or vocab.json and merges.txt"
        ) from error
    if not tokenizer.is_fast or not len(tokenizer):
        raise InputError(f"tokenizer {name_or_path!r} has no fast implementation; give a folder with tokenizer.json")
    return tokenizer
