"""A cache holds what the tokenizer makes of each document, once for a content, whole or not at all."""

import gzip
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rope_gpt2.corpus.documents import Reading
from rope_gpt2.corpus.sources import find_sources
from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.corpus.token_cache import TokenCache, cache_key, known_revisions, open_or_build
from rope_gpt2.errors import InputError
from rope_gpt2.model.tokenizer import train_tokenizer


def write(path: Path, texts) -> Path:
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def stream_of(path: Path, exclude: Path | None = None, **options) -> DocumentStream:
    return DocumentStream(find_sources(str(path)), Reading(**options), find_sources(str(exclude)) if exclude else ())


def content(cache: TokenCache) -> list[list[int]]:
    return [cache.document(index).tolist() for index in range(len(cache))]


def test_every_document_is_there_as_the_tokenizer_makes_it_alone(texts, tokenizer, make_cache):
    """Tokenizing many at a time in parallel gives what tokenizing one after another gives."""
    cache = make_cache(texts)
    theirs = [[*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id] for text in texts]
    assert content(cache) == theirs
    assert cache.num_tokens == sum(map(len, theirs)) == cache.meta["tokens"]
    assert cache.tokens.dtype == np.uint16
    assert not list(cache.folder.parent.glob(".*.partial"))


def test_texts_to_exclude_count_by_their_content(texts, tokenizer, tmp_path):
    path = write(tmp_path / "a.txt", texts)
    long = [text for text in texts if len(text.split()) >= 10][:5]

    def stream(*exclude: str) -> DocumentStream:
        return DocumentStream(find_sources(str(path)), exclude_texts=exclude)

    cache = open_or_build(stream(*long), tokenizer, tmp_path / "cache")
    assert cache.excluded == 5
    by_file = open_or_build(stream_of(path, write(tmp_path / "b.txt", long)), tokenizer, tmp_path / "cache")
    assert content(cache) == content(by_file)
    keys = [cache_key(stream(*exclude), tokenizer) for exclude in (long, long[::-1], long[:4], [])]
    assert keys[0] == keys[1] == cache.folder.name
    assert len(set(keys)) == 3
    assert keys[3] == cache_key(stream_of(path), tokenizer)


def test_of_a_table_to_exclude_the_reviews_are_read_before_the_text(texts, tmp_path):
    table = tmp_path / "evaluated.csv"
    pd.DataFrame({"text": texts[:3], "review": texts[3:6]}).to_csv(table, index=False)
    kept = [text for piece in stream_of(write(tmp_path / "a.txt", texts[:6]), table) for text in piece.texts]
    assert kept == texts[:3]


def test_a_large_vocabulary_takes_four_bytes_a_token(texts, tokenizer, tmp_path):
    other = train_tokenizer(texts, 400)
    other.add_tokens([f"<{number}>" for number in range(66_000)])
    cache = open_or_build(stream_of(write(tmp_path / "a.txt", ["<65990> it is", "b"])), other, tmp_path / "cache")
    assert cache.tokens.dtype == np.uint32
    assert cache.tokens.max() > 2**16


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer, make_cache):
    (document,) = content(make_cache(["a <|endoftext|> b"]))
    assert document.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(document[:-1]) == "a <|endoftext|> b"


def test_a_second_opening_reads_no_document(texts, tokenizer, tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", texts)
    first = open_or_build(stream_of(path), tokenizer, tmp_path / "cache")
    monkeypatch.setattr(DocumentStream, "__iter__", lambda self: pytest.fail("read again"))
    second = open_or_build(stream_of(path), tokenizer, tmp_path / "cache")
    assert first.folder == second.folder
    assert content(first) == content(second)


def test_the_key_changes_with_content_and_not_with_time_or_place(texts, tokenizer, tmp_path):
    path = write(tmp_path / "a.txt", texts)
    key = cache_key(stream_of(path), tokenizer)
    os.utime(path, (1, 1))
    assert cache_key(stream_of(path), tokenizer) == key
    (tmp_path / "elsewhere").mkdir()
    assert cache_key(stream_of(Path(shutil.copy(path, tmp_path / "elsewhere" / "b.txt"))), tokenizer) == key
    before = path.stat()
    write(path, [texts[0].replace("0", "1"), *texts[1:]])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert cache_key(stream_of(path), tokenizer) != key


def test_the_key_changes_with_every_option_and_with_the_tokenizer(texts, tokenizer, tmp_path):
    path, exclude = write(tmp_path / "a.txt", texts), write(tmp_path / "b.txt", texts[:3])
    other = write(tmp_path / "c.txt", texts[:4])
    keys = [
        cache_key(stream_of(path), tokenizer),
        cache_key(stream_of(path), train_tokenizer(texts, 450)),
        cache_key(stream_of(path), train_tokenizer(texts, 500, normalize=False)),
        cache_key(stream_of(path, document="file"), tokenizer),
        cache_key(stream_of(path, column="a"), tokenizer),
        cache_key(stream_of(path, split="b"), tokenizer),
        cache_key(stream_of(path, drop=("a",)), tokenizer),
        cache_key(stream_of(path, clean=unescape), tokenizer),
        cache_key(stream_of(path, exclude), tokenizer),
        cache_key(stream_of(path, other), tokenizer),
    ]
    assert len(set(keys)) == len(keys)


def test_a_tokenizer_that_was_used_with_padding_and_truncation_is_the_same(texts, tokenizer, tmp_path):
    path = write(tmp_path / "a.txt", texts)
    key = cache_key(stream_of(path), tokenizer)
    tokenizer(texts[:3], padding=True, truncation=True, max_length=4)
    assert cache_key(stream_of(path), tokenizer) == key
    cache = open_or_build(stream_of(path), tokenizer, tmp_path / "cache")
    assert max(map(len, content(cache))) > 5


def test_overlapping_documents_are_left_out_and_counted(texts, make_cache):
    long = [text for text in texts if len(text.split()) >= 12]
    cache = make_cache(texts, exclude=[" ".join(text.split()[1:]) for text in long[:20]])
    assert cache.excluded == 20
    assert len(cache) == len(texts) - 20


def test_nothing_left_is_refused_and_leaves_nothing(texts, make_cache, tmp_path):
    with pytest.raises(InputError, match="no document is left: all 3 overlap"):
        make_cache(texts[:3], exclude=texts[:3])
    assert not [path for path in (tmp_path / "made").iterdir() if path.suffix != ".lock"]


def test_a_source_that_breaks_off_leaves_nothing(texts, tokenizer, tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("\n".join(texts * 50).encode())[:-40])
    with pytest.raises(InputError, match="is no whole gzip file"):
        open_or_build(stream_of(path), tokenizer, tmp_path / "cache")
    assert not [left for left in (tmp_path / "cache").iterdir() if left.suffix != ".lock"]


@pytest.mark.parametrize("file", ["tokens.bin", "offsets.bin", "hashes.bin", "meta.json"])
@pytest.mark.parametrize("damage", ["cut", "missing"])
def test_a_damaged_cache_is_built_again_with_a_notice(texts, make_cache, caplog, file, damage):
    cache = make_cache(texts)
    before, path = content(cache), cache.folder / file
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    with pytest.raises(ValueError, match=str(cache.folder)):
        TokenCache(cache.folder)
    assert content(make_cache(texts)) == before
    assert f"{cache.folder} is damaged; it is built again" in caplog.text


def test_a_cache_travels_to_another_process_as_its_path(texts, make_cache):
    cache = make_cache(texts)
    stored = pickle.dumps(cache)
    assert len(stored) < 1000
    assert content(pickle.loads(stored)) == content(cache)


def test_several_that_build_at_once_build_once(texts, tokenizer, tmp_path, monkeypatch):
    path = write(tmp_path / "a.txt", texts)
    iterate, built = DocumentStream.__iter__, []

    def count(self):
        built.append(1)
        time.sleep(0.3)
        return iterate(self)

    monkeypatch.setattr(DocumentStream, "__iter__", count)
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: open_or_build(stream_of(path), tokenizer, tmp_path / "cache"), range(4)))
    assert len(built) == 1
    assert all(content(cache) == content(caches[0]) for cache in caches)


BUILD = """
import sys, time
from pathlib import Path
from transformers import AutoTokenizer
from rope_gpt2.corpus import stream, token_cache
from rope_gpt2.corpus.sources import find_sources
iterate = stream.DocumentStream.__iter__
def slowly(self):
    for piece in iterate(self):
        yield piece
        print("a piece", flush=True)
        time.sleep(float(sys.argv[4]))
stream.DocumentStream.__iter__ = slowly
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
cache = token_cache.open_or_build(stream.DocumentStream(find_sources(sys.argv[2])), tokenizer, Path(sys.argv[3]))
print(len(cache), cache.num_tokens, flush=True)
"""


def test_a_build_that_was_killed_leaves_nothing_usable_and_the_next_one_works(texts, tokenizer, tmp_path):
    path, cache_dir = write(tmp_path / "a.txt", texts * 10), tmp_path / "cache"
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    command = [sys.executable, "-c", BUILD, str(tmp_path / "tokenizer"), str(path), str(cache_dir)]
    process = subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "a piece\n"  # it was handed on; the second is waited for in vain
    waiting = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True)  # another process that needs the same
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=10)
    process.stdout.close()
    key = cache_key(stream_of(path), tokenizer)
    output, _ = waiting.communicate(timeout=60)
    assert output.splitlines()[-1].split()[0] == "4000"
    assert sorted(left.name for left in cache_dir.iterdir() if left.suffix != ".lock") == [key]
    cache = open_or_build(stream_of(path), tokenizer, cache_dir)
    assert content(cache)[:400] == content(cache)[-400:]


def test_a_folder_that_cannot_be_written_is_refused(texts, tokenizer, tmp_path):
    path = write(tmp_path / "a.txt", texts)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file: cannot be written"):
        open_or_build(stream_of(path), tokenizer, tmp_path / "file")


def test_a_tokenizer_without_an_end_of_text_is_refused(texts, tmp_path):
    other = train_tokenizer(texts, 400)
    other.eos_token = None
    with pytest.raises(InputError, match="no end-of-text token"):
        open_or_build(stream_of(write(tmp_path / "a.txt", texts)), other, tmp_path / "cache")


def test_commits_of_cached_data_sets_are_known(texts, make_cache, tmp_path):
    cache = make_cache(texts)
    assert known_revisions(tmp_path / "made") == {}
    meta = json.loads((cache.folder / "meta.json").read_text())
    meta["stream"]["sources"] = [{"kind": "hub", "name": "owner/name", "revision": "abc"}]
    (cache.folder / "meta.json").write_text(json.dumps(meta))
    (tmp_path / "made" / "broken").mkdir()
    (tmp_path / "made" / "broken" / "meta.json").write_text("{")
    assert known_revisions(tmp_path / "made") == {"owner/name": "abc"}
    assert known_revisions(tmp_path / "nowhere") == {}
