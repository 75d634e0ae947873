"""Scores come back from disk bit for bit; a piece is there whole or not at all; what does not belong together is refused."""

import csv
import json
import math
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot import pieces, run_folder
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.pieces import Pieces, begin, end, finished_plan, write_json, write_whole
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.run_folder import read_run, write_reviews, write_scores
from rope_gpt2.fewshot.scores import UNCERTAIN, Demonstration, ScoredCondition
from rope_gpt2.fewshot.scoring import ScoredBatch

WINDOW = 5  # rows
INPUTS = [("contextual", "N/A"), ("contextual", ""), ("domain", "some words"), ("domain", "of films"), ("domain", "é"), ("pmi", "")]
CONDITIONS = [
    Condition(0),
    Condition(2, 1, 1, "none", "random", "{text}\n{label}\n", ("bad", "gut, «sehr»")),
    Condition(4, selection="similar"),
]
SHOWN = [
    (),
    (Demonstration(7, 'A "quoted", review.\nOf two lines', "negative", None), Demonstration(3, "Génial.", "positive", None)),
    None,
]
PLAN = {"shots": [0, 4], "precision": "32-true", "data": {"path": "demo.csv", "sha256": "ab"}}


class Made:
    """A run with random scores: what was scored, and the folder that it left."""

    def __init__(self, folder: Path, rows: int = 12, generated: bool = False, content_free: bool = True, seed: int = 0) -> None:
        self.folder, self.rows, self.generated = folder, rows, generated
        self.inputs = INPUTS if content_free else []
        self.windows = -(-rows // WINDOW)
        generator = torch.Generator().manual_seed(seed)
        self.queries = [Example(row, f"review, «{row}»\n", LABELS[row % 3 % 2]) for row in range(1, rows + 1)]
        self.logprobs = -10 * torch.rand(len(CONDITIONS), rows, 2, generator=generator)
        self.free = -10 * torch.rand(len(CONDITIONS), len(self.inputs), 2, generator=generator)
        self.answers = torch.randint(0, 3, (len(CONDITIONS), rows), generator=generator, dtype=torch.int8)
        self.pieces = begin(folder, PLAN, resume=False)

    @property
    def items(self) -> list[Item]:
        return [Item(window, condition) for window in range(self.windows) for condition in range(len(CONDITIONS))]

    def write_piece(self, item: Item) -> None:
        """In any order of rows, as batches sorted by length come."""
        rows = range(item.window * WINDOW, min(self.rows, (item.window + 1) * WINDOW))
        lines = [
            (
                Prompt(self.queries[row], (1,), (2,), row % 3, row % 4 == 1),
                self.logprobs[item.condition, row],
                self.answers[item.condition, row],
            )
            for row in rows
        ]
        for place in range(len(self.inputs) if item.window == 0 else 0):
            free = Prompt(Example(-place - 1, "", LABELS[0]), (1,), (2,), dropped=5, trimmed=True)
            lines.append((free, self.free[item.condition, place], torch.tensor(0, dtype=torch.int8)))
        random.Random(0).shuffle(lines)
        prompts, logprobs, answers = zip(*lines, strict=True)
        self.pieces.write(item, prompts, ScoredBatch(torch.stack(logprobs), torch.stack(answers) if self.generated else None))

    def finish(self) -> "Made":
        for item in self.items:
            if not self.pieces.is_done(item):
                self.write_piece(item)
        write_reviews(iter(self.queries), self.folder / run_folder.REVIEWS)
        write_scores(self.folder, self.pieces, self.windows, CONDITIONS, SHOWN, self.inputs, self.generated)
        write_json({"plan": PLAN, "seconds": 1.5}, self.folder / pieces.MANIFEST)
        end(self.folder)
        return self


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("rows", [1, WINDOW, 12])
@pytest.mark.parametrize("generated", [False, True])
@pytest.mark.parametrize("content_free", [False, True])
def test_scores_are_read_as_they_were_made(tmp_path, rows, generated, content_free):
    made = Made(tmp_path, rows, generated, content_free).finish()
    ours = read_run(tmp_path).scores
    assert ours.rows.tolist() == list(range(1, rows + 1))
    assert ours.sentiments.tolist() == [LABELS.index(query.sentiment) for query in made.queries]
    assert ours.label_logprobs.dtype == np.float32
    np.testing.assert_array_equal(ours.label_logprobs, made.logprobs.numpy())
    if generated:
        np.testing.assert_array_equal(ours.generated, made.answers.numpy())
    else:
        assert ours.generated is None
    assert list(ours.content_free) == (["contextual", "domain", "pmi"] if content_free else [])
    for kind, scores in ours.content_free.items():
        places = [place for place, item in enumerate(INPUTS) if item[0] == kind]
        assert scores.dtype == np.float32
        np.testing.assert_array_equal(scores, made.free[:, places].numpy())


def test_conditions_come_back_with_their_demonstrations_and_what_prompts_lost(tmp_path):
    Made(tmp_path).finish()
    counts = {
        "prompts_dropped": sum(row % 3 > 0 for row in range(12)),
        "demonstrations_dropped": sum(row % 3 for row in range(12)),
        "prompts_trimmed": sum(row % 4 == 1 for row in range(12)),
    }  # of rows; content-free inputs are not counted
    theirs = tuple(ScoredCondition(condition, shown, **counts) for condition, shown in zip(CONDITIONS, SHOWN, strict=True))
    assert read_run(tmp_path).scores.conditions == theirs


def test_manifest_and_reviews_come_back(tmp_path):
    made = Made(tmp_path).finish()
    run = read_run(tmp_path)
    assert run.manifest == {"plan": PLAN, "seconds": 1.5}
    assert run.folder == tmp_path
    assert run.reviews([3, 12, 3]) == {3: made.queries[2].review, 12: made.queries[11].review}
    assert run.reviews([]) == {}
    assert pq.read_table(tmp_path / run_folder.REVIEWS).to_pylist() == [
        {"row": query.row, "review": query.review, "sentiment": query.sentiment} for query in made.queries
    ]


def test_many_reviews_are_written_chunk_by_chunk(tmp_path):
    path = tmp_path / run_folder.REVIEWS
    write_reviews((Example(row, f"review {row}", LABELS[row % 2]) for row in range(1, 40_001)), path)
    assert pq.read_table(path, columns=["row"])["row"].to_pylist() == list(range(1, 40_001))
    assert pq.ParquetFile(path).num_row_groups == 3


def test_content_free_inputs_stand_beside_their_scores(tmp_path):
    made = Made(tmp_path).finish()
    lines = pq.read_table(tmp_path / run_folder.CONTENT_FREE).to_pylist()
    assert [(line["condition"], line["kind"], line["text"]) for line in lines] == [
        (condition, kind, text) for condition in range(len(CONDITIONS)) for kind, text in INPUTS
    ]
    ours = [[line["logprob_negative"], line["logprob_positive"]] for line in lines]
    assert ours == made.free.flatten(0, 1).tolist()


# predictions.csv


def predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / run_folder.PREDICTIONS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("generated", [False, True])
def test_predictions_hold_every_row_of_every_condition_in_order(tmp_path, generated):
    made = Made(tmp_path, generated=generated).finish()
    header = "row,sentiment,predicted,condition,shots,seed,order,demonstration_labels,selection,logprob_negative,logprob_positive"
    assert (tmp_path / run_folder.PREDICTIONS).read_text(encoding="utf-8").splitlines()[0] == header
    ours = predictions(tmp_path)
    assert [(int(line["condition"]), int(line["row"])) for line in ours] == [
        (condition, row) for condition in range(len(CONDITIONS)) for row in range(1, 13)
    ]
    names = (*LABELS, "uncertain")
    for line in ours:
        place, row = int(line["condition"]), int(line["row"]) - 1
        condition = CONDITIONS[place]
        assert line["sentiment"] == made.queries[row].sentiment
        predicted = made.answers[place, row] if generated else made.logprobs[place, row].argmax()
        assert line["predicted"] == names[predicted]
        settings_ = (condition.shots, condition.demonstration_seed, condition.order, condition.demonstration_labels, condition.selection)
        assert tuple(line[name] for name in ("shots", "seed", "order", "demonstration_labels", "selection")) == tuple(map(str, settings_))


def test_predictions_and_scores_hold_the_same(tmp_path):
    Made(tmp_path, generated=True).finish()
    table = pq.read_table(tmp_path / run_folder.SCORES).to_pylist()
    for line, row in zip(predictions(tmp_path), table, strict=True):
        assert all(line[name] == str(row[name]) for name in ("condition", "row", "sentiment", "predicted"))
        assert all(np.float32(line[name]) == np.float32(row[name]) for name in ("logprob_negative", "logprob_positive"))


def bits(value: float) -> bytes:
    return struct.pack("<f", value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(max_value=0, allow_nan=False, width=32), min_size=2, max_size=10))
def test_numbers_of_the_csv_read_back_as_the_same_float32(tmp_path_factory, numbers):
    folder = tmp_path_factory.mktemp("run")
    logprobs = torch.tensor(numbers[: len(numbers) // 2 * 2]).view(-1, 2)
    pieces, item = Pieces(folder), Item(0, 0)
    prompts = [Prompt(Example(row, "review", "negative"), (), (1,)) for row in range(1, len(logprobs) + 1)]
    pieces.write(item, prompts, ScoredBatch(logprobs))
    run_folder.write_predictions(folder / run_folder.PREDICTIONS, pieces, [item], [Condition(0)])
    ours = [bits(np.float32(line[f"logprob_{label}"])) for line in predictions(folder) for label in LABELS]
    assert ours == [bits(value) for value in logprobs.flatten().tolist()]


def test_an_uncertain_answer_has_a_name_of_its_own(tmp_path):
    made = Made(tmp_path, generated=True)
    made.answers[0, 0] = UNCERTAIN
    made.finish()
    assert predictions(tmp_path)[0]["predicted"] == "uncertain"
    assert read_run(tmp_path).scores.generated[0, 0] == UNCERTAIN


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


# What is refused.


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no finished run \(manifest.json is missing\); give a folder of evaluate"):
        read_run(tmp_path)
    Made(tmp_path)
    with pytest.raises(InputError, match="holds no finished run"):
        read_run(tmp_path)


READ = (pieces.MANIFEST, run_folder.CONDITIONS, run_folder.SCORES, run_folder.CONTENT_FREE, run_folder.REVIEWS)


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    Made(tmp_path).finish()
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=rf"holds no finished run \({name} is missing\)"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"PAR1 not PAR1", b'{"conditions": 3}', b"null"])
@pytest.mark.parametrize("name", READ)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, name, content):
    Made(tmp_path).finish()
    (tmp_path / name).write_bytes(content)
    if name == pieces.MANIFEST and content in (b"[]", b"null", b'{"conditions": 3}'):
        content = b""  # nothing of the manifest enters the scores, so any JSON would do; JSON it must be
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"damaged or do not belong together .*; run evaluate again") as caught:
        read_run(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [run_folder.SCORES, run_folder.CONTENT_FREE, run_folder.REVIEWS])
def test_a_file_cut_short_is_refused(tmp_path, name):
    Made(tmp_path).finish()
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged or do not belong together"):
        read_run(tmp_path)


def test_files_of_two_runs_are_refused(tmp_path):
    """Their numbers of conditions do not fit one another."""
    Made(tmp_path).finish()
    path = tmp_path / run_folder.CONDITIONS
    described = json.loads(path.read_text(encoding="utf-8"))
    write_json(described | {"conditions": [*described["conditions"], *described["conditions"][:2]]}, path)
    with pytest.raises(InputError, match="damaged or do not belong together"):
        read_run(tmp_path)


def test_a_condition_that_means_nothing_is_refused(tmp_path):
    Made(tmp_path).finish()
    path = tmp_path / run_folder.CONDITIONS
    described = json.loads(path.read_text(encoding="utf-8"))
    described["conditions"][1]["selection"] = "best"
    write_json(described, path)
    with pytest.raises(InputError):
        read_run(tmp_path)


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("generated", [False, True])
def test_scores_that_are_not_finite_are_refused_by_condition_and_row(tmp_path, value, generated):
    made = Made(tmp_path, generated=generated)
    made.logprobs[1, 7, 1] = made.logprobs[1, 9, 0] = made.logprobs[2, 0, 0] = value
    made.finish()
    with pytest.raises(
        InputError, match=r"condition 1, row 8: the label log-probabilities are \[-\d.*, -?(nan|inf)\]\); run evaluate again"
    ):
        read_run(tmp_path)


def test_content_free_scores_that_are_not_finite_are_refused(tmp_path):
    made = Made(tmp_path)
    made.free[2, 3, 0] = math.nan
    made.finish()
    with pytest.raises(InputError, match="condition 2: a content-free input's label log-probabilities are not finite"):
        read_run(tmp_path)


def rewrite_scores(folder: Path, change) -> pa.Table:
    """The table of scores, changed; in one group."""
    table = change(pq.read_table(folder / run_folder.SCORES))
    pq.write_table(table, folder / run_folder.SCORES)
    return table


def test_scores_of_other_conditions_are_refused(tmp_path):
    """Even where their number fits."""
    Made(tmp_path).finish()
    rewrite_scores(tmp_path, lambda table: table.sort_by("row"))
    with pytest.raises(InputError, match=r"scores.parquet is not of these 3 conditions"):
        read_run(tmp_path)


@pytest.mark.parametrize("change", [lambda table: table.slice(0, 0), lambda table: table.slice(1), lambda table: table.drop_columns("row")])
def test_scores_that_lack_something_are_refused(tmp_path, change):
    Made(tmp_path).finish()
    rewrite_scores(tmp_path, change)
    with pytest.raises(InputError, match="damaged or do not belong together"):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["condition", "row", "logprob_positive"])
def test_scores_with_gaps_are_refused(tmp_path, name):
    Made(tmp_path).finish()
    gaps = pa.nulls(36, pa.float32() if name == "logprob_positive" else pa.int64())
    rewrite_scores(tmp_path, lambda table: table.set_column(table.column_names.index(name), name, gaps))
    with pytest.raises(InputError, match="damaged or do not belong together"):
        read_run(tmp_path)


@pytest.mark.parametrize("values", [[None], ["neutral"], [3]])
@pytest.mark.parametrize("name", ["sentiment", "predicted"])
def test_labels_that_are_none_are_refused(tmp_path, name, values):
    Made(tmp_path, generated=True).finish()
    rewrite_scores(tmp_path, lambda table: table.set_column(table.column_names.index(name), name, pa.array(values * len(table))))
    with pytest.raises(InputError, match="damaged or do not belong together"):
        read_run(tmp_path)


@pytest.mark.parametrize("batch", [1, 7, 12, 65_536])
@pytest.mark.parametrize("as_text", [False, True])
def test_scores_do_not_depend_on_how_they_are_cut(tmp_path, monkeypatch, batch, as_text):
    """Neither on the batches that are read, nor on the groups and the order of names in which they were written."""
    made = Made(tmp_path, generated=True).finish()
    monkeypatch.setattr(run_folder, "_BATCH", batch)

    def change(table: pa.Table) -> pa.Table:
        for name in ("sentiment", "predicted"):
            text = table[name].cast(pa.string()).combine_chunks()
            table = table.set_column(table.column_names.index(name), name, text if as_text else text.dictionary_encode())
        return table

    rewrite_scores(tmp_path, change)
    ours = read_run(tmp_path).scores
    np.testing.assert_array_equal(ours.label_logprobs, made.logprobs.numpy())
    np.testing.assert_array_equal(ours.generated, made.answers.numpy())
    assert ours.rows.tolist() == list(range(1, 13))
    assert ours.sentiments.tolist() == [LABELS.index(query.sentiment) for query in made.queries]


PEAK = """
import resource, sys
from pathlib import Path
from rope_gpt2.fewshot.run_folder import read_run
read_run(Path(sys.argv[1]))  # what is loaded once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scores = read_run(Path(sys.argv[2])).scores
arrays = sum(array.nbytes for array in (scores.rows, scores.sentiments, scores.label_logprobs, scores.generated))
unit = 1 if sys.platform == "darwin" else 1024
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit - arrays)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_reading_a_million_rows_takes_little_more_than_their_arrays(tmp_path):
    """Under 3 conditions 32 MB of arrays; the table with its labels as strings would be four times that."""
    Made(tmp_path / "small", generated=True, content_free=False).finish()
    shutil.copytree(tmp_path / "small", tmp_path / "large")
    n, generator = 1_000_000, np.random.default_rng(0)
    schema = pq.read_schema(tmp_path / "small" / run_folder.SCORES)
    label = pa.DictionaryArray.from_arrays(pa.array(generator.integers(0, 2, n, dtype=np.int8)), [*LABELS, "uncertain"])
    logprobs = [pa.array(-generator.random(n, dtype=np.float32)) for _ in LABELS]
    with pq.ParquetWriter(tmp_path / "large" / run_folder.SCORES, schema, compression="zstd") as writer:
        for condition in range(len(CONDITIONS)):
            columns = [pa.array(np.full(n, condition, np.int32)), pa.array(np.arange(1, n + 1)), label, label, *logprobs]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=65_536)
    command = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large")]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) < 60e6


def test_a_review_that_is_missing_is_named(tmp_path):
    run = read_run(Made(tmp_path).finish().folder)
    with pytest.raises(InputError, match="its reviews lack row 98; run evaluate again"):
        run.reviews([99, 3, 98])
    (tmp_path / run_folder.REVIEWS).write_bytes(b"PAR1 not PAR1")
    with pytest.raises(InputError, match=r"its reviews cannot be read \(.*\); run evaluate again"):
        run.reviews([3])


def test_own_files_are_all_that_a_run_leaves(tmp_path):
    Made(tmp_path).finish()
    assert {tmp_path / name for name in files(tmp_path)} < set(run_folder.own_files(tmp_path))


def test_scores_stand_in_groups_of_a_piece_each(tmp_path):
    """So that memory stays flat in writing, whatever the number of rows."""
    Made(tmp_path).finish()
    file = pq.ParquetFile(tmp_path / run_folder.SCORES)
    assert file.num_row_groups == 3 * len(CONDITIONS)
    assert file.schema_arrow.field("logprob_negative").type == pa.float32()


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
