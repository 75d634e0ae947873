"""What the tests of reliability share: a sandbox for commands with a small model and its runs, and how a stranger's file is refused."""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from running import DEMO, ROOT, call

FIT = """\
trainer: {max_epochs: 1, accelerator: cpu, default_root_dir: logs, enable_progress_bar: false}
model: {vocab_size: 512, n_positions: 192, n_embd: 32, n_layer: 2, n_head: 4}
data: {train: data/demo.csv, holdout: 60, batch_size: 8}
"""
EVALUATE = ["--shots", "0", "1", "--seeds", "1", "--no-report"]


@pytest.fixture(scope="session")
def runs(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with finished runs of evaluate on demo sentences: `run`, `same_run` with the same scores, `other_run` of other reviews."""
    folder = tmp_path_factory.mktemp("runs")
    lines = DEMO.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, kept in (("run", lines[:31]), ("other_run", [lines[0], *lines[31:61]])):
        (folder / f"{name}.csv").write_text("".join(kept), encoding="utf-8")
        arguments = ["--checkpoint", str(fitted / "pretrained"), "--data", str(folder / f"{name}.csv"), *EVALUATE]
        assert call(["evaluate", *arguments, "--output", str(folder / name)]) == 0
    shutil.copytree(folder / "run", folder / "same_run")
    return folder


@pytest.fixture
def sandbox(fitted: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a command, small names for what it may take, and nothing of value beside it.

    It holds data/demo.csv, fit.yaml, and as links model (a folder of save_pretrained), last.ckpt and the runs. Temporary files go
    into tmp, so that what is left of them is found as well.
    """
    folder = tmp_path / "sandbox"
    for name in ("data", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "data" / "demo.csv").write_bytes(DEMO.read_bytes())
    (folder / "fit.yaml").write_text(FIT, encoding="utf-8")
    links = {"model": fitted / "pretrained", "last.ckpt": fitted / "checkpoints" / "last.ckpt"}
    links |= {name: runs / name for name in ("run", "same_run", "other_run")} | {"checkpoints": ROOT / "checkpoints"}
    for name, target in links.items():
        os.symlink(target, folder / name)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return folder


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


@pytest.fixture
def whole(fitted: Path) -> dict[str, Any]:
    """The content of a good checkpoint."""
    return dict(torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True))
