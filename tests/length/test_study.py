"""A study: what it sums up, what its intervals say, and what a model cannot read."""

import json
import math

import numpy as np
import pytest
import torch
from length_models import make_model
from scipy import stats

from rope_gpt2.errors import InputError
from rope_gpt2.length.plot import draw, write_image
from rope_gpt2.length.results import Plan, as_json
from rope_gpt2.length.study import count_tokens, loss_interval, run_study

PLAN = Plan(training_length=16, multiples=(1, 2, 4))


def result_of(study, **wanted):
    (found,) = [one for one in study.results if all(getattr(one, name) == value for name, value in wanted.items())]
    return found


@pytest.fixture(scope="module")
def study():
    tokens = torch.randint(0, 50, (500,), generator=torch.Generator().manual_seed(1))
    read: list[int] = []
    multiples: list[float] = []
    found = run_study(make_model("rope", n_positions=16), tokens, PLAN, multiples.append, read.append)
    assert sum(read) == count_tokens(PLAN, len(tokens))
    assert multiples == [1, 2, 4, 4]  # once more for the attention
    return found


def test_every_length_and_kind_scores_the_same_number_of_tokens(study):
    assert {one.tokens for one in study.results if one.positions == "all"} == {study.region.stretches * 64}
    assert all(one.perplexity == math.exp(one.loss) and one.interval[0] < one.perplexity < one.interval[1] for one in study.results)


def test_beyond_the_training_length_there_is_nothing_at_multiple_1_and_all_of_it_where_windows_slide_by_half(study):
    assert not [one for one in study.results if one.multiple == 1 and one.positions == "beyond"]
    for multiple in (2, 4):
        whole, beyond = (result_of(study, multiple=multiple, windows="sliding", positions=name) for name in ("all", "beyond"))
        assert (whole.loss, whole.tokens) == (beyond.loss, beyond.tokens)
    apart = result_of(study, multiple=4, windows="apart", positions="beyond")
    assert apart.tokens == study.region.stretches * 48


def test_a_ratio_is_that_of_two_perplexities_of_the_same_tokens(study):
    for kind in ("apart", "sliding"):
        shortest, longest = (result_of(study, multiple=multiple, windows=kind, positions="all") for multiple in (1, 4))
        assert shortest.ratio is None
        assert longest.ratio == pytest.approx(longest.perplexity / shortest.perplexity)
        assert longest.ratio_interval[0] < longest.ratio < longest.ratio_interval[1]


def test_the_curve_over_positions_averages_to_the_loss_of_all(study):
    counts, losses, references = np.array([(one.tokens, one.loss, one.reference) for one in study.per_position]).T
    for values, multiple in ((losses, 4), (references, 1)):
        assert np.average(values, weights=counts) == pytest.approx(
            result_of(study, multiple=multiple, windows="apart", positions="all").loss
        )
    borders = [(one.from_position, one.to_position) for one in study.per_position]
    assert borders == [(start, start + 2) for start in range(0, 64, 2)]


def test_a_table_that_ends_gives_an_error_for_longer_lengths_alone():
    tokens = torch.arange(400) % 50
    found = run_study(make_model("gpt2", n_positions=16), tokens, PLAN)
    errors = [one for one in found.results if one.error]
    assert {(one.length, one.windows) for one in errors} == {(32, "apart"), (32, "sliding"), (64, "apart"), (64, "sliding")}
    assert errors[0].error == "32 tokens exceed the learned position table of 16"
    assert found.per_position_length == found.attention_length == 16
    assert {"multiple", "length", "windows", "stride", "error"} == set(as_json(found)["results"][-1])
    with pytest.raises(InputError, match="no length can be read: 64 tokens exceed"):
        run_study(make_model("gpt2", n_positions=16), tokens, Plan(16, (4,)))


def test_an_interval_over_stretches_is_that_of_the_normal_distribution_where_there_are_many():
    means = np.random.default_rng(0).normal(3, 0.5, size=400)
    low, high = loss_interval(means * 64, np.full(400, 64), seed=0)
    half = stats.norm.ppf(0.975) * means.std(ddof=1) / 20
    assert (low, high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.1 * half)
    assert loss_interval(means[:1], np.ones(1), seed=0) is None
    assert loss_interval(np.full(5, 2.0), np.ones(5), seed=0) == (2.0, 2.0)


def test_a_stride_beyond_the_window_is_refused():
    with pytest.raises(InputError, match="--stride 20: windows of 16 tokens"):
        run_study(make_model("rope"), torch.zeros(300, dtype=torch.int64), Plan(16, (1, 2), stride=20))


def test_a_study_is_json_and_one_figure_the_same_bytes_each_time(study, tmp_path):
    assert json.loads(json.dumps(as_json(study), allow_nan=False))["attention_length"] == 64
    plots = []
    for suffix in (".svg", ".svg", ".png"):
        path = tmp_path / f"plot{len(plots)}"
        write_image(draw(study), path, suffix)
        plots.append(path.read_bytes())
    assert plots[0] == plots[1]
    assert plots[2].startswith(b"\x89PNG")
    for words in (b"same tokens, windows of 16", b"training length", b"apart, beyond", b"everywhere alike"):
        assert words in plots[0]
    assert b">sliding, beyond<" not in plots[0]  # the line of sliding once more
