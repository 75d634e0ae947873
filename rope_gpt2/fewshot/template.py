"""Demonstrations → text: how a review and its label are laid out.

The default is that of Lu et al. 2021: `Review: {text}\\nSentiment: {label}\\n\\n`.
"""

from dataclasses import dataclass, field

from rope_gpt2.errors import InputError

DEFAULT_TEMPLATE = "Review: {text}\nSentiment: {label}\n\n"


@dataclass(frozen=True, slots=True)
class Template:
    """A layout with one `{text}` and, after it, one `{label}`; what follows the label separates examples.

    White space inside a review is folded to single spaces, so a review cannot imitate the layout. The space before `{label}`
    belongs to the label word: in byte-level BPE " negative" is one token, and a prompt must not end in a space.

    >>> template = Template()
    >>> template.demonstration("Dull.", "negative")
    'Review: Dull.\\nSentiment: negative'
    >>> template.query("Great!")
    'Review: Great!\\nSentiment:'
    >>> template.label_space + "positive", template.separator
    (' positive', '\\n\\n')
    """

    text: str = DEFAULT_TEMPLATE
    before: str = field(init=False)
    between: str = field(init=False)
    label_space: str = field(init=False)
    separator: str = field(init=False)

    def __post_init__(self) -> None:
        if self.text.count("{text}") != 1 or self.text.count("{label}") != 1 or self.text.index("{text}") > self.text.index("{label}"):
            raise InputError(f"template must hold {{text}} once and after it {{label}} once, got {self.text!r}; mend it")
        before, rest = self.text.split("{text}")
        between, separator = rest.split("{label}")
        if not separator or not separator[0].isspace():
            raise InputError(f"template must go on with white space after {{label}}, got {self.text!r}; add \\n at its end")
        stripped = between.rstrip(" ")
        if not stripped:
            raise InputError(f"template must have words or a line end between {{text}} and {{label}}, got {self.text!r}; mend it")
        for name, value in (("before", before), ("between", stripped), ("label_space", between[len(stripped) :])):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "separator", separator)

    def demonstration(self, review: str, label_word: str) -> str:
        """One labelled example, without the separator that follows it."""
        return self.query(review) + self.label_space + label_word

    def query(self, review: str) -> str:
        """The review to be judged, up to the place where the label word follows."""
        return self.before + " ".join(review.split()) + self.between
