"""`rope-gpt2 convert` as typed: folders that load elsewhere, written whole or not at all, with a card and a tokenizer."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
import torch.distributed.checkpoint as dcp
from huggingface_hub import ModelCard
from running import ROOT, call
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, GPTNeoXForCausalLM, PreTrainedTokenizerBase

from rope_gpt2 import RopeGPT2Config, RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.training.checkpoints import load_checkpoint, save_pretrained

SHAPE = {"vocab_size": 300, "n_positions": 128, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0}
PROMPT = "Review: A fine film.\nSentiment:"
ELSEWHERE = """
import sys
sys.modules["rope_gpt2"] = None  # an import of it fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXForCausalLM
folder, prompt, target = sys.argv[1:]
model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
assert type(model) is GPTNeoXForCausalLM
with torch.no_grad():
    logits = model(**tokenizer([prompt, prompt + " positive. And now?"], return_tensors="pt", padding=True)).logits
assert not any(name.startswith("rope_gpt2.") for name in sys.modules)
torch.save(logits, target)
"""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(["a fine film", "a dull film"], 300)


@pytest.fixture(scope="module")
def gpt2_folder(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gpt2") / "gpt2"
    save_pretrained(GPT2LMHeadModel(GPT2Config(**SHAPE, initializer_range=0.2)), tokenizer, folder)
    return folder


@pytest.fixture(scope="module")
def rope_folder(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rope(tmp_path_factory.mktemp("rope") / "rope", tokenizer)


def make_rope(folder: Path, tokenizer, **changes) -> Path:
    torch.manual_seed(0)
    save_pretrained(RopeGPT2ForCausalLM(RopeGPT2Config(**SHAPE, initializer_range=0.2, **changes)), tokenizer, folder)
    return folder


def convert(*arguments: str | Path) -> None:
    assert call(["convert", *map(str, arguments)]) == 0


def refused(capsys, *arguments: str | Path) -> str:
    capsys.readouterr()
    assert call(["convert", *map(str, arguments)]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return sentence


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


# What it is for.


def test_mini_as_gpt_neox_gives_the_same_logits_in_a_process_without_this_package(tmp_path: Path):
    convert("to-gpt-neox", "checkpoints/mini", tmp_path / "neox")
    arguments = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "neox"), PROMPT, str(tmp_path / "logits.pt")]
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_checkpoint("checkpoints/mini")
    with torch.no_grad():
        ours = model(**tokenizer([PROMPT, PROMPT + " positive. And now?"], return_tensors="pt", padding=True)).logits
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), ours, atol=1e-5, rtol=1e-6)
    assert weights(tmp_path / "neox").keys().isdisjoint({"lm_head.weight", "embed_out.weight"})


def test_gpt2_through_rope_gpt2_and_gpt_neox_and_back_keeps_every_bit(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope")
    convert("to-gpt-neox", tmp_path / "rope", tmp_path / "neox")
    convert("from-gpt-neox", tmp_path / "neox", tmp_path / "back")
    stock = weights(gpt2_folder)
    del stock["transformer.wpe.weight"]
    assert_same_weights(weights(tmp_path / "rope"), stock)
    assert_same_weights(weights(tmp_path / "back"), stock)
    assert (tmp_path / "back" / "config.json").read_text() == (tmp_path / "rope" / "config.json").read_text()
    assert {(tmp_path / name / "tokenizer.json").read_bytes() for name in ("rope", "neox", "back")} == {
        (gpt2_folder / "tokenizer.json").read_bytes()
    }


def test_gpt2_with_its_table_comes_back_as_it_was(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "learned", "--position-encoding", "learned")
    convert("to-gpt2", tmp_path / "learned", tmp_path / "gpt2")
    assert_same_weights(weights(tmp_path / "gpt2"), weights(gpt2_folder))
    assert (tmp_path / "gpt2" / "config.json").read_text() == (gpt2_folder / "config.json").read_text()


def test_a_checkpoint_of_fit_becomes_a_folder(fitted: Path, tmp_path: Path):
    convert("from-checkpoint", fitted / "checkpoints" / "last.ckpt", tmp_path / "model")
    model, tokenizer = load_checkpoint(str(tmp_path / "model"))
    theirs, _ = load_checkpoint(str(fitted / "checkpoints" / "last.ckpt"))
    assert_same_weights(dict(model.state_dict()), dict(theirs.state_dict()))
    assert model.config.eos_token_id == model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_so_does_a_sharded_one(fitted: Path, tmp_path: Path):
    whole = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    sharded = tmp_path / "last.ckpt"
    dcp.save({"state_dict": whole.pop("state_dict")}, checkpoint_id=sharded, no_dist=True)
    torch.save(whole, sharded / "meta.pt")
    convert("from-checkpoint", f"{sharded}/", tmp_path / "of_shards")
    convert("from-checkpoint", fitted / "checkpoints" / "last.ckpt", tmp_path / "of_a_file")
    assert_same_weights(weights(tmp_path / "of_shards"), weights(tmp_path / "of_a_file"))


def test_a_checkpoint_goes_straight_to_gpt_neox(fitted: Path, tmp_path: Path):
    convert("to-gpt-neox", fitted / "checkpoints" / "last.ckpt", tmp_path / "neox")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "neox"), AutoTokenizer.from_pretrained(tmp_path / "neox")
    assert type(model) is GPTNeoXForCausalLM
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_the_healing_recipe_starts_from_a_gpt2_without_its_table(gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope")
    options = {"model.init_from": tmp_path / "rope", "data.train": "data/demo.csv", "export.folder": tmp_path / "healed"}
    options |= {"model.n_positions": 64, "data.holdout": 20, "data.cache_dir": tmp_path / "cache", "trainer.max_steps": 2}
    options |= {"trainer.val_check_interval": 2, "trainer.default_root_dir": tmp_path, "trainer.precision": "32-true"}
    options |= {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false", "model.compile": "false"}
    assert call(["fit", "--config", "configs/heal.yaml", *(f"--{name}={value}" for name, value in options.items())]) == 0
    before, after = weights(tmp_path / "rope"), weights(tmp_path / "healed")
    assert before.keys() == after.keys()
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stock_classes_load_in_the_stored_dtype_and_ours_in_float32(dtype: str, gpt2_folder: Path, tmp_path: Path):
    convert("from-gpt2", gpt2_folder, tmp_path / "rope", "--dtype", dtype)
    convert("to-gpt-neox", tmp_path / "rope", tmp_path / "neox", "--dtype", dtype)
    assert {weight.dtype for name in ("rope", "neox") for weight in weights(tmp_path / name).values()} == {getattr(torch, dtype)}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "rope").dtype == torch.float32
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "neox").dtype == getattr(torch, dtype)


def test_an_untied_head_is_stored_under_the_name_that_other_programs_read(rope_folder: Path, tmp_path: Path):
    convert("to-gpt-neox", rope_folder, tmp_path / "neox", "--untie-head")
    stored = weights(tmp_path / "neox")
    assert torch.equal(stored["embed_out.weight"], stored["gpt_neox.embed_in.weight"])


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


# Written whole or not at all.


def test_a_model_that_stood_there_is_replaced_and_notes_beside_it_stay(rope_folder: Path, gpt2_folder: Path, tmp_path: Path):
    target = tmp_path / "model"
    convert("from-gpt2", gpt2_folder, target)
    (target / "notes.txt").write_text("kept")
    (target / "pytorch_model.bin").write_text("of the model that goes")
    convert("to-gpt-neox", rope_folder, target)
    assert (target / "notes.txt").read_text() == "kept"
    assert not (target / "pytorch_model.bin").exists()
    assert type(AutoModelForCausalLM.from_pretrained(target)) is GPTNeoXForCausalLM
    assert "GPTNeoXForCausalLM" in (target / "README.md").read_text()


def test_a_failure_leaves_nothing(rope_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", fail)
    assert "cannot be written (disk full)" in refused(capsys, "to-gpt-neox", rope_folder, tmp_path / "neox")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_model_folder_is_not_replaced(rope_folder: Path, tmp_path: Path, capsys):
    (tmp_path / "notes.txt").write_text("kept")
    assert "exists and is no model folder" in refused(capsys, "to-gpt-neox", rope_folder, tmp_path)
    assert "source and target at once" in refused(capsys, "to-gpt-neox", rope_folder, f"{rope_folder}/")
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_a_source_that_cannot_become_the_target_is_refused_in_a_sentence(rope_folder: Path, gpt2_folder: Path, tmp_path: Path, capsys):
    target = tmp_path / "model"
    assert "takes a RoPE GPT-2, got GPT2LMHeadModel" in refused(capsys, "to-gpt-neox", gpt2_folder, target)
    assert "takes a GPT2LMHeadModel" in refused(capsys, "from-gpt2", rope_folder, target)
    assert "position_encoding 'rope'" in refused(capsys, "to-gpt2", rope_folder, target)
    assert "no such file" in refused(capsys, "from-checkpoint", tmp_path / "missing.ckpt", target)
    assert "holds no finished run" in refused(capsys, "to-gpt-neox", rope_folder, target, "--results", tmp_path / "no_run")
    assert "invalid choice" in refused(capsys, "to-llama", rope_folder, target)
    assert list(tmp_path.iterdir()) == []


def test_float16_refuses_a_weight_that_it_cannot_hold(tokenizer, tmp_path: Path, capsys):
    model = RopeGPT2ForCausalLM(RopeGPT2Config(**SHAPE))
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = 1e5
    save_pretrained(model, tokenizer, tmp_path / "large")
    assert "ln_f.weight holds 1e+05" in refused(capsys, "to-gpt-neox", tmp_path / "large", tmp_path / "neox", "--dtype", "float16").replace(
        "final_layer_norm", "ln_f"
    )
    assert not (tmp_path / "neox").exists()


# Scoring as a program; its numbers are tested in fewshot/test_exported.py.


@pytest.mark.slow
def test_the_scorer_of_a_model_gives_its_label_logprobs(tokenizer, tmp_path: Path):
    folder = make_rope(tmp_path / "rope", tokenizer, position_encoding="learned")
    convert("to-export", folder, tmp_path / "scorer.pt2", "--label-words", "dull", "fine")
    program = torch.export.load(tmp_path / "scorer.pt2").module()
    model, _ = load_checkpoint(str(folder))
    prompts = [tokenizer(text)["input_ids"] for text in (PROMPT, "Review: A dull film. A very dull film.\nSentiment:")]
    longest = max(map(len, prompts))
    scores = program(torch.tensor([ids + [1] * (longest - len(ids)) for ids in prompts]), torch.tensor([len(ids) for ids in prompts]))
    for ids, line in zip(prompts, scores, strict=True):
        for word, score in zip((tokenizer(" dull")["input_ids"], tokenizer(" fine")["input_ids"]), line, strict=True):
            with torch.no_grad():
                logprobs = model(torch.tensor([ids + word])).logits[0].log_softmax(dim=-1)
            expected = sum(logprobs[len(ids) - 1 + place, token] for place, token in enumerate(word))
            torch.testing.assert_close(score, expected, atol=1e-5, rtol=0)


def test_the_scorer_is_refused_where_its_angles_hang_on_the_batch(tokenizer, tmp_path: Path, capsys):
    dynamic = make_rope(tmp_path / "dynamic", tokenizer, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    assert "rope type dynamic" in refused(capsys, "to-export", dynamic, tmp_path / "scorer.pt2")
    assert "end in .pt2" in refused(capsys, "to-export", dynamic, tmp_path / "scorer.onnx")
    assert not (tmp_path / "scorer.pt2").exists()


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


def test_the_card_of_mini_is_its_own():
    assert "rope-gpt2 convert" not in (ROOT / "checkpoints" / "mini" / "README.md").read_text()
