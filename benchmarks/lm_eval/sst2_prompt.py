"""How the task lays out a review; `evaluate.py` does the same by its default template (Lu et al. 2021)."""

from collections.abc import Mapping


def doc_to_text(doc: Mapping[str, str]) -> str:
    r"""The review, white space folded, up to the place of the label word.

    >>> doc_to_text({"review": "A  fine film."})
    'Review: A fine film.\nSentiment:'
    """
    return f"Review: {' '.join(doc['review'].split())}\nSentiment:"
