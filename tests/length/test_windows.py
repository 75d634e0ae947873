"""Windows score every token of the region once, the same tokens at every length, each from enough context."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rope_gpt2.errors import InputError
from rope_gpt2.length.windows import Region, Setting, Window, batch_windows, choose_region, lay_windows


@st.composite
def some_settings(draw):
    settings = []
    for length in draw(st.lists(st.integers(2, 40), min_size=1, max_size=4)):
        settings.append(Setting(length, "apart", length))
        settings.append(Setting(length, "sliding", draw(st.integers(1, length))))
    return settings


@given(some_settings(), st.integers(0, 100))
def test_all_settings_score_every_token_of_one_region_once_from_enough_context(settings, more):
    longest = max(setting.length for setting in settings)
    num_tokens = 1 + longest - min(setting.stride - setting.length for setting in settings) + more
    region = choose_region(num_tokens, settings)
    assert region.end <= num_tokens
    assert region.end + region.stretch > num_tokens  # no stretch is left out
    for setting in settings:
        scored = []
        for window in lay_windows(region, setting):
            assert window.start >= 0
            end = window.start + window.length  # place of the last target
            targets = range(end + 1 - window.scored, end + 1)
            scored += targets
            if setting.kind == "sliding":
                assert window.length == setting.length
                assert targets[0] - window.start > setting.length - setting.stride
        assert scored == list(range(region.begin, region.end))


def test_windows_apart_lie_end_to_end_and_begin_at_the_first_position():
    assert lay_windows(Region(1, 1, 10), Setting(4, "apart", 4)) == [Window(0, 4, 4), Window(4, 4, 4), Window(8, 2, 2)]


def test_sliding_windows_move_on_by_the_stride():
    assert lay_windows(Region(3, 1, 6), Setting(4, "sliding", 2)) == [Window(0, 4, 2), Window(2, 4, 2), Window(4, 4, 2)]


def test_a_text_shorter_than_the_longest_window_is_refused_with_what_it_needs():
    with pytest.raises(InputError, match="has 12 tokens, but windows of 8 tokens need 13"):
        choose_region(12, [Setting(8, "sliding", 4)])
    assert choose_region(13, [Setting(8, "sliding", 4)]).stretches == 1


def test_batches_hold_neighbours_of_one_shape_in_their_order():
    windows = [*lay_windows(Region(1, 1, 20), Setting(6, "apart", 6))]
    batches = batch_windows(windows, 13)
    assert [len(batch) for batch in batches] == [2, 1, 1]
    assert [window for batch in batches for window in batch] == windows
