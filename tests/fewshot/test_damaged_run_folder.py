"""A run folder that lacks something, is damaged, or does not belong together is refused in one line."""

import json
import math

import pyarrow as pa
import pytest
from made_run import Made, rewrite_scores

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot import pieces, run_folder
from rope_gpt2.fewshot.pieces import write_json
from rope_gpt2.fewshot.run_folder import read_run


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


def test_a_review_that_is_missing_is_named(tmp_path):
    run = read_run(Made(tmp_path).finish().folder)
    with pytest.raises(InputError, match="its reviews lack row 98; run evaluate again"):
        run.reviews([99, 3, 98])
    (tmp_path / run_folder.REVIEWS).write_bytes(b"PAR1 not PAR1")
    with pytest.raises(InputError, match=r"its reviews cannot be read \(.*\); run evaluate again"):
        run.reviews([3])
