"""Scores, conditions, manifest and reviews come back from disk bit for bit, and predictions.csv holds the same."""

import csv
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
from made_run import CONDITIONS, INPUTS, PLAN, SHOWN, WINDOW, Made, files, rewrite_scores

from rope_gpt2.fewshot import run_folder
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.pieces import Pieces
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.run_folder import read_run, write_reviews
from rope_gpt2.fewshot.scores import UNCERTAIN, ScoredCondition
from rope_gpt2.fewshot.scoring import ScoredBatch


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


def test_own_files_are_all_that_a_run_leaves(tmp_path):
    Made(tmp_path).finish()
    assert {tmp_path / name for name in files(tmp_path)} < set(run_folder.own_files(tmp_path))


def test_scores_stand_in_groups_of_a_piece_each(tmp_path):
    """So that memory stays flat in writing, whatever the number of rows."""
    Made(tmp_path).finish()
    file = pq.ParquetFile(tmp_path / run_folder.SCORES)
    assert file.num_row_groups == 3 * len(CONDITIONS)
    assert file.schema_arrow.field("logprob_negative").type == pa.float32()


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
