"""Malformed input through the real commands: one sentence with a remedy, exit code 2, no traceback, nothing left behind."""

import contextlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet
from reliability import bad_checkpoints, bad_options, bad_outputs, bad_reviews
from reliability.refusals import Bad, assert_refusal, run_in_process, snapshot
from running import ROOT

ROWS: list[Bad] = [*bad_reviews.ROWS, *bad_options.ROWS, *bad_checkpoints.ROWS, *bad_outputs.ROWS]
LEAST = 60
TYPED = {  # a few as a user types them, in a process of their own
    "validate --data.validation: a CSV in Latin-1": "train.py",
    "predict --ckpt_path: a checkpoint of a pickle that runs code": "train.py",
    "fit --config: a configuration that would run a command": "train.py",
    "evaluate --checkpoint: a folder with weights cut off": "evaluate.py",
    "evaluate --output: a place below a file": "evaluate.py",
}
LIGHTNING = ("fit", "validate", "test", "predict")  # commands whose parser takes half a second to build
ONE_OF = 4  # of their inputs is tried by make test, the others by make test-slow
DISKS = ("evaluate --output", "predict --predictions.output", "length --output", "convert", "compare --output")


def test_the_table_holds_inputs_enough_and_each_has_a_name_of_its_own():
    assert len(ROWS) >= LEAST
    assert len({row.name for row in ROWS}) == len({(row.command, str(row.files)) for row in ROWS}) == len(ROWS)
    assert set(TYPED) <= {row.name for row in ROWS}


def _parameters() -> Iterator[ParameterSet]:
    places = {name: count() for name in LIGHTNING}
    for row in ROWS:
        place = next(places.get(row.arguments[0], iter([0])))
        yield pytest.param(row, id=row.name, marks=[pytest.mark.slow] if place % ONE_OF else [])


@pytest.mark.parametrize("row", _parameters())
def test_a_malformed_input_is_refused_in_one_sentence_and_nothing_is_left(row: Bad, sandbox: Path, fitted: Path, runs: Path):
    row.lay_out(sandbox)
    places = (sandbox, fitted, runs)
    before = [snapshot(place) for place in places]
    assert_refusal(*run_in_process(row.arguments), row.said)
    assert [snapshot(place) for place in places] == before


@pytest.mark.slow
@pytest.mark.parametrize("name", TYPED)
def test_a_script_refuses_as_the_command_does(name: str, sandbox: Path):
    (row,) = (row for row in ROWS if row.name == name)
    row.lay_out(sandbox)
    before = snapshot(sandbox)
    command, *rest = row.arguments
    typed = [sys.executable, str(ROOT / TYPED[name]), *([] if command == "evaluate" else [command]), *rest]
    ended = subprocess.run(typed, cwd=sandbox, capture_output=True, text=True, timeout=300, check=False)
    assert_refusal(ended.returncode, ended.stdout, ended.stderr, row.said)
    assert snapshot(sandbox) == before


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if (
        mount is None
        or unmount is None
        or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run([unmount, folder], check=True)


def fill(disk: Path) -> None:
    """Write until nothing more goes in."""
    with (disk / "filling").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass
    assert shutil.disk_usage(disk).free == 0


@pytest.mark.parametrize("writer", DISKS)
def test_a_full_disk_is_said_and_nothing_is_left_on_it(writer: str, disk: Path, sandbox: Path):
    fill(disk)
    assert_refused_on(disk, writer, sandbox)


@pytest.mark.slow
@pytest.mark.parametrize("writer", [*DISKS, "label --output", "length --plot", "fit --trainer.default_root_dir", "fit --export.folder"])
def test_a_disk_for_reading_alone_is_said(writer: str, disk: Path, sandbox: Path):
    subprocess.run([str(shutil.which("mount")), "-o", "remount,ro", disk], check=True)
    assert_refused_on(disk, writer, sandbox)


def assert_refused_on(disk: Path, writer: str, sandbox: Path) -> None:
    """A command that writes to the disk ends in a sentence that names it, and leaves it and the sandbox as they were."""
    before = snapshot(disk), snapshot(sandbox)
    command = f"{bad_outputs.WRITERS[writer]} {shlex.quote(str(disk / 'out.png'))}"
    assert_refusal(*run_in_process(shlex.split(command)), (str(disk), "cannot be written"))
    assert (snapshot(disk), snapshot(sandbox)) == before
