"""SST-2 (Socher et al. 2013; binary, as in GLUE, Wang et al. 2019): find it on disk, or fetch and check it once.

It is looked for in `$ROPE_GPT2_DATA/sst2/`, then in `data/sst2/` of the working folder; it is fetched from `stanfordnlp/sst2` on the
Hugging Face hub into the latter.
"""

import csv
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import LABELS

REPOSITORY = "stanfordnlp/sst2"
WORKING_FOLDER = Path("data")
SPLITS = {"train": 67_349, "validation": 872}  # rows; GLUE's test set has no public labels
CONTENT_SHA256 = {
    "train": "8a2b08f866eb3d5ac92f74e6ae3ddc2c2cb6be3aa3341a988c39d93722270a7d",
    "validation": "1e8401dc49f7b949cd66bcce2ef97e4f33cac2b83c3ec1d633ae0beed6201c23",
}


def find_sst2(split: str) -> Path:
    """Path of `train` or `validation` as a CSV, fetched if it is nowhere.

    Raises:
        InputError: if it is not on disk and cannot be fetched, or what was fetched is not SST-2.
    """
    return sst2_on_disk(split) or fetch_sst2(split, WORKING_FOLDER / "sst2")


def sst2_on_disk(split: str) -> Path | None:
    """Path of `train` or `validation` as a CSV; None where it would have to be fetched."""
    folders = [Path(os.environ["ROPE_GPT2_DATA"])] if os.environ.get("ROPE_GPT2_DATA") else []
    paths = [folder / "sst2" / f"{split}.csv" for folder in (*folders, WORKING_FOLDER)]
    return next((path for path in paths if path.is_file()), None)


def resolve_data(name: str, split: str) -> Path:
    """`sst2` stands for the split of SST-2; anything else is a path."""
    return find_sst2(split) if name == "sst2" else Path(name)


def fetch_sst2(split: str, folder: Path) -> Path:
    """Download one split from the hub (with its progress bar), check its content, and write `folder/split.csv` whole or not at all."""
    import pandas as pd
    from huggingface_hub import hf_hub_download

    target = folder / f"{split}.csv"
    try:
        fetched = hf_hub_download(REPOSITORY, f"data/{split}-00000-of-00001.parquet", repo_type="dataset")
        table = pd.read_parquet(fetched, columns=["sentence", "label"])
    except Exception as error:  # the hub's client raises many kinds, all of them meaning: not to be had
        raise InputError(
            f"SST-2 ({split}) is not on this machine and could not be fetched from {REPOSITORY} ({type(error).__name__}); connect to the "
            f"internet, or put {split}.csv with the columns review,sentiment into {folder}, or name its parent folder in ROPE_GPT2_DATA"
        ) from error
    pairs = list(
        zip(table["sentence"].str.strip(), (LABELS[label] if label in (0, 1) else str(label) for label in table["label"]), strict=True)
    )
    found = content_sha256(pairs)
    if found != CONTENT_SHA256[split]:
        raise InputError(
            f"what {REPOSITORY} served as SST-2 ({split}) is not the set that papers report: {len(pairs)} rows with content hash {found}, "
            f"expected {SPLITS[split]} rows with {CONTENT_SHA256[split]}; put the right {split}.csv into {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".csv.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("review", "sentiment"))
        writer.writerows(pairs)
    partial.replace(target)
    return target


def content_sha256(pairs: Iterable[tuple[str, str]]) -> str:
    """Hash of a labelled set that does not depend on the order of its rows or on the format of its file.

    >>> content_sha256([("b", "positive"), ("a", "negative")]) == content_sha256([("a", "negative"), ("b", "positive")])
    True
    """
    lines = sorted(f"{' '.join(text.split())}\t{label}\n" for text, label in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
