"""Every kind of source gives the same documents; what cannot be read is one sentence with its path."""

import csv
import gzip
import json
import os
import socket
from pathlib import Path

import pandas as pd
import pytest

from rope_gpt2.corpus.documents import Reading, read_documents, read_pieces
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.errors import InputError

DOCUMENTS = ["A film, well made.", 'He said "no" — twice.', "NA", "12", "naïve café 電影", "a < b"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the name of a data set may ask for one."""

    def refuse(*_):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def as_csv(rows, header=("text", "rating")) -> str:
    from io import StringIO

    buffer = StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue()


CONTENTS = {
    ".txt": "\n".join(DOCUMENTS) + "\n",
    ".jsonl": "".join(json.dumps({"text": text, "rating": place}) + "\n" for place, text in enumerate(DOCUMENTS)),
    ".csv": as_csv([(text, place) for place, text in enumerate(DOCUMENTS)]),
}


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_every_kind_of_file_gives_its_documents(tmp_path: Path, suffix: str, packed: str):
    assert list(read_documents(write(tmp_path / f"a{suffix}{packed}", CONTENTS[suffix]))) == DOCUMENTS


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, suffix: str):
    assert list(read_documents(write(tmp_path / f"a{suffix}", CONTENTS[suffix], "utf-8-sig"))) == DOCUMENTS


def test_blank_lines_are_no_documents_and_white_space_around_one_is_no_part_of_it(tmp_path: Path):
    path = write(tmp_path / "a.txt", "\n  first \n\n \t\r\nsecond\r\n\n")
    assert list(read_documents(path)) == ["first", "second"]


def test_null_and_empty_fields_are_no_documents(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", '{"text": "one"}\n{"text": null}\n{"text": "  "}\n{"other": 1}\n{"text": "two"}\n')
    assert list(read_documents(path)) == ["one", "two"]


def test_a_file_can_be_one_document(tmp_path: Path):
    for place in range(40):
        write(tmp_path / f"{place:02}.txt", f"\ntitle {place}\n\nbody\n")
    assert list(read_documents(str(tmp_path), document="file")) == [f"title {place}\n\nbody" for place in range(40)]


def test_folders_and_globs_are_read_in_the_order_of_their_names(tmp_path: Path):
    for name in ("b", "a", "c"):
        write(tmp_path / f"{name}.txt", f"{name}\n")
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "d.txt.gz", "d\n")
    write(tmp_path / "README.md", "no text\n")
    assert list(read_documents(str(tmp_path))) == ["a", "b", "c", "d"]
    assert list(read_documents(str(tmp_path / "[ab].txt"))) == ["a", "b"]
    assert list(read_documents([str(tmp_path / "c.txt"), str(tmp_path / "a.txt")])) == ["c", "a"]


def test_a_file_name_may_hold_what_means_something_in_a_glob(tmp_path: Path):
    assert list(read_documents(write(tmp_path / "a[1] *.txt", "x\n"))) == ["x"]


def test_a_folder_of_parquet_files_is_a_data_set_with_splits(tmp_path: Path):
    """The layout of a data set that was copied from the hub."""
    folder = tmp_path / "owner" / "name" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        table = pd.DataFrame({"text": [f"{split} {text}" for text in DOCUMENTS], "label": range(len(DOCUMENTS))})
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    assert list(read_documents(str(tmp_path / "owner" / "name"))) == [f"train {text}" for text in DOCUMENTS]
    assert list(read_documents(str(tmp_path / "owner" / "name"), split="test")) == [f"test {text}" for text in DOCUMENTS]
    with pytest.raises(InputError, match=r"name: has no split 'dev' \(found: test, train\); choose"):
        list(read_documents(str(tmp_path / "owner" / "name"), split="dev"))


@pytest.mark.parametrize(
    ("header", "column", "expected"),
    [
        (("text", "review"), None, "a"),
        (("title", "review"), None, "b"),
        (("title", "review"), "title", "a"),
        (("story", "12"), None, None),
    ],
)
def test_the_column_is_the_one_named_or_text_or_review_or_the_only_one(tmp_path: Path, header, column, expected):
    rows = [("a", "b")] * 3 if expected else [("a", "1")] * 3
    path = write(tmp_path / "a.csv", as_csv(rows, header))
    assert set(read_documents(path, column)) == {expected or "a"}


def test_matches_of_drop_are_cut_and_a_document_of_nothing_else_is_none(tmp_path: Path):
    path = write(tmp_path / "a.txt", "Good. [Full review in Spanish]\n[Full review in Greek]\nBad [sic] film\n")
    assert list(read_documents(path, drop=[r"\s*\[Full review in [^\]]*\]"])) == ["Good.", "Bad [sic] film"]


def test_documents_are_cleaned_before_anything_is_cut(tmp_path: Path):
    path = write(tmp_path / "a.txt", "GOOD cut\nbad\n")
    assert [text for piece in read_pieces(find_sources(path), Reading(clean=str.lower, drop=("good ",))) for text in piece] == [
        "cut",
        "bad",
    ]


BAD = {
    "missing file": ("missing.txt", None, {}, "missing.txt: no such file"),
    "unknown kind": ("a.doc", b"x", {}, "a.doc: is of no kind that can be read"),
    "empty": ("a.txt", b"", {}, "a.txt: is empty"),
    "empty gz": ("a.txt.gz", gzip.compress(b""), {}, "a.txt.gz: holds no documents"),
    "blank": ("a.txt", b"\n \n", {}, "a.txt: holds no documents"),
    "header alone": ("a.csv", b"text\n", {}, "a.csv: holds no documents"),
    "latin-1": ("a.txt", "fine\ncafé\n".encode("latin-1"), {}, "a.txt, line 2: not UTF-8"),
    "latin-1 in gz": ("a.txt.gz", gzip.compress("fine\ncafé\n".encode("latin-1")), {}, "a.txt.gz, line 2: not UTF-8"),
    "latin-1 in csv": ("a.csv", "text\ncafé\n".encode("latin-1"), {}, "a.csv, line 2: not UTF-8"),
    "latin-1 in jsonl": ("a.jsonl", '{"text": "café"}\n'.encode("latin-1"), {}, "a.jsonl, line 1: not UTF-8"),
    "cut gz": ("a.txt.gz", gzip.compress(os.urandom(999).hex().encode())[:500], {}, "a.txt.gz: is no whole gzip file"),
    "no gz": ("a.txt.gz", b"plain\n", {}, "a.txt.gz: is no whole gzip file"),
    "missing column": ("a.csv", b"a,b\nx,y\n", {"column": "text"}, "a.csv: column 'text' is missing (found: a, b); choose one of these"),
    "missing column in jsonl": ("a.jsonl", b'{"a": "x"}\n', {"column": "text"}, "a.jsonl: column 'text' is missing (found: a)"),
    "two columns": ("a.csv", b"a,b\nx,y\n", {}, "a.csv: which column holds the documents is not clear (found: a, b); name it"),
    "no text column": ("a.jsonl", b'{"a": 1}\n', {}, "a.jsonl: which column holds the documents is not clear (found: a)"),
    "numbers": ("a.jsonl", b'{"a": 1}\n', {"column": "a"}, "a.jsonl: column 'a' holds int64, not text"),
    "broken JSON": ("a.jsonl", b'{"text": "x"}\n{"text":\n', {}, "a.jsonl: cannot be read"),
    "long row": ("a.csv", b"text,n\na,1\nb,2,3,4\n", {}, "a.csv, row 2 (line 3): 4 columns instead of 2"),
    "long rows": ("a.csv", b"text,n\na,1,2\nb,2,3\n", {}, "a.csv, row 1 (line 2): 3 columns instead of 2"),
    "short row": ("a.csv", b"text,n\na,1\nb\n", {}, "a.csv, row 2 (line 3): 1 columns instead of 2"),
    "long row far below": (
        "a.csv",
        b"text,n\n" + b"a,1\n" * 1500 + b"so, so,2\n",
        {},
        "row 1501 (line 1502): 3 columns instead of 2",
    ),
    "long row in gz": ("a.csv.gz", gzip.compress(b"text,n\n\na,1\nb,2,3\n"), {}, "a.csv.gz, row 2 (line 4): 3 columns instead of 2"),
    "open quote": ("a.csv", b'text,n\n"a,1\nb,2\n', {}, "a.csv, row 1 (line 2): 1 columns instead of 2"),
    "no document": ("a.txt", b"x", {"document": "page"}, "document must be line or file, got 'page'"),
    "no pattern": ("a.txt", b"x", {"drop": ["["]}, "drop: '[' is no regular expression"),
    "no corrupt Parquet": ("a.parquet", b"PAR1 or not", {}, "a.parquet: cannot be read"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_refused_with_its_path(tmp_path: Path, name: str):
    file, content, options, expected = BAD[name]
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_documents(str(tmp_path / file), **options))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_damaged_file_of_a_folder_is_named(tmp_path: Path):
    for place in range(5):
        write(tmp_path / f"{place}.txt", "fine\n", "utf-8")
    write(tmp_path / "3.txt", "fine\ncafé\n", "latin-1")
    with pytest.raises(InputError, match=r"3\.txt, line 2: not UTF-8"):
        list(read_documents(str(tmp_path)))


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing:config", "data/typo"])
def test_a_name_that_cannot_be_fetched_is_refused(name: str):
    with pytest.raises(InputError, match=f"{name}: no such file or folder, and no data set of that name could be fetched from the hub"):
        find_sources(name)


def test_the_commit_of_a_cached_data_set_stands_in_for_a_hub_that_cannot_be_asked():
    (source,) = find_sources("owner/name:config", {"owner/name:config": "abc"})
    assert (source.kind, source.config, source.revision, source.files) == ("hub", "config", "abc", ())


def test_nothing_to_read_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no text was named"):
        find_sources([])
    with pytest.raises(InputError, match=r"holds no .*\.txt.* file"):
        find_sources(str(tmp_path))
    with pytest.raises(InputError, match=r"holds no .*\.txt.* file"):
        find_sources(str(tmp_path / "*.txt"))


def test_reading_leaves_nothing_in_the_home_folder(tmp_path: Path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "home")
    for suffix, content in CONTENTS.items():
        list(read_documents(write(tmp_path / f"a{suffix}", content)))
    assert not (tmp_path / "home").exists()


def test_documents_are_read_some_at_a_time(tmp_path: Path):
    path = write(tmp_path / "a.txt", "".join(f"{place}\n" for place in range(5000)))
    pieces = list(read_pieces(find_sources(path), Reading()))
    assert max(map(len, pieces)) <= 1024
    assert [text for piece in pieces for text in piece] == [str(place) for place in range(5000)]
