"""SST-2's sentences as a person types them: no spaces before punctuation and clitics, capitals at the beginning of sentences.

python benchmarks/typed_text.py
python evaluate.py --data results/typed.csv --pool sst2 --shots 4

Sentences and labels are those of `--data sst2`: what a model loses on them is what its tokenizer's normalizer does not undo.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from script import run_script

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import read_examples
from rope_gpt2.fewshot.sst2 import resolve_data

BRACKETS = {"-lrb-": "(", "-rrb-": ")"}
CLITIC = re.compile(r" (n't\b|'(?:s|re|ve|ll|d|m)\b)")  # those that nltk leaves apart
PUNCTUATION = re.compile(r"\s+([.,!?;:)])")
FIRST_LETTER = re.compile(r"(^|[.!?] )([a-z])")


def as_typed(sentence: str) -> str:
    """A sentence of SST-2, tokens of the Penn Treebank in lower case → the same as it would be typed.

    Raises:
        InputError: where nltk is not installed.
    """
    try:
        from nltk.tokenize.treebank import TreebankWordDetokenizer
    except ImportError as error:
        raise InputError("nltk is not installed; install it: pip install -e .[bench]") from error
    tokens = [BRACKETS.get(token, token) for token in sentence.split()]
    text = CLITIC.sub(r"\1", TreebankWordDetokenizer().detokenize(tokens))
    text = re.sub(r"\bi\b", "I", PUNCTUATION.sub(r"\1", text))
    return FIRST_LETTER.sub(lambda match: match[1] + match[2].upper(), text)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="sst2", metavar="CSV|sst2", help="reviews in SST-2's form; sst2 is its validation set")
    parser.add_argument("--output", type=Path, default=Path("results/typed.csv"), metavar="CSV")
    options = parser.parse_args(list(arguments))
    examples = read_examples(resolve_data(options.data, "validation"))
    typed = [as_typed(example.review) for example in examples]
    changed = sum(text != example.review for text, example in zip(typed, examples, strict=True))
    frame = pd.DataFrame({"review": typed, "sentiment": [example.sentiment for example in examples]})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(options.output, index=False)
    print(
        f"{options.output}: {len(frame)} reviews, {changed} of them changed; score it with evaluate.py --data {options.output} --pool sst2"
    )
    return 0


if __name__ == "__main__":
    run_script(main)
