"""Text → token ids that fit the context: whole demonstrations are dropped, oldest first; the query is never cut unasked.

A prompt is kept in two parts: the demonstrations (its *prefix*, shared by all queries of a condition) and the query. Pieces are
tokenized once and joined; every piece but the first begins with the separator, which byte-level BPE never joins to the word
before it, so the ids are those of the whole text (checked for each condition on its first prompt).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.demonstrations import Condition, DemonstrationSampler
from rope_gpt2.fewshot.examples import Example
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One query with its demonstrations, as token ids.

    Attributes:
        query: the example that is judged.
        condition: what its demonstrations were drawn by.
        prefix_ids: token ids of the demonstrations, empty for 0 shots.
        query_ids: token ids from the separator before the query to the place of the label word.
        dropped: demonstrations left out because the prompt exceeded the context.
        trimmed: whether the end of the review was cut.
    """

    query: Example
    condition: Condition
    prefix_ids: tuple[int, ...]
    query_ids: tuple[int, ...]
    dropped: int = 0
    trimmed: bool = False


class PromptBuilder:
    """Builds the prompts of one condition.

    Args:
        tokenizer: a fast tokenizer.
        template, verbalizer: layout and label words.
        sampler: the demonstrations of the condition.
        max_length: tokens of prompt and label word together, at most.
        from_pool: whether queries are rows of the pool's own file.
        trim_queries: cut the end of a review that does not fit alone, instead of refusing it.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        verbalizer: Verbalizer,
        sampler: DemonstrationSampler,
        max_length: int,
        from_pool: bool = False,
        trim_queries: bool = False,
    ) -> None:
        self.tokenizer, self.template, self.verbalizer, self.sampler = tokenizer, template, verbalizer, sampler
        self.from_pool, self.trim_queries = from_pool, trim_queries
        self.room = max_length - max(len(ids) for ids in verbalizer.token_ids(tokenizer, template))
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._checked = False

    def build(self, query: Example) -> Prompt:
        """The prompt of one query.

        Raises:
            InputError: if the query alone exceeds the context and trimming was not asked for.
        """
        demonstrations = [
            self.template.demonstration(example.review, self.verbalizer.word(example.sentiment))
            for example in self.sampler.sample(query, self.from_pool)
        ]
        query_text = self.template.query(query.review)
        first_alone, trimmed = self._tokenize(query_text, cached=False), False
        if len(first_alone) > self.room:
            first_alone, query_text, trimmed = *self._trim(query, len(first_alone)), True
        later = self._tokenize(self.template.separator + query_text, cached=False) if demonstrations else first_alone
        dropped = 0
        while demonstrations[dropped:]:
            prefix = self._join(demonstrations[dropped:])
            if len(prefix) + len(later) <= self.room:
                self._check(demonstrations[dropped:], query_text, prefix + later)
                return Prompt(query, self.sampler.condition, prefix, later, dropped, trimmed)
            dropped += 1
        return Prompt(query, self.sampler.condition, (), first_alone, dropped, trimmed)

    def _join(self, demonstrations: Sequence[str]) -> tuple[int, ...]:
        first, *others = demonstrations
        ids = list(self._tokenize(first))
        for text in others:
            ids += self._tokenize(self.template.separator + text)
        return tuple(ids)

    def _tokenize(self, text: str, cached: bool = True) -> tuple[int, ...]:
        if (ids := self._pieces.get(text)) is None:
            ids = tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"])
            if cached:
                self._pieces[text] = ids
        return ids

    def _trim(self, query: Example, length: int) -> tuple[tuple[int, ...], str]:
        """The longest beginning of the review, in words, that leaves place for the label."""
        if not self.trim_queries:
            raise InputError(
                f"row {query.row}: the review needs {length} tokens with its template, the context has {self.room}; "
                "shorten it, raise max_length, or set trim_queries"
            )
        words = query.review.split()
        low, high = 0, len(words)
        while low < high:  # the most words that fit
            middle = (low + high + 1) // 2
            fits = len(self._tokenize(self.template.query(" ".join(words[:middle])), cached=False)) <= self.room
            low, high = (middle, high) if fits else (low, middle - 1)
        text = self.template.query(" ".join(words[:low]))
        if low == 0:
            raise InputError(f"row {query.row}: no word of the review fits a context of {self.room} tokens; raise max_length")
        return self._tokenize(text, cached=False), text

    def _check(self, demonstrations: Sequence[str], query_text: str, ids: tuple[int, ...]) -> None:
        if not self._checked:
            whole = self.template.separator.join((*demonstrations, query_text))
            if self._tokenize(whole, cached=False) != ids:
                raise InputError(
                    f"template {self.template.text!r} and this tokenizer join words across examples; begin what follows {{label}} "
                    "with a line end"
                )
            self._checked = True
