"""What all tests share: the checkout, SST-2 where it lies, and one small fit."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported: a name that is no folder is refused at once
if "PYTEST_XDIST_WORKER" in os.environ:  # read once, when torch is imported: processes that share the tests share the cores as well
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from running import ROOT, call, fit_arguments

INPUTS = "test_malformed_inputs.py"  # a test for each malformed input


def pytest_configure(config: pytest.Config) -> None:
    """`-m inputs` takes the malformed inputs: make test-slow tries them as well."""
    config.addinivalue_line("markers", "inputs: tries a malformed input")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the malformed inputs."""
    for item in items:
        if item.path.name == INPUTS:
            item.add_marker(pytest.mark.inputs)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """What the tests of reliability did; they tell by `record_property`."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome) if report.when == "call"]
    told = [entry for report in reports for entry in report.user_properties]
    counts = {name: sum(int(str(value)) for key, value in told if key == name) for name in ("faults", "rows_lost", "hangs")}
    tried = sum(f"/{INPUTS}::" in report.nodeid for report in reports)
    if counts["faults"] or tried:
        lost = f"rows lost {counts['rows_lost']}, hangs {counts['hangs']}"
        terminalreporter.write_line(f"reliability: faults injected {counts['faults']}, inputs tried {tried}, {lost}")


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
