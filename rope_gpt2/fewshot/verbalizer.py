"""Label ↔ label word ↔ token ids (Schick & Schütze 2021)."""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.template import Template


@dataclass(frozen=True, slots=True)
class Verbalizer:
    """The word that stands for each label, in the order of `LABELS`.

    >>> Verbalizer(("terrible", "great")).word("positive")
    'great'
    """

    words: tuple[str, ...] = LABELS

    def __post_init__(self) -> None:
        words = [" ".join(word.split()) for word in self.words]
        if len(words) != len(LABELS) or not all(words) or len({word.casefold() for word in words}) != len(words):
            raise InputError(
                f"label words must be {len(LABELS)} different words, for {' and '.join(LABELS)}, got {list(self.words)}; mend them"
            )
        object.__setattr__(self, "words", tuple(words))

    def word(self, sentiment: str) -> str:
        """The label word of a label."""
        return self.words[LABELS.index(sentiment)]

    def token_ids(self, tokenizer: PreTrainedTokenizerBase, template: Template) -> tuple[tuple[int, ...], ...]:
        """Token ids of each label word as it follows a prompt; a word may be several tokens.

        Raises:
            InputError: if the tokenizer makes two words the same, or nothing of one.
        """
        ids = tuple(tuple(tokenizer(template.label_space + word, add_special_tokens=False)["input_ids"]) for word in self.words)
        if not all(ids) or any(one[: len(other)] == other for one in ids for other in ids if one is not other):
            raise InputError(
                f"label words {list(self.words)} are not told apart by the tokenizer: {ids[0]} and {ids[1]} are the same, or one begins "
                "the other; choose others"
            )
        query = template.query("A fine film.")
        start = tokenizer(query, add_special_tokens=False)["input_ids"]
        for word, own in zip(self.words, ids, strict=True):
            if tokenizer(query + template.label_space + word, add_special_tokens=False)["input_ids"] != [*start, *own]:
                raise InputError(
                    f"template {template.text!r} joins the label word {word!r} to what stands before it; put a space before {{label}}"
                )
        return ids

    def find(self, text: str) -> str | None:
        """The label whose word comes first in a generated text, or None if neither does.

        >>> Verbalizer().find(" Positive, I think, not negative"), Verbalizer().find(" so so")
        ('positive', None)
        """
        matches = {label: re.search(rf"(?<!\w){re.escape(self.word(label))}(?!\w)", text, re.IGNORECASE) for label in LABELS}
        places = {label: match.start() for label, match in matches.items() if match}
        return min(places, key=lambda label: (places[label], -len(self.word(label)))) if places else None
