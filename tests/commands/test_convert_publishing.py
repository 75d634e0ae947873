"""What `rope-gpt2 convert` tells others: the card of a model, and the folder on the hub."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
from converting import convert, refused
from huggingface_hub import ModelCard
from running import ROOT, call
from transformers import AutoModelForCausalLM

# The card.


def test_the_card_says_what_it_is_and_how_to_load_it(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope")
    convert("to-gpt-neox", tmp_path / "rope", tmp_path / "neox", "--dtype", "bfloat16")
    ours, stock = (ModelCard.load(tmp_path / name / "README.md") for name in ("rope", "neox"))
    for card, model_class in ((ours, "RopeGPT2ForCausalLM"), (stock, "GPTNeoXForCausalLM")):
        assert f"| class | `{model_class}` |" in card.content
        assert "rotary (RoPE), base 10000, rope type default" in card.content
        assert "| training length | 128 tokens |" in card.content
        assert card.data.library_name == "transformers"
        assert card.data.license is None
        assert str(tmp_path) not in card.content
    assert "import rope_gpt2" in ours.content
    assert "train it on before use" in ours.content
    assert "import rope_gpt2" not in stock.content
    assert "stored as bfloat16" in stock.content


def test_the_card_shows_what_evaluate_measured(rope_folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    options = [
        "--shots",
        "0",
        "1",
        "--seeds",
        "2",
        "--limit",
        "8",
        "--trim-queries",
        "--device",
        "cpu",
        "--no-report",
        "--output",
        str(run),
    ]
    assert call(["evaluate", "--checkpoint", str(rope_folder), *options]) == 0
    convert("to-gpt-neox", rope_folder, tmp_path / "neox", "--results", run)
    card = ModelCard.load(tmp_path / "neox" / "README.md")
    assert [one.dataset_name for one in card.data.eval_results] == ["demo.csv", "demo.csv"]
    rows = [line.split("|")[1:-1] for line in card.content.splitlines() if line.startswith(("| 0 |", "| 1 |"))]
    assert [(row[4].strip(), row[5].strip()) for row in rows] == [("8", "1"), ("8", "2")]


def test_the_card_of_mini_is_its_own():
    assert "rope-gpt2 convert" not in (ROOT / "checkpoints" / "mini" / "README.md").read_text()


# The hub: its own client, and a stand-in for the server.


class Hub(HTTPServer):
    """Answers what huggingface_hub's client asks, and keeps what it sends; status 403 refuses all of it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.status = 200
        self.created: list[dict[str, str]] = []
        self.published: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"])).decode()
        answer: dict[str, object] = {"errors": [], "warnings": []}  # of /api/validate-yaml
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(sent))
            answer = {"url": f"{self.server.address}/someone/small"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(sent)["files"]]
            answer = {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in sent.splitlines()]
            self.server.published = sorted(line["value"]["path"] for line in lines if line["key"] == "file")
            answer = {"commitUrl": f"{self.server.address}/someone/small/commit/{'0' * 40}", "commitOid": "0" * 40}
        content = json.dumps(answer).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
        yield server
        server.shutdown()


def test_the_written_folder_is_published(hub: Hub, rope_folder: Path, tmp_path: Path):
    convert("to-gpt-neox", rope_folder, neox := tmp_path / "neox", "--push-to-hub", "someone/small", "--private")
    (created,) = hub.created
    assert (created["name"], created["organization"]) == ("small", "someone")
    assert created.get("visibility") == "private" or created.get("private") is True  # huggingface_hub 2, and 1
    assert hub.published == sorted(path.name for path in neox.iterdir())
    assert 'from_pretrained("someone/small")' in (neox / "README.md").read_text()


def test_notes_beside_the_model_are_not_published(hub: Hub, rope_folder: Path, tmp_path: Path):
    convert("to-gpt-neox", rope_folder, tmp_path / "neox")
    (tmp_path / "neox" / "notes.md").write_text("mine")
    convert("to-gpt-neox", rope_folder, tmp_path / "neox", "--push-to-hub", "someone/small")
    assert "visibility" not in hub.created[0]
    assert "model.safetensors" in hub.published
    assert "notes.md" not in hub.published


def test_what_the_hub_refuses_is_one_sentence_and_the_folder_stays(hub: Hub, rope_folder: Path, tmp_path: Path, capsys):
    hub.status = 403
    sentence = refused(capsys, "to-gpt-neox", rope_folder, tmp_path / "neox", "--push-to-hub", "someone/small")
    assert "403" in sentence
    assert sentence.endswith(f"hf upload someone/small {tmp_path / 'neox'}")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "neox").config.model_type == "gpt_neox"


def test_without_token_network_or_name_nothing_is_begun(hub: Hub, rope_folder: Path, tmp_path: Path, monkeypatch, capsys):
    arguments = ("to-gpt-neox", rope_folder, tmp_path / "neox")
    assert "is no name" in refused(capsys, *arguments, "--push-to-hub", "a/b/c")
    assert "--private is for --push-to-hub" in refused(capsys, *arguments, "--private")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    assert "hf auth login" in refused(capsys, *arguments, "--push-to-hub", "someone/small")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(capsys, *arguments, "--push-to-hub", "someone/small")
    assert (hub.created, list(tmp_path.iterdir())) == ([], [])
