"""Label words → token ids as they stand in a demonstration, and the pool that random label words are drawn from.

With label words drawn anew for each episode, a label can be known from the demonstrations alone (symbol tuning, Wei et al. 2023).
"""

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.template import Template

_WORD = re.compile(r"[a-z]{2,}")
_REVIEW = "A fine film."  # stands for any review: the label word never touches it
TRIED = 32  # words tried behind a whole prompt


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens, not even where a text spells one."""
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False, "verbose": False}
    return tokenizer(list(texts), **options)["input_ids"] if texts else []


def tokenize_demonstrations(tokenizer: PreTrainedTokenizerBase, template: Template, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that end in a label word, as they stand before a line end, which a normalizer may tell from the end of a text."""
    if not template.separator.lstrip(" ").startswith("\n"):
        return tokenize(tokenizer, texts)
    (line_end,) = tokenize(tokenizer, ["\n"])
    followed = tokenize(tokenizer, [text + "\n" for text in texts])
    whole = all(ids[len(ids) - len(line_end) :] == line_end for ids in followed)
    return [ids[: len(ids) - len(line_end)] for ids in followed] if whole else tokenize(tokenizer, texts)


def label_token_ids(tokenizer: PreTrainedTokenizerBase, template: Template, words: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each label word as it stands in a demonstration; empty for a word that the tokenizer joins to what stands before it."""
    (query,) = tokenize(tokenizer, [template.query(_REVIEW)])
    whole = tokenize_demonstrations(tokenizer, template, [template.demonstration(_REVIEW, word) for word in words])
    return [tuple(ids[len(query) :]) if ids[: len(query)] == query else () for ids in whole]


def random_label_words(tokenizer: PreTrainedTokenizerBase, template: Template, held_out: Iterable[str]) -> list[str]:
    """The words that label words may be drawn from: lower-case ASCII words of at least 2 letters that are one token after `template`.

    Args:
        tokenizer: a byte-level BPE.
        template: the space before its `{label}` belongs to the token.
        held_out: words left out, whatever their case: those of evaluations and the usual label words.

    Returns:
        The words by token id; ids follow the order of BPE's merges, so frequent words come first.
    """
    space, left_out = template.label_space, {word.strip().casefold() for word in held_out}
    spelled = tokenizer.backend_tokenizer.decode_batch([[token] for token in range(len(tokenizer))])
    words = {
        text[len(space) :]: token for token, text in enumerate(spelled) if text.startswith(space) and _WORD.fullmatch(text[len(space) :])
    }
    candidates = [word for word in words if word not in left_out]
    # Whether a word joins what stands before it depends on its being letters, not on which: so a few are tried behind a whole prompt.
    joins = not all(label_token_ids(tokenizer, template, candidates[:TRIED]))
    alone = tokenize(tokenizer, [space + word for word in candidates])
    return [word for word, ids in zip(candidates, alone, strict=True) if ids == [words[word]] and not joins]


def common_label_words(
    tokenizer: PreTrainedTokenizerBase, templates: Sequence[Template], held_out: Iterable[str], count: int = 0
) -> list[str]:
    """`random_label_words` of all templates: the first `count`, 0 for all.

    Raises:
        InputError: if there are fewer than two.
    """
    held_out = list(held_out)
    first, *others = [random_label_words(tokenizer, template, held_out) for template in templates]
    shared = set(first).intersection(*others)
    words = [word for word in first if word in shared]
    if len(words) < 2:
        raise InputError(
            f"random label words need at least 2 words that are one token each, the tokenizer has {len(words)}; "
            "choose a tokenizer of more tokens, hold out fewer words, or set random_words to 0"
        )
    return words[:count] if count else words
