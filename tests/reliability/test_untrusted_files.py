"""Files of a stranger run no code, are named where they do not fit, start no formula, and lead nowhere out of their folder."""

import csv
import io
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint as dcp
from browser import start_browser
from hypothesis import given
from hypothesis import strategies as st
from running import call, fit_arguments
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as MEMORY_FORMAT

from rope_gpt2.corpus.documents import read_documents
from rope_gpt2.corpus.token_cache import TokenCache
from rope_gpt2.fewshot.examples import read_examples
from rope_gpt2.training.pseudo_labels import write_labelled
from rope_gpt2.training.sharding import check_shards

CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, PreTrainedModel
class StrangeConfig(PreTrainedConfig):
    model_type = "strange"
class StrangeModel(PreTrainedModel):
    config_class = StrangeConfig
class StrangeTokenizer(PreTrainedTokenizerFast):
    pass
"""


class Attack:
    """What unpickling turns into a file: code of a stranger would be no harder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that no test may bring about."""
    path = tmp_path / "code_has_run"
    yield path
    assert not path.exists(), "code out of a file has run"


@pytest.fixture
def refused(tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., str]:
    """Runs a command that must end in exit code 2 after one sentence, whatever is piped in; returns the sentence."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\nyes\n" * 9))  # `yes | rope-gpt2 ...`: the answer to any question
        capsys.readouterr()
        assert call(list(arguments)) == 2
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert not marker.exists()
        assert not (tmp_path / "output").exists()
        (sentence,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        return sentence

    return run


def evaluate(checkpoint: Path) -> list[str]:
    output = str(checkpoint.parent / "output")
    return ["evaluate", "--checkpoint", str(checkpoint), "--limit", "4", "--shots", "0", "--no-report", "--output", output]


@pytest.fixture
def folder(fitted: Path, tmp_path: Path) -> Path:
    """A model folder to do mischief to."""
    return Path(shutil.copytree(fitted / "pretrained", tmp_path / "stranger"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# a file of Lightning's, and a sharded one


@pytest.fixture
def whole(fitted: Path) -> dict[str, Any]:
    """The content of a good checkpoint."""
    return dict(torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True))


PLACES = {
    "weights": lambda content, attack: content["state_dict"].update({"model.transformer.ln_f.weight": attack}),
    "optimizer state": lambda content, attack: content.update(optimizer_states=[attack]),
    "hyperparameters": lambda content, attack: content["hyper_parameters"].update(n_layer=attack),
    "state of a callback": lambda content, attack: content["callbacks"].update(Other=attack),
    "tokenizer": lambda content, attack: content["SentimentDataModule"].update(tokenizer_json=attack),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_in_a_checkpoint_is_never_run(place: str, whole: dict[str, Any], marker: Path, tmp_path: Path, refused):
    PLACES[place](whole, Attack(marker))
    hostile = tmp_path / "hostile.ckpt"
    torch.save(whole, hostile)
    assert "the rest is never unpickled" in refused(*evaluate(hostile))
    assert "hostile.ckpt" in refused(*fit_arguments(tmp_path / "logs"), "--ckpt_path", str(hostile))
    assert "hostile.ckpt" in refused("predict", "--config", "configs/predict.yaml", "--ckpt_path", str(hostile))


@pytest.mark.parametrize(
    "command",
    [
        ["label", "--text", "data/demo.csv", "--output", "{tmp}/labelled.csv", "--checkpoint", "{file}"],
        ["validate", "--config", "configs/smoke.yaml", "--ckpt_path", "{file}"],
        ["fit", "--config", "configs/smoke.yaml", "--model.init_from", "{file}", "--trainer.default_root_dir", "{tmp}/logs"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_unpickles_a_bare_pickle(command: list[str], marker: Path, tmp_path: Path, refused):
    hostile = tmp_path / "hostile.ckpt"
    hostile.write_bytes(pickle.dumps(Attack(marker)))
    assert "hostile.ckpt" in refused(*(part.format(file=hostile, tmp=tmp_path) for part in command))


def test_hyperparameters_name_no_class_to_build(whole: dict[str, Any], tmp_path: Path, marker: Path, monkeypatch, refused):
    (tmp_path / "stranger.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    whole["hyper_parameters"] |= {"_class_path": "stranger.StrangeModel", "_instantiator": "stranger.StrangeModel"}
    torch.save(whole, tmp_path / "hostile.ckpt")
    refused("predict", "--config", "configs/predict.yaml", "--ckpt_path", str(tmp_path / "hostile.ckpt"))


@pytest.fixture
def shards(whole: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes a sharded checkpoint, as `fit --trainer.strategy fsdp2` does; keywords are laid over its weights."""

    def write(**weights: Any) -> Path:
        target = tmp_path / "sharded.ckpt"
        content = dict(whole)
        state = {"state_dict": content.pop("state_dict") | {name.replace("__", "."): value for name, value in weights.items()}}
        dcp.save(state, checkpoint_id=target, no_dist=True)
        torch.save(content, target / "meta.pt")
        return target

    return write


def refused_by_both(sharded: Path, refused: Callable[..., str]) -> str:
    """By evaluate and by a fit that goes on; what evaluate says."""
    options = fit_arguments(sharded.parent / "logs", trainer__strategy="fsdp2", trainer__devices="1")
    assert str(sharded) in refused(*options, "--ckpt_path", str(sharded))
    return refused(*evaluate(sharded))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_pickle_in_a_sharded_checkpoint_is_never_run(shards, marker: Path, refused):
    sharded = shards()
    check_shards(sharded)  # a good one is taken
    whole_list = (sharded / ".metadata").read_bytes()
    for name in ("meta.pt", ".metadata"):
        kept = (sharded / name).read_bytes()
        (sharded / name).write_bytes(pickle.dumps(Attack(marker)))
        refused_by_both(sharded, refused)
        (sharded / name).write_bytes(kept)
    assert (sharded / ".metadata").read_bytes() == whole_list
    shutil.rmtree(sharded)
    # an entry that says it is no tensor: torch unpickles it as it comes
    assert "never unpickled" in refused_by_both(shards(model__transformer__ln_f__weight=Attack(marker)), refused)


class Lookup:
    """Pickles as `getattr(holder, name)`; Python 3.11.0 to 3.11.3 write the members of Enums so."""

    def __init__(self, holder: type, name: str) -> None:
        self.holder, self.name = holder, name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type, str]]:
        return getattr, (self.holder, self.name)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_list_of_shards_may_name_members_of_enums_and_nothing_else_of_anything(shards, refused):
    sharded = shards()
    metadata = pickle.loads((sharded / ".metadata").read_bytes())
    for holder, name, is_good in (
        (MEMORY_FORMAT, "TORCH_CHANNELS_LAST", True),
        (MEMORY_FORMAT, "mro", False),
        (PurePosixPath, "joinpath", False),
    ):
        metadata.planner_data = Lookup(holder, name)
        (sharded / ".metadata").write_bytes(pickle.dumps(metadata))
        if is_good:
            check_shards(sharded)
        else:
            assert "never unpickled" in refused_by_both(sharded, refused)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_lie_in_their_folder(shards, tmp_path: Path, refused):
    sharded = shards()
    (shard,) = sharded.glob("*.distcp")
    shard.rename(tmp_path / shard.name)
    metadata = pickle.loads((sharded / ".metadata").read_bytes())
    metadata.storage_data = {key: replace(item, relative_path=f"../{shard.name}") for key, item in metadata.storage_data.items()}
    (sharded / ".metadata").write_bytes(pickle.dumps(metadata))
    assert f"'../{shard.name}', which is no plain file of the folder" in refused_by_both(sharded, refused)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_truncated_shard_is_named(shards, refused):
    sharded = shards()
    (shard,) = sharded.glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert "sharded.ckpt: is no checkpoint of this package, or is damaged (a shard is damaged" in refused(*evaluate(sharded))


def test_going_on_from_a_strangers_checkpoint_removes_no_file_of_ours(whole: dict[str, Any], marker: Path, tmp_path: Path):
    precious = tmp_path / "precious.csv"
    precious.write_text("kept")
    logs = tmp_path / "logs"
    named = f"{logs}/version_0/checkpoints/../../../precious.csv"  # begins like one of the run's own checkpoints
    (name,) = [name for name in whole["callbacks"] if name.startswith("BestCheckpoint")]
    best = {"best_k_models": {named: torch.tensor(-1.0)}, "kth_best_model_path": named, "kth_value": torch.tensor(-1.0)}
    whole["callbacks"][name] |= {**best, "best_model_path": named, "last_model_path": named, "best_model_score": torch.tensor(-1.0)}
    for state in whole["callbacks"].values():
        state |= {"best_model_path": named} if "best_model_path" in state else {}
    torch.save(whole, tmp_path / "hostile.ckpt")
    assert call([*fit_arguments(logs, trainer__max_epochs="3"), "--ckpt_path", str(tmp_path / "hostile.ckpt")]) == 0
    assert precious.read_text() == "kept"


# a folder of save_pretrained


def test_weights_that_are_pickled_are_not_read(folder: Path, marker: Path, refused):
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": Attack(marker)}, folder / "pytorch_model.bin")
    assert "no file named model.safetensors" in refused(*evaluate(folder))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../weights.safetensors", "/weights.safetensors", "sub/weights.safetensors"])
def test_a_list_of_weights_names_safetensors_beside_it_alone(name: str, folder: Path, marker: Path, refused):
    weights = load_file(folder / "model.safetensors")
    shutil.move(folder / "model.safetensors", folder.parent / "weights.safetensors")
    torch.save({"transformer.wte.weight": Attack(marker)}, folder / "pytorch_model.bin")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"names {name!r}, and weights must be .safetensors files beside it" in refused(*evaluate(folder))


def test_the_code_of_a_folder_is_never_run(folder: Path, marker: Path, refused):
    (folder / "stranger.py").write_text(CODE.format(marker=str(marker)))
    code = {"AutoConfig": "stranger.StrangeConfig", "AutoModelForCausalLM": "stranger.StrangeModel"}
    before = (folder / "config.json").read_text()
    edit(folder / "config.json", model_type="strange", auto_map=code)
    assert "holds code of its own, which is never run" in refused(*evaluate(folder))
    (folder / "config.json").write_text(before)
    edit(
        folder / "tokenizer_config.json", tokenizer_class="StrangeTokenizer", auto_map={"AutoTokenizer": ["stranger.StrangeTokenizer"] * 2}
    )
    assert "cannot be loaded" in refused(*evaluate(folder))
    assert "cannot be loaded" in refused(*fit_arguments(folder.parent / "logs"), "--data.tokenizer", str(folder))


def test_where_transformers_has_the_class_the_code_of_a_folder_is_passed_over(folder: Path, marker: Path, monkeypatch):
    (folder / "stranger.py").write_text(CODE.format(marker=str(marker)))
    edit(folder / "config.json", auto_map={"AutoConfig": "stranger.StrangeConfig", "AutoModelForCausalLM": "stranger.StrangeModel"})
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["stranger.StrangeTokenizer"] * 2})
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    assert call(evaluate(folder)) == 0


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_config_chooses_no_program_of_the_hub(name: str, folder: Path, refused):
    edit(folder / "config.json", **{name: "kernels-community/attention"})
    assert "asks for attention by 'kernels-community/attention'" in refused(*evaluate(folder))


def test_weights_of_another_shape_are_named_with_what_was_expected(folder: Path, fitted: Path, whole, tmp_path: Path, refused):
    weights = load_file(folder / "model.safetensors")
    layer = {name: tensor for name, tensor in weights.items() if ".h.1." in name}
    save_file({name: tensor for name, tensor in weights.items() if name not in layer}, folder / "model.safetensors", {"format": "pt"})
    assert f"lack {len(layer)} of the weights, {min(layer)} for one" in refused(*evaluate(folder))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", n_layer=1)
    assert "weights that its config knows nothing of, transformer.h.1." in refused(*evaluate(folder))
    edit(folder / "config.json", n_layer=2, n_positions=96, n_embd=64)
    assert "have the shape [" in (said := refused(*evaluate(folder)))
    assert "and its config wants [" in said
    whole["state_dict"]["model.transformer.ln_f.weight"] = torch.zeros(7)
    torch.save(whole, tmp_path / "other.ckpt")
    assert "size mismatch for transformer.ln_f.weight: copying a param with shape torch.Size([7])" in refused(
        *evaluate(tmp_path / "other.ckpt")
    )


# caches and runs


def test_a_token_cache_maps_numbers_alone(tmp_path: Path, marker: Path):
    contents = {"tokens": np.arange(4, dtype=np.uint16), "offsets": np.array([0, 4]), "hashes": np.zeros((1, 2), np.uint64)}
    for name, content in contents.items():
        (tmp_path / f"{name}.bin").write_bytes(content.tobytes())
    meta = {"documents": 1, "tokens": 4, "dtype": "uint16", "excluded": 0}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    assert TokenCache(tmp_path).document(0).tolist() == [0, 1, 2, 3]
    for dtype in ("object", "O", "V8", "float64", ["uint16"]):  # "object" would take what stands in the file for addresses of objects
        edit(tmp_path / "meta.json", dtype=dtype)
        with pytest.raises(ValueError, match="is no whole token cache"):
            TokenCache(tmp_path)
    edit(tmp_path / "meta.json", dtype="uint16")
    np.save(tmp_path / "tokens.npy", np.array([Attack(marker)], dtype=object), allow_pickle=True)
    (tmp_path / "tokens.npy").replace(tmp_path / "tokens.bin")
    with pytest.raises(ValueError, match="bytes instead of"):
        TokenCache(tmp_path)


@pytest.mark.parametrize("name", ["scores.parquet", "content_free.parquet", "reviews.parquet", "conditions.json", "manifest.json"])
def test_a_run_of_a_stranger_runs_no_code(name: str, runs: Path, marker: Path, tmp_path: Path, refused):
    run = shutil.copytree(runs / "run", tmp_path / "run")
    (run / name).write_bytes(pickle.dumps(Attack(marker)))
    assert str(run) in refused("report", str(run))
    assert str(run) in refused("compare", str(run), str(runs / "other_run"))


def test_a_pickled_type_in_a_parquet_file_is_never_unpickled(runs: Path, marker: Path, tmp_path: Path):
    run = shutil.copytree(runs / "run", tmp_path / "run")
    hidden = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Attack(marker))}
    for name in ("scores.parquet", "content_free.parquet", "reviews.parquet"):
        table = pq.read_table(run / name)
        fields = [field.with_metadata(hidden) for field in table.schema]
        pq.write_table(table.cast(pa.schema(fields)), run / name)
    assert call(["compare", str(run), str(runs / "run"), "--calibration", "batch"]) in (0, 2)


# spreadsheets

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1+1", "\r=1+1", '=HYPERLINK("http://x";"y")', "＝1+1"]
OTHERS = ["fine;=1+1", "'tis =1", "'=1 as it stood", "a,\n=1+1", 'he said "=1"', "'", "plain"]


def test_a_labelled_csv_starts_no_formula_and_reads_back_as_it_was(tmp_path: Path):
    path = tmp_path / "labelled.csv"
    write_labelled([(text, "positive", 1.0) for text in (*FORMULAS, *OTHERS)], path)
    for delimiter in ",;":
        with path.open(encoding="utf-8", newline="") as file:
            cells = [cell for row in csv.reader(file, delimiter=delimiter) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))]
    assert [example.review for example in read_examples(path, clean_html=False)] == [*FORMULAS, *OTHERS]
    assert list(read_documents(str(path))) == [text.strip() for text in (*FORMULAS, *OTHERS)]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip))
def test_any_text_survives_a_labelled_csv(tmp_path_factory, text: str):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write_labelled([(text, "negative", 0.9)], path)
    assert [example.review for example in read_examples(path, clean_html=False)] == [text]


def test_predictions_hold_names_and_numbers_of_this_package_alone(runs: Path):
    with (runs / "run" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert not [cell for cell in cells if not re.fullmatch(r"[a-z_0-9]+|-?\d+(\.\d+)?(e-?\d+)?", cell)]


# the page

HOSTILE = (
    "<script>window.pwned = 'script'</script>",
    "<img src=x onerror=\"window.pwned = 'img'\">",
    "<svg onload=\"window.pwned = 'svg'\"><animate onbegin=\"window.pwned = 'animate'\" attributeName=x dur=1s></svg>",
    "<a id=link href=\"javascript:window.pwned = 'link'\" autofocus onfocus=\"window.pwned = 'focus'\">here</a>",
    "</script></style></title></textarea></template><script>window.pwned = 'closed'</script>",
    "<iframe srcdoc=\"<script>parent.pwned = 'frame'</script>\"></iframe><object data=x></object><base href=//127.0.0.1:9/>",
    "<meta http-equiv=refresh content='0;url=javascript:window.pwned=1'><link rel=stylesheet href=//127.0.0.1:9/x.css>",
    "{{ 7 * 191 }} {% raw %} ${7 * 191} #{7 * 191} [[constructor.constructor('window.pwned = 1')()]]",
    "\"-->]]></q></pre></details><script>window.pwned = 'quote'</script>' onmouseover='window.pwned = 2' \u202e\u0000",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for this file."""
    yield from start_browser(tmp_path_factory.mktemp("profile"))


@pytest.mark.slow
def test_what_a_review_or_a_name_holds_never_runs_in_the_report(browser, fitted: Path, tmp_path: Path):
    data = tmp_path / "<img src=x onerror=pwned=3>.csv"
    with data.open("w", encoding="utf-8", newline="") as file:  # each under both labels: one of the two is a mistake, and shown
        csv.writer(file).writerows(
            [("review", "sentiment"), *((f"{text} {n}", label) for n, text in enumerate(HOSTILE) for label in ("negative", "positive"))]
        )
    template = "<svg onload=pwned=4>{text} </script>: {label}\\n"
    arguments = ["--checkpoint", str(fitted / "pretrained"), "--data", str(data), "--template", template, "--shots", "0", "--seeds", "1"]
    assert call(["evaluate", *arguments, "--output", str(tmp_path / "output")]) == 0
    text = (tmp_path / "output" / "report.html").read_text(encoding="utf-8")
    assert text.lower().count("<script") == text.lower().count("</script") == 1
    assert "1337" not in re.sub(r"\d{5,}|\d\.\d+", "", text)  # of 7 * 191
    browser.get((tmp_path / "output" / "report.html").as_uri())
    browser.execute_script("document.querySelectorAll('details').forEach((one) => one.open = true)")
    shown = browser.execute_script("return document.body.innerText")
    assert "{{ 7 * 191 }}" in shown
    assert "window.pwned = 'script'" in shown
    assert browser.execute_script("return window.pwned === undefined && document.title.startsWith('Few-shot report')")
    strange = (
        "iframe, object, base, img, a[href^=javascript], link[rel=stylesheet], meta[http-equiv=refresh], [onload], [onerror], [onfocus]"
    )
    assert browser.execute_script("return document.querySelectorAll(arguments[0]).length", strange) == 0
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    fetched = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    assert not [url for url in fetched if not url.startswith(("file:", "data:", "chrome"))]
