"""benchmarks/training.py runs, and its JSON and its counts are what it says."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from running import DEMO, ROOT

from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

SCRIPT = ROOT / "benchmarks" / "training.py"
TINY = ["--vocab-size", "300", "--n-embd", "16", "--n-layer", "2", "--n-head", "2", "--length", "16", "--batch-size", "2"]
SHORT = ["--turns", "2", "--steps", "1", "--pairs", "2", "--warm-up", "0", "--no-compile"]


def test_no_script_has_the_name_of_one_of_pythons_modules():
    """torch.compile starts Python with the path of the script: a benchmarks/encodings.py kept it from starting, and kernels were scalar."""
    scripts = {path.stem for path in SCRIPT.parent.glob("*.py")}
    assert "training" in scripts
    assert not scripts & sys.stdlib_module_names


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """benchmarks/training_figures.py, found as the benchmark scripts find it."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training_figures

    yield training_figures
    for name in ("training_figures", "trainings", "pacing"):
        sys.modules.pop(name, None)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("text", [(), ("--text", str(ROOT / "README.md"))], ids=["made up", "a file"])
def test_trainings_take_turns_and_their_figures_reach_the_json(tmp_path: Path, text: tuple[str, ...]):
    names = ["ours", "ours, muon", "ours, learned positions"]
    names += [] if text else ["transformers", "transformers, bf16"]
    if not text:
        pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate (pip install -e .[bench])")
    copied = [] if not text else [text[0], str(tmp_path / "text.txt")]
    if text:
        (tmp_path / "text.txt").write_text(DEMO.read_text(encoding="utf-8"), encoding="utf-8")
    ran = run(*TINY, *SHORT, *copied, "--trainings", *names, "--output", str(tmp_path / "out" / "figures.json"))
    assert ran.returncode == 0, ran.stderr
    report = json.loads((tmp_path / "out" / "figures.json").read_text(encoding="utf-8"))
    timed = [name for name in names if "learned" not in name]
    assert list(report["trainings"]) == timed
    for training in report["trainings"].values():
        assert len(training["seconds_of_turns"]) == 2
        assert training["tokens_per_second"] * training["seconds_per_step"] == pytest.approx(2 * 16)
        assert training["first_loss"] == pytest.approx(math.log(300), rel=0.1)
        assert training["last_loss"] != training["first_loss"]
    assert list(report["ratios"]) == timed[1:]
    assert len(report["rotation"]["ratios"]) == 2
    assert report["rotation"]["first_loss"] == pytest.approx(math.log(300), rel=0.1)
    assert report["product"]["best"] == max(report["product"]["flops_per_second"].values())
    assert "tokens/s, ours over ours, muon" in ran.stdout


@pytest.mark.parametrize(("has_bfloat16", "theirs"), [(True, ["", ", bf16", ", bf16, compiled"]), (False, ["", ", compiled"])])
def test_peers_compute_in_what_the_cpu_has(figures, monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, theirs: list[str]):
    monkeypatch.setattr("rope_gpt2.training.precision.has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(figures, "has_bfloat16", lambda: has_bfloat16)
    ours = ["ours", "ours, muon", "ours, learned positions"]
    import trainings

    assert trainings.usual_trainings("cpu") == ours + [f"transformers{kind}" for kind in theirs]
    assert trainings.usual_trainings("cuda") == [*ours, "transformers", "transformers, bf16", "transformers, bf16, compiled"]
    shape = figures.Shape(vocab_size=300, n_embd=16, n_layer=3, n_head=2, length=32, batch_size=2)
    assert figures.MatrixProducts(shape, "cpu").dtype == (torch.bfloat16 if has_bfloat16 else torch.float32)


def diverging(pacer: Any) -> None:
    """A training of two steps whose loss ends as no number."""
    pacer.training_begins()
    for loss in (9.0, math.nan):
        pacer.loss_made(loss)
        pacer.step_done()


def test_the_speed_of_a_training_whose_loss_is_no_number_is_not_told(figures):
    """Broken kernels are fast ones."""
    import pacing

    contestant = pacing.Contestant("ours", diverging, "cpu", {})
    contestant.wait_until_ready()
    assert contestant.run(1) >= 0
    assert contestant.run(1) >= 0
    with pytest.raises(pacing.InputError, match=r"ours: the loss of its last step is nan.*--no-compile"):
        contestant.finish()


def test_weights_in_products_are_those_of_the_model(figures):
    shape = figures.Shape(vocab_size=300, n_embd=16, n_layer=3, n_head=2, length=32, batch_size=2)
    model = RopeGPT2ForCausalLM(RopeGPT2Config(**shape.model))
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]  # the tied head among them
    assert figures.weights_in_products(shape) == sum(matrix.numel() for matrix in matrices)


def test_what_rotation_costs_is_a_fraction_of_throughput(figures):
    cost = figures.cost_of_rotation(rotary=[1.25, 2.5, 1.26], learned=[1.0, 2.0, 1.0])
    assert cost["cost"] == pytest.approx(0.2)
    low, high = cost["interval_95"]
    assert low <= 0.2 <= high


@pytest.mark.slow
def test_a_step_count_below_one_is_refused_in_a_sentence():
    ran = run("--steps", "0")
    assert ran.returncode == 2
    assert ran.stderr == "error: --steps must be 1 or more, got 0; give a larger number\n"
