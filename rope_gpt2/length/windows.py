"""A stream of tokens → windows, and which tokens each of them scores.

A window of length L reads L tokens of the stream and predicts the token after each: position p of it predicts from p + 1 tokens. So
position L - 1 is the last that a model trained on L tokens has learned, and positions from L on are those beyond.

Both kinds of windows are those of Press et al. (2022, "Train Short, Test Long", section 2 and appendix B). Apart (their nonoverlapping
inference): one window after another, so that early positions predict from little. Sliding: windows overlap, each moves on by a stride
S and scores its last S predictions alone, each from more than L - S tokens. Either way every token is scored once.

What is scored is one region, the same tokens for every length and both kinds: it begins late enough for the longest context that a
sliding window demands, and is a whole number of stretches, each as long as the longest window.

Let T be tokens of the stream, L length, S stride, K stretches, R scored tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from rope_gpt2.errors import InputError

KINDS = ("apart", "sliding")


class Window(NamedTuple):
    """Attributes:
    start: place in the stream of the first token that is read.
    length: tokens that are read.
    scored: how many predictions count, those of the last positions.
    """

    start: int
    length: int
    scored: int


@dataclass(frozen=True, slots=True)
class Setting:
    """How windows are laid.

    Attributes:
        length: L, in tokens.
        kind: "apart" or "sliding".
        stride: S, in tokens; L where they are apart.
    """

    length: int
    kind: str
    stride: int


@dataclass(frozen=True, slots=True)
class Region:
    """The scored tokens of a stream.

    Attributes:
        begin: place of the first.
        stretches: K.
        stretch: tokens in each, the longest length.
    """

    begin: int
    stretches: int
    stretch: int

    @property
    def end(self) -> int:
        """Place after the last."""
        return self.begin + self.stretches * self.stretch


def choose_region(num_tokens: int, settings: Sequence[Setting]) -> Region:
    """The tokens that every setting can score.

    Raises:
        InputError: if the text holds no stretch of the longest length.
    """
    longest = max(setting.length for setting in settings)
    begin = 1 + max(setting.length - setting.stride for setting in settings)
    stretches = max(0, num_tokens - begin) // longest
    if not stretches:
        raise InputError(
            f"the text has {num_tokens} tokens, but windows of {longest} tokens need {begin + longest} at least; "
            "give more text or smaller --lengths"
        )
    return Region(begin, stretches, longest)


def lay_windows(region: Region, setting: Setting) -> list[Window]:
    """Windows whose scored tokens, one window after another, are the region. Of those apart the last can be shorter."""
    if setting.kind == "apart":
        starts = range(region.begin - 1, region.end - 1, setting.length)
        lengths = [min(setting.length, region.end - 1 - start) for start in starts]
        return [Window(start, length, length) for start, length in zip(starts, lengths, strict=True)]
    windows = []
    for first in range(region.begin, region.end, setting.stride):
        end = min(first + setting.stride, region.end)
        windows.append(Window(end - 1 - setting.length, setting.length, end - first))
    return windows


def batch_windows(windows: Sequence[Window], batch_tokens: int) -> list[list[Window]]:
    """Neighbours of one shape, as many together as have `batch_tokens` tokens, at least one."""
    batches = []
    for (length, _), group in groupby(windows, key=lambda window: window[1:]):
        some, count = list(group), max(1, batch_tokens // length)
        batches += [some[place : place + count] for place in range(0, len(some), count)]
    return batches
