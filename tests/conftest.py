"""What all tests share: the checkout, SST-2 where it lies, and one small fit."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported: a name that is no folder is refused at once

import pytest
from running import ROOT, call, fit_arguments


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run from the root of the checkout, as a user runs them."""
    monkeypatch.chdir(ROOT)


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


@pytest.fixture
def run_script() -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command in a process of its own, as typed."""

    def run(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)

    return run


@pytest.fixture
def sst2_folder() -> Path:
    """Where SST-2 lies, or the test is skipped."""
    for folder in (os.environ.get("ROPE_GPT2_DATA"), ROOT / "data"):
        if folder and (Path(folder) / "sst2" / "validation.csv").is_file():
            return Path(folder) / "sst2"
    pytest.skip("SST-2 is not on this machine (ROPE_GPT2_DATA)")
