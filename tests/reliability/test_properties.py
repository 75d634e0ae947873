"""Laws that hold for any text and any length: what is read, prompted, packed and scored does not hang on what else is there."""

import csv
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import DEMO
from transformers import PreTrainedTokenizerBase

from rope_gpt2.corpus.packing import PackedDocuments
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import collate_prompts, group_prompts
from rope_gpt2.fewshot.episodes import Episodes
from rope_gpt2.fewshot.examples import LABELS, Example, ExampleFile, read_examples
from rope_gpt2.fewshot.prompts import Prompt, PromptBuilder
from rope_gpt2.fewshot.scores import Demonstration
from rope_gpt2.fewshot.scoring import PrefixCache, score_labels
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM
from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.sequences import IGNORED

efforts = pytest.mark.parametrize("effort", [1, pytest.param(20, marks=pytest.mark.slow)])
MANY = 10**6  # tokens; anything fits
HOSTILE = (
    *("Sentiment: positive\n\nReview:", "\n\nReview: ", "\nSentiment: negative\n\n", " negative", "positive", "{text}", "{label}"),
    *("<|endoftext|>", "<|pad|>", "\x00", '"', "\r\n", "\u2028", "\x85", "\x1c", "\u202e", "e\u0301", "🎬", "'s", "...", ",", "=1+1"),
)
unicode = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
reviews = st.lists(unicode | st.sampled_from(HOSTILE), min_size=1, max_size=6).map("".join).filter(lambda text: text.strip())
labels = st.sampled_from(LABELS)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    """Trained on the demo reviews as the default template lays them out."""
    template = Template()
    return train_tokenizer((template.demonstration(item.review, item.sentiment) + "\n\n" for item in read_examples(DEMO)), 600)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> RopeGPT2ForCausalLM:
    """Random weights, large enough for each token of the context to move the scores."""
    torch.manual_seed(0)
    config = RopeGPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2)
    return RopeGPT2ForCausalLM(config).eval()


# CSV


@efforts
def test_any_text_written_as_csv_is_read_back_in_order_and_what_is_no_text_is_refused_in_a_sentence(effort: int, tmp_path: Path):
    """Duplicates are kept; a lone surrogate, which no UTF-8 file may hold, is the one thing refused."""
    path = tmp_path / "reviews.csv"
    texts = st.lists(st.characters() | st.sampled_from(HOSTILE), min_size=1, max_size=12).map("".join).filter(lambda text: text.strip())

    @settings(max_examples=40 * effort, deadline=None)
    @given(
        pairs=st.lists(st.tuples(texts, labels), min_size=1, max_size=6).flatmap(lambda some: st.lists(st.sampled_from(some), min_size=1)),
        # with the short line ends the module itself leaves the other one in a review unquoted, and none could read that back
        form=st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), *((csv.QUOTE_ALL, end) for end in ("\n", "\r\n", "\r"))]),
        mark=st.sampled_from(["", "\ufeff"]),
    )
    def law(pairs: list[tuple[str, str]], form: tuple[int, str], mark: str) -> None:
        quoting, line_end = form
        with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
            file.write(mark)
            csv.writer(file, quoting=quoting, lineterminator=line_end).writerows([("review", "sentiment"), *pairs])  # type: ignore[arg-type]
        if any("\ud800" <= letter <= "\udfff" for review, _ in pairs for letter in review):
            with pytest.raises(InputError, match=r"^[^\n]*reviews\.csv, line \d+: not UTF-8; [^\n]*$"):
                read_examples(path)
            return
        theirs = [Example(row, review, sentiment) for row, (review, sentiment) in enumerate(pairs, start=1)]
        assert read_examples(path, clean_html=False) == list(ExampleFile(path, clean_html=False)) == theirs

    law()


@efforts
def test_a_damaged_csv_is_read_or_refused_in_a_sentence(effort: int, tmp_path: Path):
    """Bytes of a good file are exchanged, taken out and put in."""
    path, good = tmp_path / "reviews.csv", DEMO.read_bytes()[:600]
    damage = st.tuples(
        st.integers(0, len(good)), st.integers(0, 3), st.binary(max_size=3) | st.sampled_from([b'"', b",", b"\n", b"\xff", b"\0"])
    )

    @settings(max_examples=60 * effort, deadline=None)
    @given(damages=st.lists(damage, min_size=1, max_size=4))
    def law(damages: list[tuple[int, int, bytes]]) -> None:
        content = good
        for place, count, put in damages:
            content = content[:place] + put + content[place + count :]
        path.write_bytes(content)
        examples, refusal = [], ""
        try:
            examples = read_examples(path)
        except InputError as error:
            refusal = str(error)
        assert bool(examples) != bool(refusal)
        assert not refusal or (refusal.startswith(str(path)) and "; " in refusal and len(refusal.splitlines()) == 1)
        assert [example.row for example in examples] == list(range(1, len(examples) + 1))
        assert all(example.review.strip() and example.sentiment in LABELS for example in examples)

    law()


# Prompts


class Given:
    """In place of a sampler: these demonstrations for every query."""

    def __init__(self, *demonstrations: Demonstration) -> None:
        self.demonstrations = demonstrations

    def prepare(self, queries: object) -> None:
        """Nothing to do."""

    def sample(self, query: Example, from_pool: bool) -> tuple[Demonstration, ...]:
        """The same ones."""
        return self.demonstrations


def build(tokenizer: PreTrainedTokenizerBase, shown: list[Demonstration], queries: list[str], max_length: int = MANY) -> list[Prompt]:
    """The prompts of reviews behind demonstrations."""
    builder = PromptBuilder(tokenizer, Template(), Verbalizer(), max_length)
    examples = [Example(row, review, LABELS[0]) for row, review in enumerate(queries, start=1)]
    return builder.build(Given(*shown), builder.encode(examples))  # type: ignore[arg-type]


def shows(pairs: list[tuple[str, str]]) -> list[Demonstration]:
    """Demonstrations with their own labels."""
    return [Demonstration(row, review, label, label) for row, (review, label) in enumerate(pairs, start=100)]


@efforts
def test_no_review_changes_how_another_one_is_shown_or_how_many_are(effort: int, tokenizer: PreTrainedTokenizerBase):
    """The ids of a demonstration are its own, whatever stands before and behind it; so are those of the query."""
    plain = shows([("Dull.", "negative")])
    (first,) = build(tokenizer, plain, ["Fine."])

    @settings(max_examples=25 * effort, deadline=None)
    @given(pairs=st.lists(st.tuples(reviews, labels), min_size=1, max_size=5), query=reviews, data=st.data())
    def law(pairs: list[tuple[str, str]], query: str, data: st.DataObject) -> None:
        shown = shows(pairs)
        (whole,), (alone,) = build(tokenizer, shown, [query]), build(tokenizer, shown[:1], [query])
        later = [build(tokenizer, [*plain, item], [query])[0].prefix_ids[len(first.prefix_ids) :] for item in shown]
        assert whole.prefix_ids == alone.prefix_ids + tuple(token for ids in later[1:] for token in ids)
        room = len(whole.query_ids) + data.draw(st.integers(1, len(whole.prefix_ids)))
        context = max(room, len(build(tokenizer, [], [query])[0].query_ids) + 1)
        (prompt,) = build(tokenizer, shown, [query], context)
        kept = len(shown) - prompt.dropped
        assert len(prompt.prefix_ids) + len(prompt.query_ids) < context
        assert not prompt.trimmed
        if kept:
            assert prompt.query_ids == whole.query_ids
            assert prompt.prefix_ids == build(tokenizer, shown[prompt.dropped :], [query])[0].prefix_ids
            examples = tokenizer.decode(prompt.prefix_ids).split("\n\n")
            assert len(examples) == kept
            assert all(text.count("\nsentiment") == 1 for text in examples)
        else:
            assert prompt.query_ids == build(tokenizer, [], [query])[0].query_ids

    law()


# Packing


@efforts
def test_an_epoch_of_documents_reads_every_token_once_and_goes_on_from_anywhere(effort: int):
    documents = st.lists(st.integers(1, 40), min_size=1, max_size=30)

    @settings(max_examples=60 * effort, deadline=None)
    @given(lengths=documents, length=st.integers(1, 50), seed=st.integers(0, 9), epoch=st.integers(0, 9), separate=st.booleans())
    def law(lengths: list[int], length: int, seed: int, epoch: int, separate: bool) -> None:
        total = sum(lengths)
        cache = SimpleNamespace(tokens=np.arange(total, dtype=np.uint16), offsets=np.cumsum([0, *lengths]))
        options = {"length": length, "seed": seed, "separate_documents": separate}
        if total <= length:
            with pytest.raises(InputError, match="give more text or a smaller max_length"):
                PackedDocuments(cache, np.arange(len(lengths)), **options)  # type: ignore[arg-type]
            return
        packed, fresh = (PackedDocuments(cache, np.arange(len(lengths)), **options) for _ in range(2))  # type: ignore[arg-type]
        items = [packed.get(epoch, index) for index in range(len(packed))]
        seen = torch.cat([item.input_ids for item in items]).tolist()
        assert len(set(seen)) == len(seen) == len(packed) * length  # token ids are places: each once
        assert total - len(seen) <= length
        for item in items:
            within = item.targets != IGNORED
            assert bool(within.all()) or separate
            starts = set(cache.offsets[:-1].tolist())
            follows = item.targets[within].tolist()
            assert all(
                target == token + 1 or target in starts for token, target in zip(item.input_ids[within].tolist(), follows, strict=True)
            )
        for index in random.Random(seed).sample(range(len(packed)), min(3, len(packed))):
            assert torch.equal(fresh.get(epoch, index).input_ids, items[index].input_ids)

    law()


@efforts
def test_an_epoch_of_episodes_shows_each_example_once_and_whole_and_goes_on_from_anywhere(effort: int, tokenizer: PreTrainedTokenizerBase):
    @settings(max_examples=20 * effort, deadline=None)
    @given(pairs=st.lists(st.tuples(reviews, labels), min_size=1, max_size=12), spare=st.integers(0, 60), epoch=st.integers(0, 5))
    def law(pairs: list[tuple[str, str]], spare: int, epoch: int) -> None:
        examples = [Example(row, review, label) for row, (review, label) in enumerate(pairs, start=1)]
        template = Template()
        texts = [template.demonstration(item.review, item.sentiment) + template.separator for item in examples]
        longest = max(len(ids) for ids in tokenizer(texts, split_special_tokens=True, verbose=False)["input_ids"])
        made, fresh = (Episodes(examples, tokenizer, template, Verbalizer(), longest + spare + 4, seed=0) for _ in range(2))
        dealt = [place for index in range(len(made)) for episode in made.members(epoch, index) for place in episode]
        assert len(set(dealt)) == len(dealt)
        folded = [" ".join(item.review.split()) for item in examples]
        shown = {folded[place] for place in dealt}
        assert made.left_out == 0
        assert shown == set(folded) or len({*map(tuple, tokenizer(folded)["input_ids"])}) < len(folded)  # equal texts keep apart
        for index in range(len(made)):
            item = made.get(epoch, index)
            assert len(item.input_ids) == longest + spare + 4
            assert int(item.is_label.sum()) == sum(len(episode) for episode in made.members(epoch, index))  # a token a label
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(fresh.get(epoch, index)[:3], item[:3], strict=True))

    law()


# Scoring


@efforts
def test_the_scores_of_a_review_do_not_hang_on_the_others(effort: int, tokenizer: PreTrainedTokenizerBase, model: RopeGPT2ForCausalLM):
    """Neither on their texts and lengths, nor on the order of the rows, nor on how they are cut into batches; copies have the same."""

    @settings(max_examples=12 * effort, deadline=None)
    @given(
        queries=st.lists(reviews, min_size=1, max_size=6),
        pairs=st.lists(st.tuples(reviews, labels), max_size=3),
        tokens=st.sampled_from([1, 60, MANY]),
        order=st.randoms(use_true_random=False),
    )
    def law(queries: list[str], pairs: list[tuple[str, str]], tokens: int, order: random.Random) -> None:
        prompts = build(tokenizer, shows(pairs), [*queries, queries[0]])
        theirs = torch.cat([scores(model, tokenizer, [prompt], MANY) for prompt in prompts])
        assert theirs.isfinite().all()
        order.shuffle(prompts)
        ours = scores(model, tokenizer, prompts, tokens)
        places = [prompt.query.row - 1 for prompt in sorted(prompts, key=lambda prompt: prompt.query.row)]
        torch.testing.assert_close(ours, theirs[places], atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(ours[0], ours[-1], atol=2e-5, rtol=1e-5)

    law()


def scores(model: RopeGPT2ForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt], tokens: int) -> torch.Tensor:
    """[N, 2] label log-probabilities, in the order of the rows."""
    ids, cache = Verbalizer().token_ids(tokenizer, Template()), PrefixCache()
    found: dict[int, torch.Tensor] = {}
    for group in group_prompts(prompts, tokens):
        batch = collate_prompts(group, ids, ())
        found |= {prompt.query.row: row for prompt, row in zip(batch.prompts, score_labels(model, batch, cache), strict=True)}
    return torch.stack([found[row] for row in sorted(found)])
