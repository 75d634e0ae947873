"""What all tests share: the checkout, SST-2 where it lies, and one small fit."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rope_gpt2.commands.main import main

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "data" / "demo.csv"
TINY = {
    "trainer.max_epochs": "2",
    "model.vocab_size": "512",
    "model.n_embd": "32",
    "model.n_positions": "192",
    "data.batch_size": "8",
    "trainer.enable_progress_bar": "false",
}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands run from the root of the checkout, as a user runs them, and never touch the network."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield


def fit_arguments(folder: Path, **options: str) -> list[str]:
    """`fit` of a tiny model on the demo sentences."""
    chosen = TINY | {"trainer.default_root_dir": str(folder)} | {name.replace("__", "."): value for name, value in options.items()}
    return ["fit", "--config", "configs/smoke.yaml", *(part for name, value in chosen.items() for part in (f"--{name}", value))]


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of one small fit."""
    folder = tmp_path_factory.mktemp("fitted")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        assert call(fit_arguments(folder)) == 0
    finally:
        os.chdir(before)
    return folder / "version_0"


def call(arguments: list[str]) -> int:
    """A command in this process, with the command line put back."""
    before = sys.argv
    try:
        return main(arguments)
    finally:
        sys.argv = before


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command in a process of its own, as typed."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def sst2_folder() -> Path:
    """Where SST-2 lies, or the test is skipped."""
    for folder in (os.environ.get("ROPE_GPT2_DATA"), ROOT / "data"):
        if folder and (Path(folder) / "sst2" / "validation.csv").is_file():
            return Path(folder) / "sst2"
    pytest.skip("SST-2 is not on this machine (ROPE_GPT2_DATA)")
