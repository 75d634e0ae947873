"""Prompt batches cover every row under every condition once, over any number of processes, and are made one at a time."""

from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
from running import DEMO
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import Item, PromptBatch
from rope_gpt2.fewshot.conditions import Condition, expand_grid
from rope_gpt2.fewshot.content_free import content_free_inputs
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import LABELS, Example, ExampleFile, read_examples
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.model.tokenizer import train_tokenizer
from rope_gpt2.training.datamodule import SentimentDataModule
from rope_gpt2.training.loaders import PromptBatches, PromptPlan

CONDITIONS = [
    *expand_grid([0, 2], 2, selections=["balanced", "similar"]),
    *expand_grid([2], 1, 2, ["none"], templates=["{text}\n{label}\n"], label_words=[("bad", "good")]),
]


@pytest.fixture(scope="module")
def pool() -> list[Example]:
    return read_examples(DEMO)


@pytest.fixture(scope="module")
def tokenizer(pool) -> PreTrainedTokenizerBase:
    return train_tokenizer([Template().demonstration(example.review, example.sentiment) + "\n\n" for example in pool], 500)


def make_plan(
    pool, tokenizer, queries=None, conditions=CONDITIONS, window_rows=50, batch_tokens=300, channel=False, kinds=()
) -> PromptPlan:
    demonstrations = Pool(pool)
    builders: dict[tuple[str, tuple[str, ...]], PromptBuilder] = {}
    for condition in conditions:
        layout = (condition.template, condition.label_words)
        builders[layout] = PromptBuilder(tokenizer, Template(layout[0]), Verbalizer(layout[1]), 512, channel=channel)
    return PromptPlan(
        queries=pool[:123] if queries is None else queries,
        conditions=conditions,
        samplers=[DemonstrationSampler(demonstrations, condition) for condition in conditions],
        builders=[builders[condition.template, condition.label_words] for condition in conditions],
        from_pool=True,
        content_free=content_free_inputs(kinds, pool),
        window_rows=window_rows,
        batch_tokens=batch_tokens,
    )


def rows_of(batches) -> Counter[tuple[int, int]]:
    """(row, condition) of every prompt."""
    return Counter((prompt.query.row, batch.item.condition) for batch in batches for prompt in batch.prompts)


def everything(plan) -> Counter[tuple[int, int]]:
    return Counter((query.row, condition) for query in plan.queries for condition in range(len(plan.conditions)))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("channel", [False, True])
def test_processes_cover_every_row_under_every_condition_once(pool, tokenizer, world, channel):
    plan = make_plan(pool, tokenizer, channel=channel)
    parts = [list(PromptBatches(plan, rank, world)) for rank in range(world)]
    assert sum((rows_of(part) for part in parts), Counter()) == everything(plan)
    items = [{batch.item for batch in part} for part in parts]
    assert sum(map(len, items)) == len(set().union(*items)) == plan.num_windows * len(plan.conditions)


def test_a_batch_holds_its_item_and_the_last_of_an_item_says_so(pool, tokenizer):
    plan = make_plan(pool, tokenizer)
    batches = list(PromptBatches(plan))
    assert [item for item, _ in groupby(batches, lambda batch: batch.item)] == [
        Item(window, condition) for window in range(plan.num_windows) for condition in range(len(plan.conditions))
    ]
    for item, some in groupby(batches, lambda batch: batch.item):
        members = list(some)
        assert [batch.is_last for batch in members] == [False] * (len(members) - 1) + [True]
        rows = sorted(prompt.query.row for batch in members for prompt in batch.prompts)
        assert rows == list(range(50 * item.window + 1, min(123, 50 * (item.window + 1)) + 1))
        builder = plan.builders[item.condition]
        assert {batch.label_token_ids for batch in members} == {builder.label_token_ids}


def test_prompts_are_those_of_their_condition(pool, tokenizer):
    plan = make_plan(pool, tokenizer)
    for batch in PromptBatches(plan):
        builder, sampler = plan.builders[batch.item.condition], plan.samplers[batch.item.condition]
        theirs = builder.build(sampler, builder.encode([prompt.query for prompt in batch.prompts[:2]]), from_pool=True)
        assert list(batch.prompts[:2]) == theirs


def test_what_is_done_is_passed_over_and_nothing_else(pool, tokenizer):
    plan = make_plan(pool, tokenizer)
    done = {Item(0, 1), Item(2, 0), Item(1, 3)}
    whole = rows_of(PromptBatches(plan))
    asked: list[Item] = []

    def is_done(item: Item) -> bool:
        asked.append(item)
        return item in done

    ours = rows_of(PromptBatches(plan, is_done=is_done))
    assert whole - ours == Counter((query.row, item.condition) for item in done for query in list(plan.windows())[item.window])
    assert not ours - whole
    assert len(asked) == len(set(asked))
    assert not list(PromptBatches(plan, is_done=lambda item: True))


def test_a_run_that_goes_on_makes_the_batches_of_an_undisturbed_one(pool, tokenizer):
    plan = make_plan(pool, tokenizer)
    whole = [described(batch) for batch in PromptBatches(plan)]
    for done in (Item(0, 4), Item(1, 0), Item(2, 5)):
        rest = [described(batch) for batch in PromptBatches(plan, is_done=lambda item, done=done: item <= done)]
        assert rest == whole[len(whole) - len(rest) :]


def described(batch: PromptBatch):
    return batch.item, batch.is_last, batch.prompts, batch.prefix_ids.tolist(), batch.query_ids.tolist()


@pytest.mark.parametrize("window_rows", [1, 50, 123, 1000])
def test_windows_are_the_queries_piece_by_piece(pool, tokenizer, window_rows):
    plan = make_plan(pool, tokenizer, window_rows=window_rows)
    windows = list(plan.windows())
    assert [query for window in windows for query in window] == list(plan.queries)
    assert len(windows) == plan.num_windows
    assert max(map(len, windows)) == min(window_rows, 123)


@pytest.mark.parametrize("window_rows", [1, 50, 1000])
def test_windows_do_not_change_a_prompt(pool, tokenizer, window_rows):
    def prompts(plan):
        return {(prompt.query.row, batch.item.condition): prompt for batch in PromptBatches(plan) for prompt in batch.prompts}

    conditions = CONDITIONS[:5]
    theirs = prompts(make_plan(pool, tokenizer, pool[:20], conditions, 7))
    assert prompts(make_plan(pool, tokenizer, pool[:20], conditions, window_rows)) == theirs


def test_content_free_inputs_are_scored_once_under_every_condition_with_the_first_window(pool, tokenizer):
    plan = make_plan(pool, tokenizer, kinds=("contextual", "domain", "pmi"))
    assert len(plan.content_free) == 24
    batches = list(PromptBatches(plan))
    free = Counter((prompt.query.row, batch.item) for batch in batches for prompt in batch.prompts if prompt.query.row < 0)
    assert free == Counter((-place, Item(0, condition)) for place in range(1, 25) for condition in range(len(plan.conditions)))
    assert sum(len(batch.prompts) for batch in batches) == plan.num_prompts


@pytest.mark.parametrize("channel", [False, True])
@pytest.mark.parametrize("kinds", [(), ("contextual", "pmi")])
def test_the_number_of_prompts_is_known_beforehand(pool, tokenizer, channel, kinds):
    plan = make_plan(pool, tokenizer, channel=channel, kinds=kinds)
    assert sum(len(batch.prompts) for batch in PromptBatches(plan)) == plan.num_prompts


def test_under_the_noisy_channel_a_batch_has_the_heads_of_its_condition(pool, tokenizer):
    plan = make_plan(pool, tokenizer, channel=True)
    for batch in PromptBatches(plan):
        builder = plan.builders[batch.item.condition]
        assert len(batch.heads) == len(LABELS)
        assert {builder.heads(prompt) for prompt in batch.prompts} == {batch.heads}


class Counted:
    """Many queries, made as they are asked for."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        for row in range(1, self.count + 1):
            self.made += 1
            yield Example(row, f"review {row % 97} of a film", LABELS[row % 2])


def test_batches_are_made_one_at_a_time(pool, tokenizer):
    """A million rows are never in memory: no more than one window is read ahead."""
    queries = Counted(10**6)
    batches = iter(PromptBatches(make_plan(pool, tokenizer, queries, [Condition(0), Condition(2)])))
    for _ in range(10):
        window = next(batches).item.window
        assert queries.made == 50 * (window + 1)
    assert queries.made <= 500


def test_a_window_is_tokenized_once_for_all_conditions_of_a_layout(pool, tokenizer, monkeypatch):
    encoded, encode = [], PromptBuilder.encode

    def count(self, queries):
        encoded.append((id(self), queries[0].row))
        return encode(self, queries)

    monkeypatch.setattr(PromptBuilder, "encode", count)
    plan = make_plan(pool, tokenizer)
    list(PromptBatches(plan))
    assert len(encoded) == len(set(encoded)) == plan.num_windows * len({id(builder) for builder in plan.builders})


def test_a_query_that_cannot_fit_is_refused_beforehand_in_any_window(pool, tokenizer):
    queries = [*pool[:60], Example(61, "so long " * 600, "negative"), *pool[61:70]]
    with pytest.raises(InputError, match=r"^row 61: the review needs"):
        make_plan(pool, tokenizer, queries).check()
    make_plan(pool, tokenizer).check()


def test_lightning_gets_every_batch_of_a_process(pool, tokenizer):
    """Without a batch size of its own, the loader passes on what the data set makes."""
    plan = make_plan(pool, tokenizer)
    loader = DataLoader(PromptBatches(plan, 1, 2), batch_size=None)
    assert [described(batch) for batch in loader] == [described(batch) for batch in PromptBatches(plan, 1, 2)]


# As the data module plans it.


def make_data(**options) -> SentimentDataModule:
    return SentimentDataModule(train=str(DEMO), predict=str(DEMO), pool=str(DEMO), max_length=256, holdout=60, **options)


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_every_process_gets_a_window(monkeypatch, world):
    parts = []
    for rank in range(world):
        data = make_data(shots=[0, 2])
        monkeypatch.setattr(data, "_process", lambda rank=rank: (rank, world))
        parts.append(rows_of(data.predict_dataloader()))
    assert all(parts)
    assert sum(parts, Counter()) == Counter((row, condition) for row in range(1, 457) for condition in range(2))


def test_more_processes_than_rows_are_refused(monkeypatch):
    data = make_data(limit=3)
    monkeypatch.setattr(data, "_process", lambda: (0, 4))
    with pytest.raises(InputError, match=r"3 reviews are too few for 4 processes; take fewer"):
        data.predict_dataloader()


def test_a_plan_made_before_there_is_a_trainer_holds_for_all_processes(monkeypatch):
    data = make_data()
    data.processes = 4
    plan = data.plan_prompts("predict")
    assert plan.num_windows >= 4
    assert data.plan_prompts("predict") is plan


@pytest.mark.parametrize("is_done", [None, lambda item: item.condition == 0])
def test_the_loader_passes_over_what_is_done(is_done):
    data = make_data(shots=[0, 2], limit=10)
    data.is_done = is_done
    conditions = {batch.item.condition for batch in data.predict_dataloader()}
    assert conditions == ({0, 1} if is_done is None else {1})


def test_a_query_of_the_pool_is_not_its_own_demonstration_and_its_file_is_read_as_needed():
    data = make_data(shots=4, limit=100)
    plan = data.plan_prompts("predict")
    assert plan.from_pool
    assert isinstance(plan.queries, ExampleFile)
    assert len(plan.queries) == 100
    for query in plan.queries:
        assert query.row not in {item.row for item in plan.samplers[0].sample(query, plan.from_pool)}


def test_conditions_of_one_layout_share_their_builder():
    data = make_data()
    data.conditions = CONDITIONS
    plan = data.plan_prompts("predict")
    layouts = [(condition.template, condition.label_words) for condition in CONDITIONS]
    assert len({id(builder) for builder in plan.builders}) == len(set(layouts)) == 2
    for (template, words), builder in zip(layouts, plan.builders, strict=True):
        assert (builder.template.text, builder.verbalizer.words) == (template, words)


def test_the_demo_file_has_its_rows():
    assert len(read_examples(Path(DEMO))) == 456
