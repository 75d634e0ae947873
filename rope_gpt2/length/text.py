"""Documents → one stream of tokens."""

from collections.abc import Iterable, Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

PORTION = 65_536  # characters that are tokenized at once, so that a limit spares the rest of a long text


def read_tokens(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase, limit: int = 0) -> Tensor:
    """The tokens of the documents, one after another, the tokenizer's end-of-text token (where it has one) between them.

    A long document is tokenized in portions that end with a line, whatever the limit: a limited stream is the beginning of the whole one.

    Args:
        documents: in their order.
        tokenizer: a fast one; special tokens in the text are plain text.
        limit: tokens at most; 0 for all.

    Returns:
        [T] int64.
    """
    alone = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    alone.no_truncation()
    alone.no_padding()
    alone.encode_special_tokens = True
    end_of_text = tokenizer.eos_token_id
    ids: list[int] = []
    for number, document in enumerate(documents):
        if number and end_of_text is not None:
            ids.append(end_of_text)
        for portion in _portions(document):
            if limit and len(ids) >= limit:
                break
            ids += alone.encode(portion, add_special_tokens=False).ids
        if limit and len(ids) >= limit:
            break
    return torch.tensor(ids[: limit or None], dtype=torch.int64)


def _portions(text: str) -> Iterator[str]:
    """The text in pieces of about `PORTION` characters, each but the last ending with a line."""
    start = 0
    while start < len(text):
        end = text.find("\n", start + PORTION) + 1
        yield text[start : end or len(text)]
        start = end or len(text)
