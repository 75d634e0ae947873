"""Documents → tokens in memory-mapped files, tokenized once.

A cache is the folder `<cache_dir>/<key>`. The key is a hash of what determines its content: the bytes of the sources, the tokenizer, the
options. It is written beside and renamed into place, whole or not at all.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from rope_gpt2.corpus.stream import DocumentStream
from rope_gpt2.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1  # of the folder; another number is another key
_FILES = ("tokens.bin", "offsets.bin", "hashes.bin")
_DTYPES = {"uint16": np.uint16, "uint32": np.uint32}  # all that a folder may name: numpy takes "object" too, which maps addresses
_LOG = logging.getLogger(__name__)


class TokenCache:
    """Tokens of N documents, T in all, mapped from disk.

    Args:
        folder: what `open_or_build` wrote.

    Attributes:
        tokens: [T] uint16 or uint32; every document ends in the tokenizer's end-of-text token.
        offsets: [N + 1] int64; document i is `tokens[offsets[i] : offsets[i + 1]]`.
        hashes: [N, 2] uint64, of the document's words and of its tokens.
        excluded: documents that were left out, for they overlap with an evaluated text.
        meta: what `meta.json` says.

    Raises:
        ValueError: if the folder is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            documents, tokens, dtype = self.meta["documents"], self.meta["tokens"], np.dtype(_DTYPES[self.meta["dtype"]])
            expected = (tokens * dtype.itemsize, (documents + 1) * 8, documents * 16)
            sizes = tuple((folder / name).stat().st_size for name in _FILES)
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: is no whole token cache ({error})") from error
        if sizes != expected:
            raise ValueError(f"{folder}: its files have {sizes} bytes instead of {expected}")
        self.tokens = _map(folder / _FILES[0], dtype)
        self.offsets = _map(folder / _FILES[1], np.dtype(np.int64))
        self.hashes = _map(folder / _FILES[2], np.dtype(np.uint64)).reshape(documents, 2)
        if self.offsets[0] != 0 or self.offsets[-1] != tokens:
            raise ValueError(f"{folder}: its documents have {self.offsets[-1]} tokens instead of {tokens}")
        self.excluded: int = self.meta["excluded"]

    def __len__(self) -> int:
        """Documents."""
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        return TokenCache, (self.folder,)  # another process maps the files, instead of receiving them

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents."""
        return len(self.tokens)

    def document(self, index: int) -> NDArray[Any]:
        """Tokens of a document."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(np.memmap(path, dtype, mode="r"))  # a plain array is indexed faster than a memmap


def open_or_build(stream: DocumentStream, tokenizer: "PreTrainedTokenizerBase", cache_dir: Path) -> TokenCache:
    """The token cache of a stream, built if it is not there; a damaged one is built again.

    Only one of several processes builds, the others wait for it.

    Args:
        stream: the documents.
        tokenizer: a fast one.
        cache_dir: holds the caches.

    Raises:
        InputError: if the documents cannot be read, none is left, or the folder cannot be written.
    """
    key = cache_key(stream, tokenizer)
    folder = cache_dir / key
    cache = _open(folder)
    if cache is not None:
        return cache
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(cache_dir / f".{key}.lock"):
            cache = _open(folder)
            if cache is None:
                if folder.exists():
                    _LOG.warning("%s is damaged; it is built again", folder)
                    shutil.rmtree(folder)
                for remainder in cache_dir.glob(f".{key}.*.partial"):  # of a build that was killed
                    shutil.rmtree(remainder)
                cache = _build(stream, tokenizer, folder)
    except OSError as error:
        raise InputError(f"{cache_dir}: cannot be written ({error.strerror or error}); choose another cache_dir") from error
    return cache


def cache_key(stream: DocumentStream, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Name of the cache of a stream: 32 hexadecimal digits."""
    return hash_of({"format": FORMAT, "stream": stream.description, "tokenizer": tokenizer_hash(tokenizer)})


def hash_of(content: Any) -> str:
    """Hash of what JSON can hold: 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def tokenizer_hash(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Hash of all that determines what a tokenizer makes of a document."""
    return hash_of([_copy(tokenizer).to_str(), _end_of_text(tokenizer)])


def known_revisions(cache_dir: Path) -> dict[str, str]:
    """Commits of the hub's data sets that are cached, by name: a cache can be opened where the hub cannot be asked."""
    known: dict[str, str] = {}
    if not os.path.isdir(cache_dir):  # nor is one with a name that is too long
        return known
    for path in sorted(cache_dir.glob("*/meta.json"), key=lambda path: path.stat().st_mtime):
        try:
            sources = json.loads(path.read_text(encoding="utf-8"))["stream"]["sources"]
            known |= {source["name"]: source["revision"] for source in sources if "revision" in source}
        except (OSError, KeyError, TypeError, ValueError):
            continue
    return known


def _open(folder: Path) -> TokenCache | None:
    if not os.path.isdir(folder):
        return None
    try:
        return TokenCache(folder)
    except ValueError:
        return None


def _build(stream: DocumentStream, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> TokenCache:
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        counts = _write(stream, tokenizer, partial)
        if not counts["documents"]:
            raise InputError(f"no document is left: all {counts['excluded']} overlap with the texts to exclude; give other sources")
        meta = {"format": FORMAT, **counts, "stream": stream.description, "tokenizer": tokenizer_hash(tokenizer)}
        (partial / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)  # mkdtemp makes folders for the owner alone
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return TokenCache(folder)


def _write(stream: DocumentStream, tokenizer: "PreTrainedTokenizerBase", folder: Path) -> dict[str, Any]:
    """Tokenize, in the threads of the tokenizer, and write as it goes."""
    copy, end_of_text = _copy(tokenizer), _end_of_text(tokenizer)
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    documents = tokens = excluded = 0
    with ExitStack() as stack:
        token_file, offset_file, hash_file = files = [stack.enter_context((folder / name).open("wb")) for name in _FILES]
        offset_file.write(np.zeros(1, np.int64).tobytes())
        progress = stack.enter_context(tqdm(desc="Tokenizing", unit=" documents", unit_scale=True, disable=None))
        for texts, hashes, dropped in stream:
            ids = [encoding.ids for encoding in copy.encode_batch_fast(texts, add_special_tokens=False)]
            ends = np.cumsum([len(some) + 1 for some in ids], dtype=np.int64)
            flat = np.fromiter(chain.from_iterable((*some, end_of_text) for some in ids), dtype, int(ends[-1]) if ids else 0)
            token_file.write(flat.tobytes())
            offset_file.write((ends + tokens).tobytes())
            hash_file.write(np.stack([hashes, _hash_each(flat, ends)], axis=1).tobytes())
            documents, tokens, excluded = documents + len(ids), tokens + len(flat), excluded + dropped
            progress.update(len(ids) + dropped)
        for file in files:
            file.flush()
            os.fsync(file.fileno())  # the name must not be on disk before the content
    return {"documents": documents, "tokens": tokens, "excluded": excluded, "dtype": dtype.name}


def _hash_each(tokens: NDArray[Any], ends: Iterable[int]) -> NDArray[np.uint64]:
    """64-bit hash of each document's tokens."""
    hashes, start = [], 0
    for end in ends:
        hashes.append(int.from_bytes(hashlib.blake2b(tokens[start:end].data, digest_size=8).digest(), "little"))
        start = end
    return np.array(hashes, np.uint64)


def _copy(tokenizer: "PreTrainedTokenizerBase") -> Tokenizer:
    """The tokenizer as it is by itself: whole texts, without padding, special tokens in a text being plain text."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = True
    return copy


def _end_of_text(tokenizer: "PreTrainedTokenizerBase") -> int:
    end_of_text = tokenizer.eos_token_id
    if not isinstance(end_of_text, int):
        raise InputError("the tokenizer has no end-of-text token (eos_token), which ends a document; give another tokenizer")
    return end_of_text
