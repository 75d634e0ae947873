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
        """The review to be judged, up to the place where the label word follows; with no review, the layout around it."""
        return self.unlabelled(review) + self.between

    def unlabelled(self, review: str) -> str:
        """A review alone, as a demonstration without its label stands in a prompt."""
        return (self.before + " ".join(review.split())).rstrip(" ")

    @property
    def premise(self) -> str:
        """What asks for the label, without any review: the domain premise of PMI scoring (Holtzman et al. 2021, section 3).

        >>> Template().premise
        'Sentiment:'
        """
        return self.between.lstrip() or self.between

    def channel_demonstration(self, review: str, label_word: str) -> str:
        """One labelled example with the label first, for the noisy channel (Min et al. 2021): the two parts change places.

        >>> Template().channel_demonstration("Dull.", "negative")
        'Sentiment: negative\\nReview: Dull.'
        """
        return self.channel_query(label_word) + self.channel_review(review)

    def channel_query(self, label_word: str) -> str:
        """The label, up to the place where the review follows."""
        stem = self.between.lstrip()
        joint = self.between[: len(self.between) - len(stem)] or "\n"
        return stem + self.label_space + label_word + (joint + self.before).rstrip(" ")

    def channel_review(self, review: str) -> str:
        """The review as it follows `channel_query`; the space before it belongs to its first word."""
        return " " + " ".join(review.split())
