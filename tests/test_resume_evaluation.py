"""An evaluation that was killed goes on where it was, and ends in the files of one that was not."""

import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import ROOT, call

from rope_gpt2.fewshot.pieces import Pieces

GRID = ["--shots", "0", "1", "2", "4", "--seeds", "3", "--demonstration-labels", "gold", "random", "--orders", "2", "--limit", "150"]
GRID += ["--no-report", "--precision", "32-true"]
CONDITIONS = 1 + 2 * 3 * (1 + 2 + 2)


def arguments(fitted: Path, output: Path, *more: str) -> list[str]:
    return ["--checkpoint", str(fitted / "pretrained"), *GRID, *more, "--output", str(output)]


def files(folder: Path) -> dict[str, bytes]:
    """All files but the manifest, which holds the time."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "manifest.json"}


@pytest.fixture(scope="module")
def undisturbed(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed")
    assert call(["evaluate", *arguments(fitted, output)]) == 0
    return files(output)


def kill_after(fitted: Path, output: Path, pieces: int, delay: float = 0.0) -> None:
    """A process of its own, killed once so many pieces of work are on disk."""
    process = subprocess.Popen(
        [sys.executable, "evaluate.py", *arguments(fitted, output, "--resume")],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list((output / ".partial").glob("*/window*.parquet"))) < pieces:
        time.sleep(0.002)
    time.sleep(delay)
    assert process.poll() is None, "the run ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_run_goes_on_and_ends_in_the_same_files(fitted: Path, undisturbed: dict[str, bytes], tmp_path: Path):
    kill_after(fitted, tmp_path, pieces=7)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / ".partial").glob("*/window*.parquet")}
    assert 7 <= len(done) < CONDITIONS
    assert not (tmp_path / "scores.parquet").exists()
    scored = []
    write, Pieces.write = Pieces.write, lambda self, item, *rest: (scored.append(item), write(self, item, *rest))[1]
    try:
        assert call(["evaluate", *arguments(fitted, tmp_path, "--resume")]) == 0
    finally:
        Pieces.write = write
    assert len(scored) == CONDITIONS - len(done)  # nothing is scored again
    assert files(tmp_path) == undisturbed
    assert not (tmp_path / ".partial").exists()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_in_the_same_files(fitted: Path, undisturbed: dict[str, bytes], tmp_path: Path):
    for pieces, delay in ((0, 0.5), (1, 0.0), (6, 0.003), (13, 0.011), (22, 0.007), (30, 0.0)):
        kill_after(fitted, tmp_path, pieces, delay)
    assert call(["evaluate", *arguments(fitted, tmp_path, "--resume")]) == 0
    assert files(tmp_path) == undisturbed


@pytest.mark.parametrize("moment", ["write_reviews", "write_scores", "write_json", "publish", "end"])
def test_a_run_that_died_while_its_files_were_joined_goes_on(moment: str, fitted: Path, undisturbed, tmp_path: Path, monkeypatch):
    def die(*_: object, **__: object) -> None:
        raise MemoryError(moment)

    with monkeypatch.context() as patched:
        patched.setattr(f"rope_gpt2.commands.evaluate.{moment}", die)
        with pytest.raises(MemoryError):
            call(["evaluate", *arguments(fitted, tmp_path)])
    assert call(["evaluate", *arguments(fitted, tmp_path, "--resume")]) == 0
    assert files(tmp_path) == undisturbed


def test_resuming_a_finished_run_scores_nothing(fitted: Path, undisturbed: dict[str, bytes], tmp_path: Path, capsys, monkeypatch):
    assert call(["evaluate", *arguments(fitted, tmp_path)]) == 0
    monkeypatch.setattr("rope_gpt2.training.fewshot_module.score_labels", None)
    assert call(["evaluate", *arguments(fitted, tmp_path, "--resume")]) == 0
    assert "is complete; nothing is scored again" in capsys.readouterr().err
    assert files(tmp_path) == undisturbed


def test_a_run_is_not_resumed_with_other_options(fitted: Path, tmp_path: Path, capsys):
    kill_after(fitted, tmp_path, pieces=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / ".partial").rglob("*.*")}
    for other, named in ((["--seeds", "2"], "another seeds (3, now 2)"), (["--limit", "9"], "another rows (150, now 9)")):
        assert call(["evaluate", *arguments(fitted, tmp_path, "--resume", *other)]) == 2
        assert named in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in (tmp_path / ".partial").rglob("*.*")}


def test_a_finished_run_is_not_replaced_by_resuming_it_with_other_options(fitted: Path, undisturbed, tmp_path: Path, capsys):
    assert call(["evaluate", *arguments(fitted, tmp_path)]) == 0
    assert call(["evaluate", *arguments(fitted, tmp_path, "--resume", "--seeds", "2")]) == 2
    assert "another seeds (3, now 2)" in capsys.readouterr().err
    assert files(tmp_path) == undisturbed
    assert not (tmp_path / ".partial").exists()


def test_beginning_anew_tells_of_the_scores_that_it_drops(fitted: Path, undisturbed, tmp_path: Path, capsys):
    kill_after(fitted, tmp_path, pieces=2)
    assert call(["evaluate", *arguments(fitted, tmp_path)]) == 0
    assert f"--output {tmp_path}: what an interrupted run had scored there is dropped; --resume goes on" in capsys.readouterr().err
    assert files(tmp_path) == undisturbed
    assert call(["evaluate", *arguments(fitted, tmp_path)]) == 0  # a finished run is replaced without a word
    assert "dropped" not in capsys.readouterr().err


def test_two_runs_do_not_write_into_one_folder(fitted: Path, undisturbed: dict[str, bytes], tmp_path: Path, capsys):
    command = [sys.executable, "evaluate.py", *arguments(fitted, tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list((tmp_path / ".partial").glob("*/window*.parquet")):
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)
    assert call(["evaluate", *arguments(fitted, tmp_path)]) == 2
    process.send_signal(signal.SIGCONT)
    assert "another run writes there" in capsys.readouterr().err
    assert process.wait() == 0
    assert files(tmp_path) == undisturbed


def test_ctrl_c_keeps_what_is_scored_and_says_how_to_go_on(fitted: Path, tmp_path: Path):
    command = [sys.executable, "evaluate.py", *arguments(fitted, tmp_path, "--seeds", "60", "--limit", "0")]  # minutes, if it went on
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((tmp_path / ".partial").glob("*/window*.parquet")):
        time.sleep(0.002)
    for _ in range(20):  # Python loses an interrupt that comes while an object is finalized: press again
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=3)
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with the same command and --resume" in error
    assert "Traceback" not in error
    assert list((tmp_path / ".partial").glob("*/window*.parquet"))


def test_a_new_run_leaves_the_files_of_an_earlier_one_until_it_ends(fitted: Path, undisturbed: dict[str, bytes], tmp_path: Path):
    assert call(["evaluate", *arguments(fitted, tmp_path)]) == 0
    process = subprocess.Popen([sys.executable, "evaluate.py", *arguments(fitted, tmp_path, "--shots", "8")], cwd=ROOT)
    while process.poll() is None and not list((tmp_path / ".partial").glob("*/window*.parquet")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert files(tmp_path) == undisturbed
    shutil.rmtree(tmp_path / ".partial")
    assert list(itertools.chain(tmp_path.glob(".*"))) == []
