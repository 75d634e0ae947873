"""What a length study was asked for and what it found: frozen types, and the JSON that they become."""

from dataclasses import asdict, dataclass
from typing import Any

from rope_gpt2.errors import InputError
from rope_gpt2.length.attention_distance import HeadDistance
from rope_gpt2.length.windows import Region, Setting


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        training_length: in tokens.
        multiples: of it, each above 0.
        kinds: of windows, "apart", "sliding" or both.
        stride: of sliding windows, in tokens; None for half of each length.
        attention_windows: windows that attention distances are averaged over; 0 for none.
        batch_tokens: tokens read at once.
        seed: of the bootstrap.
    """

    training_length: int
    multiples: tuple[float, ...]
    kinds: tuple[str, ...] = ("apart", "sliding")
    stride: int | None = None
    attention_windows: int = 2
    batch_tokens: int = 8192
    seed: int = 0

    def length(self, multiple: float) -> int:
        """Tokens of a window, at least 2."""
        return max(2, round(multiple * self.training_length))

    def settings(self, multiple: float) -> list[Setting]:
        """How windows are laid at a multiple.

        Raises:
            InputError: if the stride leaves tokens out.
        """
        length = self.length(multiple)
        stride = self.stride or length // 2
        if stride > length and "sliding" in self.kinds:
            raise InputError(f"--stride {stride}: windows of {length} tokens would leave tokens out; give at most {length}")
        return [Setting(length, kind, length if kind == "apart" else stride) for kind in self.kinds]


@dataclass(frozen=True, slots=True)
class Result:
    """Loss at a length, or why there is none.

    Attributes:
        multiple: of the training length.
        length: tokens in a window.
        windows: "apart" or "sliding".
        stride: tokens by which windows move on.
        positions: "all", or those "beyond" the training length: tokens predicted from more than so many.
        tokens: scored ones.
        loss: mean, nats a token.
        perplexity: its exponential.
        interval: 95 %, of the perplexity; None where the text holds a single stretch of the longest length.
        ratio: this perplexity over that of the very same tokens in windows of the shortest length, of the same kind; None for the shortest.
        ratio_interval: 95 %, paired by stretch of text: much narrower than those of the two perplexities, for both speak of one text.
        error: a sentence in place of all these.
    """

    multiple: float
    length: int
    windows: str
    stride: int
    positions: str | None = None
    tokens: int | None = None
    loss: float | None = None
    perplexity: float | None = None
    interval: tuple[float, float] | None = None
    ratio: float | None = None
    ratio_interval: tuple[float, float] | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class PositionBin:
    """Mean loss of neighbouring positions.

    Attributes:
        from_position: the first.
        to_position: the one after the last.
        tokens: scored ones.
        loss: mean, nats a token.
        reference: of the very same tokens in windows of the shortest length, of the same kind: what is the text's own evens out.
    """

    from_position: int
    to_position: int
    tokens: int
    loss: float
    reference: float


@dataclass(frozen=True, slots=True)
class Study:
    """All of it.

    Attributes:
        plan: what was asked for.
        region: the tokens that were scored.
        results: by multiple, kind and positions.
        per_position: of the longest length that works, windows apart where there are such.
        per_position_length: that length.
        attention: by layer and head; empty where the model gives no weights.
        attention_length: tokens in the windows of `attention`.
    """

    plan: Plan
    region: Region
    results: tuple[Result, ...]
    per_position: tuple[PositionBin, ...]
    per_position_length: int
    attention: tuple[HeadDistance, ...]
    attention_length: int


def as_json(study: Study) -> dict[str, Any]:
    """What JSON can hold, as docs/length.md describes it."""
    results = []
    for result in study.results:
        named = ("interval",) if result.error is None else ()  # null where a text is too short for one; what does not apply is left out
        results.append({name: value for name, value in asdict(result).items() if value is not None or name in named})
    curve = [
        {"from": one.from_position, "to": one.to_position, "tokens": one.tokens, "loss": one.loss, "reference": one.reference}
        for one in study.per_position
    ]
    return {
        "training_length": study.plan.training_length,
        "scored": {"from": study.region.begin, "to": study.region.end, "stretches": study.region.stretches},
        "results": results,
        "per_position_length": study.per_position_length,
        "per_position": curve,
        "attention_length": study.attention_length,
        "attention": [asdict(head) for head in study.attention],
    }
