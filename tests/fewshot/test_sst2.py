"""SST-2 is found on disk, or fetched, checked by its content and written whole; else the message says what to put where."""

import hashlib
import io
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pandas as pd
import pytest
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot import sst2
from rope_gpt2.fewshot.examples import LABELS, read_examples

SENTENCES = ["the map is upside down and so is the plot ", 'a "warm" , well-lit film ', "it hums along "]
PAIRS = [(SENTENCES[0].strip(), "negative"), (SENTENCES[1].strip(), "positive"), (SENTENCES[2].strip(), "positive")]
FILE = "/datasets/stanfordnlp/sst2/resolve/main/data/train-00000-of-00001.parquet"


def parquet(sentences: list[str], labels: list[int]) -> bytes:
    buffer = io.BytesIO()
    pd.DataFrame({"idx": range(len(labels)), "sentence": sentences, "label": labels}).to_parquet(buffer)
    return buffer.getvalue()


class Hub(ThreadingHTTPServer):
    """Serves one file as the hub does; None for a hub that does not have it."""

    content: bytes | None = None
    downloads = 0


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        found = self.path == FILE and self.server.content is not None
        body = self.server.content if found else b"no such entry"
        self.send_response(200 if found else 404)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", "0123456789abcdef0123456789abcdef01234567")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.server.downloads += 1
            self.wfile.write(body)

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def working_folder(tmp_path, monkeypatch) -> Path:
    """An empty working folder, with a cache of the hub's client beside it."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("ROPE_GPT2_DATA", raising=False)
    for name, value in list(vars(constants).items()):  # whatever the client keeps on disk
        if isinstance(value, str) and value.startswith(constants.HF_HOME) and name != "HF_HOME":
            monkeypatch.setattr(constants, name, str(tmp_path / "home") + value.removeprefix(constants.HF_HOME))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def hub(working_folder, monkeypatch) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in (
        ("HF_HUB_OFFLINE", False),
        ("ENDPOINT", endpoint),
        ("HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"),
    ):
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    huggingface_hub.close_session()
    server.shutdown()
    thread.join()
    server.server_close()


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_content_hash_does_not_depend_on_the_order_of_rows(data):
    pairs = data.draw(st.lists(st.tuples(st.text(alphabet="ab é\n"), st.sampled_from(LABELS))))
    assert sst2.content_sha256(pairs) == sst2.content_sha256(data.draw(st.permutations(pairs)))


def test_content_hash_does_not_depend_on_white_space():
    assert sst2.content_sha256([(" a  film\n", "negative")]) == sst2.content_sha256([("a film", "negative")])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(PAIRS[:2], id="a row fewer"),
        pytest.param([*PAIRS, PAIRS[0]], id="a row twice"),
        pytest.param([(PAIRS[0][0], "positive"), *PAIRS[1:]], id="another label"),
        pytest.param([(PAIRS[0][0] + "s", "negative"), *PAIRS[1:]], id="another text"),
    ],
)
def test_content_hash_tells_sets_apart(other):
    assert sst2.content_sha256(PAIRS) != sst2.content_sha256(other)


def place(folder: Path, split: str) -> Path:
    path = folder / "sst2" / f"{split}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("review,sentiment\nDull.,negative\n")
    return path


@pytest.mark.parametrize("split", sst2.SPLITS)
def test_sst2_is_found_in_the_folder_of_the_variable_first(working_folder, tmp_path, monkeypatch, split):
    monkeypatch.setenv("ROPE_GPT2_DATA", str(tmp_path / "sets"))
    place(working_folder / "data", split)
    theirs = place(tmp_path / "sets", split)
    assert sst2.find_sst2(split) == theirs
    assert sst2.resolve_data("sst2", split) == theirs


def test_sst2_is_found_in_the_data_folder(working_folder, tmp_path, monkeypatch):
    theirs = place(working_folder / "data", "train")
    assert sst2.find_sst2("train").resolve() == theirs
    monkeypatch.setenv("ROPE_GPT2_DATA", str(tmp_path / "nothing here"))
    assert sst2.find_sst2("train").resolve() == theirs


def test_any_other_name_is_a_path(working_folder):
    assert sst2.resolve_data("my/reviews.csv", "train") == Path("my/reviews.csv")


@pytest.mark.parametrize("split", sst2.SPLITS)
def test_without_a_network_the_message_says_what_to_put_where(working_folder, monkeypatch, split):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        sst2.find_sst2(split)
    place = re.escape(str(Path("data") / "sst2"))
    assert re.search(rf"could not be fetched.*put {split}\.csv with the columns review,sentiment into {place}", str(caught.value))
    assert "ROPE_GPT2_DATA" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(working_folder.iterdir())


@pytest.mark.parametrize("content", [None, b"this is no parquet file"], ids=["nothing", "garbage"])
def test_a_hub_without_the_file_gives_the_same_advice(hub, working_folder, content):
    hub.content = content
    with pytest.raises(InputError, match=r"could not be fetched.*put train\.csv with the columns review,sentiment into"):
        sst2.find_sst2("train")
    assert not list(working_folder.iterdir())


@pytest.mark.parametrize("labels", [[0, 1, 0], [0, 1, -1], [0, 1, 2]], ids=str)
def test_a_set_with_other_content_is_refused_and_nothing_is_written(hub, working_folder, monkeypatch, labels):
    monkeypatch.setitem(sst2.CONTENT_SHA256, "train", sst2.content_sha256([*PAIRS[:2], (PAIRS[2][0], "negative?")]))
    hub.content = parquet(SENTENCES, labels)
    with pytest.raises(InputError, match=r"stanfordnlp/sst2.*put the right train\.csv into"):
        sst2.find_sst2("train")
    assert hub.downloads == 1
    assert not files_below(working_folder)


def test_the_right_set_is_fetched_once_and_written_as_a_csv(hub, working_folder, monkeypatch):
    monkeypatch.setitem(sst2.CONTENT_SHA256, "train", sst2.content_sha256(PAIRS))
    hub.content = parquet(SENTENCES, [0, 1, 1])
    path = sst2.find_sst2("train")
    assert [(example.review, example.sentiment) for example in read_examples(path)] == PAIRS
    assert files_below(working_folder) == [working_folder / "data" / "sst2" / "train.csv"]
    hub.content = None
    assert sst2.find_sst2("train") == path
    assert hub.downloads == 1


@pytest.mark.sst2
@pytest.mark.parametrize("split", sst2.SPLITS)
def test_the_files_on_disk_are_the_set_that_papers_report(split):
    folders = [Path(os.environ.get("ROPE_GPT2_DATA", "data")), Path(__file__).parents[2] / "data"]
    found = [path for folder in folders if (path := folder / "sst2" / f"{split}.csv").is_file()]
    if not found:
        pytest.skip("SST-2 is not on this machine")
    examples = read_examples(found[0])
    assert len(examples) == sst2.SPLITS[split]
    ours = sst2.content_sha256((example.review, example.sentiment) for example in examples)
    assert ours == sst2.CONTENT_SHA256[split]
