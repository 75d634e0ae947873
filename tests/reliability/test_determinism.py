"""The same seed on the same machine gives the same result, to the bit; and where nobody can promise that, the manifest says so."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from without_network import two_runs

from rope_gpt2.commands import manifest
from rope_gpt2.commands.manifest import build_manifest


def assert_same(ours: Any, theirs: Any) -> None:
    """Equal to the bit, whatever it is made of."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same(ours[name], theirs[name])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.slow
def test_two_processes_fit_the_same_weights_to_the_bit():
    first, second = (folder / "fit" / "version_0" for folder in two_runs())
    for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (first / "pretrained" / name).read_bytes() == (second / "pretrained" / name).read_bytes(), name
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    ours, theirs = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (first, second))
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "hyper_parameters", "SentimentDataModule"):
        assert_same(ours[name], theirs[name])
    assert len(list(first.glob("checkpoints/best*"))) == 1
    assert [path.name for path in first.glob("checkpoints/*")] == [path.name for path in second.glob("checkpoints/*")]


@pytest.mark.slow
def test_two_processes_predict_the_same_to_the_bit():
    first, second = (folder / "predictions.csv" for folder in two_runs())
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_two_processes_evaluate_the_same_to_the_bit():
    first, second = (folder / "run" for folder in two_runs())
    names = {str(path.relative_to(first)) for path in first.rglob("*") if path.is_file()}
    assert names == {str(path.relative_to(second)) for path in second.rglob("*") if path.is_file()}
    for name in names - {"manifest.json", "report.html"}:  # which hold the time, and the command with its folders
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (first, second)]
    assert manifests[0]["repeatable"] == manifests[1]["repeatable"] == manifest.CPU_REPEATABLE
    for plan in (one["plan"] for one in manifests):
        plan.pop("checkpoint")  # its path, and a hash over the paths of fit's callbacks
    assert manifests[0]["plan"] == manifests[1]["plan"]


@pytest.mark.parametrize(("accelerator", "said"), [("cpu", "to the bit"), ("gpu", "to rounding: PyTorch does not promise")])
def test_the_manifest_says_how_far_a_run_can_be_repeated(accelerator: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    written = build_manifest(argparse.Namespace(devices=1), [], {"accelerator": accelerator}, 1.0)
    assert written["repeatable"].startswith(said)


def test_what_is_promised_to_the_bit_is_promised_of_the_cpu_alone():
    assert "bit" not in manifest.GPU_REPEATABLE


def test_a_run_leaves_its_promise_beside_its_scores(runs: Path):
    assert json.loads((runs / "run" / "manifest.json").read_text())["repeatable"] == manifest.CPU_REPEATABLE
