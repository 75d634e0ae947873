"""Text → token ids that fit the context: whole demonstrations are dropped, oldest first; the query is never cut unasked.

A prompt is kept in two parts: the demonstrations (its *prefix*, shared by all queries of a condition) and the query. Pieces are
tokenized once and joined; every piece but the first begins with the separator, which byte-level BPE never joins to the word
before it, so the ids are those of the whole text (checked for each condition on its first prompt).

Under the noisy channel (Min et al. 2021) the label stands first: the query's part is then the review, whose likelihood is the score, and
what stands before it, once for each label, are the prompt's `heads`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.content_free import ContentFree
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.scores import Demonstration
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """A query as token ids, the same in all conditions of one layout.

    Attributes:
        example: what is judged; content-free inputs have rows below 0.
        text: what stands for it in the prompt.
        alone: ids where nothing stands before it; None where no condition needs them.
        later: ids behind demonstrations, from the separator on; None where no condition has any. For the noisy channel both are those
            of the review alone.
        trimmed: whether the end of the review was cut.
    """

    example: Example
    text: str
    alone: Ids | None
    later: Ids | None
    trimmed: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """One query with its demonstrations, as token ids.

    Attributes:
        query: the example that is judged.
        prefix_ids: token ids of the demonstrations, empty for 0 shots.
        query_ids: token ids from the separator before the query to the place of the label word; of the review for the noisy channel.
        dropped: demonstrations left out because the prompt exceeded the context.
        trimmed: whether the end of the review was cut.
    """

    query: Example
    prefix_ids: Ids
    query_ids: Ids
    dropped: int = 0
    trimmed: bool = False


class PromptBuilder:
    """Builds the prompts of one layout.

    Args:
        tokenizer: a fast tokenizer.
        template, verbalizer: layout and label words.
        max_length: tokens of prompt and label word together, at most.
        trim_queries: cut the end of a review that does not fit alone, instead of refusing it.
        channel: lay the label out first, for the noisy channel.
        alone, later: whether some condition has no demonstrations, and whether some has: what no condition needs is not tokenized.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        verbalizer: Verbalizer,
        max_length: int,
        trim_queries: bool = False,
        channel: bool = False,
        alone: bool = True,
        later: bool = True,
    ) -> None:
        self.tokenizer, self.template, self.verbalizer = tokenizer, template, verbalizer
        self.trim_queries, self.channel = trim_queries, channel
        self._alone, self._later = alone or channel or not later, later
        self.label_token_ids = verbalizer.token_ids(tokenizer, template)
        heads = [template.channel_query(word) for word in verbalizer.words]
        self._heads_alone = tuple(self._tokenize(heads)) if channel else ()
        self._heads_later = tuple(self._tokenize([template.separator + head for head in heads])) if channel else ()
        self._room = max_length - max(len(ids) for ids in self._heads_later or self.label_token_ids)
        self._pieces: dict[str, Ids] = {}

    def heads(self, prompt: Prompt) -> tuple[Ids, ...]:
        """What stands between demonstrations and review, once for each label; empty but for the noisy channel."""
        return self._heads_later if prompt.prefix_ids else self._heads_alone

    def encode(self, queries: Sequence[Example]) -> list[EncodedQuery]:
        """Tokenize queries, once for all conditions of this layout.

        Raises:
            InputError: for a query that exceeds the context alone, where trimming was not asked for.
        """
        return self._encode(queries, [self._query_text(query.review) for query in queries])

    def encode_content_free(self, inputs: Sequence[ContentFree]) -> list[EncodedQuery]:
        """Tokenize content-free inputs, as queries with the rows -1, -2, ...."""
        examples = [Example(-place, item.text, LABELS[0]) for place, item in enumerate(inputs, start=1)]
        return self._encode(examples, [self.template.premise if item.kind == "pmi" else self._query_text(item.text) for item in inputs])

    def _encode(self, queries: Sequence[Example], texts: list[str]) -> list[EncodedQuery]:
        if not texts:
            return []
        alone = self._tokenize(texts) if self._alone else [None] * len(texts)
        later: Sequence[Ids | None] = alone if self.channel else [None] * len(texts)
        if self._later and not self.channel:
            later = self._tokenize([self.template.separator + text for text in texts])
        encoded = [EncodedQuery(*parts) for parts in zip(queries, texts, alone, later, strict=True)]
        return [item if self._fits(item) else self._trim(item) for item in encoded]

    def _fits(self, item: EncodedQuery) -> bool:
        """Whether a query leaves place for the label where nothing stands before it."""
        if item.alone is None and item.later is not None and len(item.later) <= self._room:
            return True  # the separator only adds to it
        return len(self._ids_alone(item)) <= self._room

    def _ids_alone(self, item: EncodedQuery) -> Ids:
        return self._tokenize([item.text])[0] if item.alone is None else item.alone

    def build(self, sampler: DemonstrationSampler, queries: Sequence[EncodedQuery], from_pool: bool = False) -> list[Prompt]:
        """The prompts of one condition.

        Args:
            sampler: the demonstrations of the condition.
            queries: what `encode` returned.
            from_pool: whether queries are rows of the pool's own file.
        """
        sampler.prepare([query.example for query in queries])
        prefixes: dict[int, _Prefixes] = {}  # by the demonstrations' identity: all queries of a condition share theirs
        prompts, kept = [], []
        for query in queries:
            demonstrations = sampler.sample(query.example, from_pool)
            kept.append(demonstrations)  # alive, or another's identity could be the same
            if id(demonstrations) not in prefixes:
                prefixes[id(demonstrations)] = self._prefixes(demonstrations)
            dropped, prefix = prefixes[id(demonstrations)].fit(self._room - len(query.later or ()))
            ids = query.later if prefix and query.later is not None else self._ids_alone(query)
            prompts.append(Prompt(query.example, prefix, ids, dropped, query.trimmed))
        if prompts and prompts[0].prefix_ids:
            self._check(kept[0][prompts[0].dropped :], queries[0], prompts[0])
        return prompts

    def _prefixes(self, demonstrations: Sequence[Demonstration]) -> "_Prefixes":
        texts = [self.demonstration_text(item) for item in demonstrations]
        return _Prefixes([self._piece(text) for text in texts], [self._piece(self.template.separator + text) for text in texts])

    def demonstration_text(self, item: Demonstration) -> str:
        """One demonstration as it stands in the prompt."""
        if item.shown is None:
            return self.template.unlabelled(item.review)
        render = self.template.channel_demonstration if self.channel else self.template.demonstration
        return render(item.review, self.verbalizer.word(item.shown))

    def _query_text(self, review: str) -> str:
        if self.channel:
            return self.template.channel_review(review)
        return self.template.query(review)

    def _piece(self, text: str) -> Ids:
        """Ids of a demonstration as it stands before a line end, which a normalizer may tell from the end of a text."""
        if text not in self._pieces:
            alone, followed, line_end = self._tokenize([text, text + "\n", "\n"])
            is_line = self.template.separator.lstrip(" ").startswith("\n") and followed[-len(line_end) :] == line_end
            self._pieces[text] = followed[: -len(line_end)] if is_line else alone
        return self._pieces[text]

    def _tokenize(self, texts: list[str]) -> list[Ids]:
        ids = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_attention_mask=False, verbose=False)
        return [tuple(line) for line in ids["input_ids"]]

    def _trim(self, item: EncodedQuery) -> EncodedQuery:
        """The longest beginning of the review, in words, that leaves place for the label."""
        query = item.example
        if not self.trim_queries and query.row > 0:  # content-free inputs are of no length that anyone chose
            raise InputError(
                f"row {query.row}: the review needs {len(self._ids_alone(item))} tokens with its template, the context has {self._room}; "
                "shorten it, raise max_length, or set trim_queries"
            )
        words = query.review.split()
        low, high = 0, len(words)
        while low < high:  # the most words that fit
            middle = (low + high + 1) // 2
            fits = len(self._tokenize([self._query_text(" ".join(words[:middle]))])[0]) <= self._room
            low, high = (middle, high) if fits else (low, middle - 1)
        if low == 0:
            raise InputError(f"row {query.row}: no word of the review fits a context of {self._room} tokens; raise max_length")
        (short,) = self.encode([replace(query, review=" ".join(words[:low]))])
        return replace(short, example=query, trimmed=True)

    def _check(self, demonstrations: Sequence[Demonstration], query: EncodedQuery, prompt: Prompt) -> None:
        """Refuse a layout whose pieces do not tokenize to the whole's ids."""
        head = self.template.channel_query(self.verbalizer.words[0]) if self.channel else ""
        if query.trimmed or query.example.row < 0:
            return
        texts = [*(self.demonstration_text(item) for item in demonstrations), head + self._query_text(query.example.review)]
        (whole,) = self._tokenize([self.template.separator.join(texts)])
        if whole != prompt.prefix_ids + (self.heads(prompt)[0] if self.channel else ()) + prompt.query_ids:
            raise InputError(
                f"template {self.template.text!r} and this tokenizer join words across examples; begin what follows {{label}} "
                "with a line end"
            )


class _Prefixes:
    """The demonstrations of a prompt as token ids: all of them, all but the oldest, and so on.

    Args:
        first: ids of each demonstration where it stands first.
        later: ids of each behind another one.
    """

    def __init__(self, first: Sequence[Ids], later: Sequence[Ids]) -> None:
        self._first, self._later = first, later
        self._joined: dict[int, Ids] = {len(first): ()}
        behind = [0]
        for ids in reversed(later):
            behind.append(behind[-1] + len(ids))
        self._lengths = [len(ids) + behind[len(first) - 1 - place] for place, ids in enumerate(first)]

    def fit(self, room: int) -> tuple[int, Ids]:
        """How many of the oldest must go so that the rest fits `room` tokens, and the rest's ids."""
        dropped = next((place for place, length in enumerate(self._lengths) if length <= room), len(self._first))
        if dropped not in self._joined:
            self._joined[dropped] = self._first[dropped] + tuple(token for ids in self._later[dropped + 1 :] for token in ids)
        return dropped, self._joined[dropped]
