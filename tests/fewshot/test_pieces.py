"""A run that goes on ends as an undisturbed one; a piece is there whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_run import PLAN, Made, files

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot import pieces
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.pieces import begin, end, finished_plan, write_json, write_whole
from rope_gpt2.fewshot.run_folder import read_run

# Going on.


@pytest.mark.parametrize("done", [0, 1, 4, 9])
def test_a_run_that_goes_on_leaves_the_files_of_an_undisturbed_one(tmp_path, done):
    theirs = Made(tmp_path / "whole").finish()
    made = Made(tmp_path / "resumed")
    for item in made.items[:done]:
        made.write_piece(item)
    made.pieces = begin(made.folder, PLAN, resume=True)
    assert [made.pieces.is_done(item) for item in made.items] == [True] * done + [False] * (len(made.items) - done)
    made.finish()
    assert files(made.folder) == files(theirs.folder)


def test_without_resume_a_run_begins_anew(tmp_path):
    made = Made(tmp_path)
    made.write_piece(made.items[0])
    pieces = begin(tmp_path, PLAN, resume=False)
    assert not pieces.is_done(made.items[0])


def test_resume_begins_a_run_where_there_is_none(tmp_path):
    assert not begin(tmp_path / "new", PLAN, resume=True).is_done(Item(0, 0))


def test_pieces_without_their_plan_are_not_taken(tmp_path):
    """What a kill in the middle of the clearing of an older run leaves."""
    made = Made(tmp_path)
    made.write_piece(made.items[0])
    (tmp_path / pieces.PARTIAL / pieces.PLAN).unlink()
    assert not begin(tmp_path, PLAN, resume=True).is_done(made.items[0])


@pytest.mark.parametrize("change", [{"shots": [0]}, {"precision": None}, {"data": {"path": "demo.csv", "sha256": "cd"}}, {"new": 1}])
def test_a_run_does_not_go_on_under_another_plan(tmp_path, change):
    made = Made(tmp_path)
    made.write_piece(made.items[0])
    before = files(tmp_path)
    (name,) = change
    with pytest.raises(InputError, match=f"--resume: the run in .* was begun with another {name} .*, now .*; give the same options, or"):
        begin(tmp_path, PLAN | change, resume=True)
    assert files(tmp_path) == before
    assert begin(tmp_path, PLAN, resume=True).is_done(made.items[0])


def test_a_plan_is_compared_as_it_is_read_from_json(tmp_path):
    plan = {"words": [("bad", "good")], "limit": 0}
    begin(tmp_path, plan, resume=False)
    begin(tmp_path, plan, resume=True)


def test_long_values_of_a_plan_are_shortened_in_the_message(tmp_path):
    begin(tmp_path, {"words": "x" * 10_000}, resume=False)
    with pytest.raises(InputError) as caught:
        begin(tmp_path, {"words": "y" * 10_000}, resume=True)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--output .*: cannot be written to .*; choose another folder"):
        begin(tmp_path / "file" / "run", PLAN, resume=False)


def test_a_finished_run_is_known_by_its_plan(tmp_path):
    assert finished_plan(tmp_path) is None
    made = Made(tmp_path)
    assert finished_plan(tmp_path) is None
    made.finish()
    assert finished_plan(tmp_path) == PLAN
    begin(tmp_path, PLAN, resume=False)
    assert finished_plan(tmp_path) is None  # another is under way


@pytest.mark.parametrize("content", ["", "{", "[]", '{"seconds": 1}', "\ud800"])
def test_a_damaged_manifest_is_no_finished_run(tmp_path, content):
    (tmp_path / pieces.MANIFEST).write_text(content, encoding="utf-8", errors="surrogatepass")
    assert finished_plan(tmp_path) is None


def test_the_files_of_an_earlier_run_stand_until_the_end(tmp_path):
    Made(tmp_path).finish()
    before = files(tmp_path)
    made = Made(tmp_path, rows=7, seed=1)
    for item in made.items:
        made.write_piece(item)
        assert {name: content for name, content in files(tmp_path).items() if not name.startswith(pieces.PARTIAL)} == before
    made.finish()
    assert len(read_run(tmp_path).scores.rows) == 7
    assert not (tmp_path / pieces.PARTIAL).exists()


# Whole or not at all.


class KilledError(BaseException):
    """What no `except Exception` stops."""


def test_a_piece_that_was_half_written_is_not_there(tmp_path, monkeypatch):
    made = Made(tmp_path)

    def half(table, path):
        Path(path).write_bytes(b"PAR1 half")
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", half)
        with pytest.raises(KilledError):
            made.write_piece(made.items[0])
    assert not made.pieces.is_done(made.items[0])
    assert [path.name for path in (tmp_path / pieces.PARTIAL).rglob("*") if path.is_file()] == [pieces.PLAN]
    made.finish()
    np.testing.assert_array_equal(read_run(tmp_path).scores.label_logprobs, made.logprobs.numpy())


def test_what_a_killed_process_leaves_beside_a_piece_does_no_harm(tmp_path):
    made = Made(tmp_path)
    path = made.pieces.path(made.items[0])
    path.parent.mkdir(exist_ok=True)
    path.with_name(f".{path.name}.4711.tmp").write_bytes(b"PAR1 half")
    made.pieces = begin(tmp_path, PLAN, resume=True)
    assert not made.pieces.is_done(made.items[0])
    made.finish()
    assert not (tmp_path / pieces.PARTIAL).exists()
    np.testing.assert_array_equal(read_run(tmp_path).scores.label_logprobs, made.logprobs.numpy())


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("error", [OSError("disk full"), KilledError()])
def test_a_write_that_fails_midway_leaves_what_was_there(tmp_path, exists, error):
    path = tmp_path / "folder" / "file.txt"
    if exists:
        write_whole(path, lambda partial: partial.write_text("what was there"))

    def fail(partial):
        partial.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, fail)
    assert list(path.parent.iterdir()) == [path] * exists
    assert not exists or path.read_text() == "what was there"


@pytest.mark.parametrize("content", [{"b": object()}, {"a": "x" * 10**6 + "\ud800"}])
def test_json_that_cannot_be_written_leaves_what_was_there(tmp_path, content):
    path = tmp_path / "manifest.json"
    write_json({"a": 1}, path)
    with pytest.raises((TypeError, UnicodeEncodeError)):
        write_json(content, path)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_every_character_and_ends_in_a_line_end(tmp_path):
    write_json({"label": "génial", "n": 3}, tmp_path / "manifest.json")
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"label": "génial", "n": 3}
    assert "génial" in text
    assert text.endswith("}\n")


@pytest.mark.parametrize("resume", [False, True])
def test_what_a_killed_process_was_writing_is_removed_and_nothing_else(resume: bool, tmp_path: Path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "plots").mkdir()
    stale = [tmp_path / f".scores.parquet.{ended.pid}.tmp", tmp_path / "plots" / f".accuracy.png.{ended.pid}.tmp"]
    kept = [tmp_path / f".other.csv.{os.getpid()}.tmp", tmp_path / ".mine.tmp", tmp_path / f"{ended.pid}.tmp"]
    for path in (*stale, *kept):
        path.write_text("half")
    begin(tmp_path, PLAN, resume=resume)
    end(tmp_path)
    assert not [path for path in stale if path.exists()]
    assert all(path.exists() for path in kept)


def test_what_a_killed_process_was_joining_is_never_published(tmp_path: Path):
    begin(tmp_path, PLAN, resume=False)
    joined = tmp_path / pieces.PARTIAL / pieces.JOINED
    joined.mkdir()
    (joined / f".scores.parquet.{os.getpid()}.tmp").write_text("half")
    begin(tmp_path, PLAN, resume=True)
    write_json({}, joined / pieces.MANIFEST)
    pieces.publish(tmp_path)
    end(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [pieces.MANIFEST]
