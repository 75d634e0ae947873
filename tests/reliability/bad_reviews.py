"""Files that are no CSV of reviews, each given to one command or another."""

import gzip
import os
from pathlib import Path

from reliability.refusals import Bad, Content

HEAD = "review,sentiment\n"
PAIR = HEAD + "Dull.,negative\nFine.,positive\n"
COMMANDS = {
    "evaluate --data": "evaluate --checkpoint model --output out --data bad.csv",
    "evaluate --pool": "evaluate --checkpoint model --output out --pool bad.csv",
    "fit --data.train": "fit --config fit.yaml --data.train bad.csv",
    "fit --data.validation": "fit --config fit.yaml --data.validation bad.csv",
    "fit --data.test": "fit --config fit.yaml --data.test bad.csv",
    "fit --data.more_train": "fit --config fit.yaml --data.more_train [bad.csv]",
    "validate --data.validation": "validate --config fit.yaml --ckpt_path last.ckpt --data.validation bad.csv",
    "test --data.test": "test --config fit.yaml --ckpt_path last.ckpt --data.test bad.csv",
    "predict --data.predict": "predict --config fit.yaml --ckpt_path last.ckpt --predictions.output out/predictions.csv "
    "--data.predict bad.csv",
    "predict --data.pool": "predict --config fit.yaml --ckpt_path last.ckpt --predictions.output out/predictions.csv "
    "--data.predict data/demo.csv --data.pool bad.csv",
}
FILES: dict[str, tuple[Content | None, str]] = {
    "that is missing": (None, "no such file"),
    "without a byte": (b"", "is empty"),
    "of a byte order mark alone": (b"\xef\xbb\xbf", "is empty"),
    "of a header alone": (HEAD, "no rows"),
    "of a header and blank lines": (HEAD + "\n\n\n", "no rows"),
    "of a header and a row of spaces": (HEAD + "   \n", "row 1 (line 2): 1 columns instead of 2"),
    "with an empty review": (PAIR + ",negative\n", "row 3, column review: empty review"),
    "with a review of spaces": (PAIR + "   ,negative\n", "row 3, column review: empty review"),
    "with a review of tags alone": (PAIR + "<br /><br />,negative\n", "row 3, column review: empty review"),
    "without a header": ("Dull.,negative\nFine.,positive\n", "column review is missing"),
    "without the column of labels": ("review,label\nDull.,negative\n", "column sentiment is missing"),
    "with the column of reviews twice": ("review,sentiment,Review\nDull.,negative,x\n", "column review stands 2 times"),
    "with semicolons for commas": (PAIR.replace(",", ";"), "column review is missing"),
    "with tabs for commas": (PAIR.replace(",", "\t"), "column review is missing"),
    "with an unknown label": (PAIR + "So so.,neutral\n", "row 3 (line 4), column sentiment: unknown label 'neutral'"),
    "with numbers for labels": (HEAD + "Dull.,0\nFine.,1\n", "row 1 (line 2), column sentiment: unknown label '0'"),
    "with a label left out": (PAIR + "So so.,\n", "row 3 (line 4), column sentiment: unknown label ''"),
    "with NUL bytes for a label": (PAIR + "So so.,\0\0\n", "row 3 (line 4), column sentiment: unknown label '\\x00\\x00'"),
    "of NUL bytes alone": (b"\0" * 64, "column review is missing"),
    "with a quote that is not closed": (PAIR + '"So so.,negative\n', "row 3 (line 4): broken quoting"),
    "with text behind a closing quote": (PAIR + '"So" so.,negative\n', "row 3 (line 4): broken quoting"),
    "with a comma outside quotes": (PAIR + "So, so.,negative\n", "row 3 (line 4): 3 columns instead of 2"),
    "with a row cut off": (PAIR + "So so\n", "row 3 (line 4): 1 columns instead of 2"),
    "in Latin-1": (PAIR.encode() + "Touché.,positive\n".encode("latin-1"), "line 4: not UTF-8"),
    "in UTF-16": (PAIR.encode("utf-16"), "line 1: not UTF-8"),
    "with a lone surrogate": (PAIR.encode() + b"Oh \xed\xa0\x80.,positive\n", "line 4: not UTF-8"),
    "that is a picture": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "line 1: not UTF-8"),
    "that is compressed": (gzip.compress(PAIR.encode()), "line 1: not UTF-8"),
    "that is a folder": (Path.mkdir, "is a folder, not a file"),
    "that is a pipe": (os.mkfifo, "is a pipe or device, not a file"),
    "that is a link to nothing": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "that is a link to itself": (lambda path: path.symlink_to(path.name), "bad.csv"),
}
LONG = HEAD + f"{'far too long ' * 300},negative\nFine.,positive\n"
MANY = HEAD + "".join(f"Film number {number} of all of them is fine for me and my friends.,positive\n" for number in range(9))
DISTINCT = HEAD + "".join(f"{' '.join(f'{letter}{place}' for place in range(12))},positive\n" for letter in "abcdefghi")
ONE_CLASS = HEAD + "".join(f"Film number {number} is fine.,positive\n" for number in range(40))


def _rows() -> list[Bad]:
    """Every file for evaluate, and for the other commands in turn."""
    first, *others = COMMANDS
    rows = []
    for place, (name, (content, said)) in enumerate(FILES.items()):
        files = {} if content is None else {"bad.csv": content}
        for command in (first, others[place % len(others)]):
            rows.append(Bad(f"{command}: a CSV {name}", COMMANDS[command], ("bad.csv", said), files))
    return rows


def _fit_on(name: str, option: str, said: str, content: str) -> Bad:
    return Bad(f"fit {option}: {name}", f"fit --config fit.yaml --{option}", (said,), {"bad.csv": content})


ROWS = [
    *_rows(),
    Bad(
        "evaluate --data: a review longer than the context",
        "evaluate --checkpoint model --output out --shots 0 --data bad.csv",
        ("row 1", "the context has", "trim_queries"),
        {"bad.csv": LONG},
    ),
    Bad(
        "predict: a review longer than the context",
        "predict --config fit.yaml --ckpt_path last.ckpt --predictions.output out/predictions.csv --data.predict bad.csv",
        ("row 1", "the context has", "trim_queries"),
        {"bad.csv": LONG},
    ),
    Bad(
        "evaluate --pool: one class alone",
        "evaluate --checkpoint model --output out --shots 4 --pool bad.csv",
        ("need 2 examples of each label in the pool, it has 0 negative ones", "larger pool or fewer shots"),
        {"bad.csv": ONE_CLASS},
    ),
    Bad(
        "evaluate --pool: too few reviews for the shots",
        "evaluate --checkpoint model --output out --shots 16 --pool bad.csv",
        ("16 shots", "larger pool or fewer shots"),
        {"bad.csv": PAIR},
    ),
    Bad(
        "evaluate: a file of one review as its own pool",
        "evaluate --checkpoint model --output out --shots 1 --data bad.csv",
        ("larger pool or fewer shots",),
        {"bad.csv": HEAD + "Dull.,negative\n"},
    ),
    Bad(
        "fit data.train: reviews that are all judged",
        "fit --config fit.yaml --data.train bad.csv --data.test judged.csv",
        ("bad.csv: each of its 2 reviews stands in an evaluated file as well", "give data.train other reviews"),
        {"bad.csv": PAIR, "judged.csv": PAIR},
    ),
    _fit_on("too few reviews to hold some out", "data.train bad.csv", "no review can be held out: 0 of 2", PAIR),
    _fit_on(
        "reviews of which none fits a sequence",
        "data.train bad.csv --data.holdout 2 --data.max_length 8",
        "no training review fits 8",
        DISTINCT,
    ),
    _fit_on(
        "reviews that all overlap with those held out",
        "data.train bad.csv --data.holdout 2",
        "no training review is left: all overlap",
        MANY,
    ),
    Bad(
        "fit: a file that is both training and validation file",
        "fit --config fit.yaml --data.validation data/../data/demo.csv",
        ("demo.csv: is both training and validation file",),
    ),
]
