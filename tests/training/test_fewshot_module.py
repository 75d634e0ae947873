"""FewShotModule: scores, whatever the memory; their verification; accuracies."""

import gc
import math

import pytest
import torch

from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.batches import Item, PromptBatch
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.scoring import ScoredBatch, score_channel_plain, score_plain
from rope_gpt2.training import fewshot_module as module_file
from rope_gpt2.training.fewshot_module import FewShotModule
from rope_gpt2.training.module import RopeGPT2Module

SIZE = 11


@pytest.fixture
def module() -> RopeGPT2Module:
    torch.manual_seed(0)
    return RopeGPT2Module(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, dropout=0.0)


def test_an_unknown_scoring_is_refused(module: RopeGPT2Module):
    with pytest.raises(InputError, match="scoring must be one of likelihood, channel, generate, got 'guess'; choose one"):
        FewShotModule(module.model, scoring="guess")


# Scoring.


@pytest.fixture
def batch() -> PromptBatch:
    """Prompts of 3 shared tokens and 2 to 8 of their own; the words have one and two tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 9, (SIZE,), generator=generator)
    prefix_ids, ids = torch.tensor([5, 6, 7]), torch.randint(1, 64, (SIZE, 8), generator=generator)
    prompts = tuple(
        Prompt(Example(row, "review", LABELS[row % 2]), (5, 6, 7), tuple(line[:length]))
        for row, (line, length) in enumerate(zip(ids.tolist(), lengths.tolist(), strict=True), start=1)
    )
    return PromptBatch(prefix_ids, ids, lengths, prompts, ((8,), (9, 10)), ((11,), (12, 13)), Item(2, 3))


def scored(module: RopeGPT2Module, batch: PromptBatch, **options) -> FewShotModule:
    fewshot = FewShotModule(module.model, **options).eval()
    fewshot.result = fewshot.predict_step(batch, 0)
    return fewshot


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_predict_gives_the_scores_of_the_plain_path(module: RopeGPT2Module, batch: PromptBatch, share_prefix: bool):
    ours = scored(module.eval(), batch, share_prefix=share_prefix).result
    assert ours.generated is None
    close(ours.label_logprobs, score_plain(module.model, batch))


def test_predict_gives_the_channel_scores_of_the_plain_path(module: RopeGPT2Module, batch: PromptBatch):
    ours = scored(module.eval(), batch, scoring="channel").result
    close(ours.label_logprobs, score_channel_plain(module.model, batch))


class Tight(FewShotModule):
    """A model that has memory for so many prompts at once."""

    fits, tried = SIZE, ()

    def _score(self, batch: PromptBatch) -> ScoredBatch:
        self.tried = (*self.tried, len(batch.prompts))
        if len(batch.prompts) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        found = super()._score(batch)
        answers = torch.tensor([prompt.query.row % 3 for prompt in batch.prompts], dtype=torch.int8)
        return found._replace(generated=answers) if self.answers else found


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize("scoring", ["likelihood", "channel"])
@pytest.mark.parametrize("fits", [1, 2, 5, 10, SIZE])
def test_with_less_memory_scores_and_their_order_are_the_same(module: RopeGPT2Module, batch: PromptBatch, fits, scoring, answers):
    tight = Tight(module.eval().model, scoring).eval()
    tight.fits, tight.answers = fits, answers
    ours = tight.predict_step(batch, 0)
    close(ours.label_logprobs, scored(module, batch, scoring=scoring).result.label_logprobs)
    assert (ours.generated is not None) == answers
    assert not answers or ours.generated.tolist() == [prompt.query.row % 3 for prompt in batch.prompts]
    assert sum(size for size in tight.tried if size <= fits) == SIZE


def test_memory_for_not_even_one_prompt_is_an_error(module: RopeGPT2Module, batch: PromptBatch):
    tight = Tight(module.eval().model).eval()
    tight.fits = 0
    with pytest.raises(torch.OutOfMemoryError):
        tight.predict_step(batch, 0)


def test_a_failed_pass_has_let_go_of_its_tensors_before_the_halves_are_tried(module: RopeGPT2Module, batch: PromptBatch):
    """An exception that is being handled keeps its frames, and so the memory that is lacking."""
    alive: list[int] = []

    class Large(torch.Tensor):
        pass

    class Leaking(Tight):
        def _score(self, batch: PromptBatch) -> ScoredBatch:
            alive.append(sum(type(item) is Large for item in gc.get_objects()))
            large = torch.zeros(3).as_subclass(Large)
            return super()._score(batch) if large is not None else None

    tight = Leaking(module.eval().model).eval()
    tight.fits, tight.answers = 3, False
    tight.predict_step(batch, 0)
    assert len(alive) > 3
    assert not any(alive)


# Verification.


@pytest.mark.parametrize("scoring", ["likelihood", "channel"])
@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
def test_one_prompt_of_so_many_is_verified_whatever_the_batches(module: RopeGPT2Module, batch: PromptBatch, scoring, every):
    fewshot = FewShotModule(module.eval().model, scoring, verify_every=every).eval()
    for part in (batch, *batch.halves(), batch.only(4)):
        fewshot.predict_step(part, 0)
    assert fewshot.verified == math.ceil((2 * SIZE + 1) / every)
    assert fewshot.largest_difference < 1e-4


def test_with_less_memory_no_prompt_is_verified_twice(module: RopeGPT2Module, batch: PromptBatch):
    tight = Tight(module.eval().model, verify_every=1).eval()
    tight.fits, tight.answers = 3, False
    tight.predict_step(batch, 0)
    assert tight.verified == SIZE


@pytest.mark.parametrize("place", [0, 4, SIZE - 1])
@pytest.mark.parametrize("wrong", [1e-3, -1.0, math.nan])
@pytest.mark.parametrize("scoring", ["likelihood", "channel"])
def test_a_difference_stops_the_run_and_names_row_and_condition(module: RopeGPT2Module, batch, scoring, wrong, place, monkeypatch):
    name = f"score_{'labels' if scoring == 'likelihood' else 'channel'}"
    score = getattr(module_file, name)

    def differ(*arguments):
        logprobs = score(*arguments)
        logprobs[place, 1] += wrong
        return logprobs

    monkeypatch.setattr(module_file, name, differ)
    with pytest.raises(VerificationError, match=f"--verify: row {place + 1}, condition 3: .*by the fast path, .*by the plain one"):
        scored(module.eval(), batch, scoring=scoring, verify_every=1)


def test_nothing_is_verified_unasked(module: RopeGPT2Module, batch: PromptBatch):
    fewshot = scored(module.eval(), batch)
    assert (fewshot.verified, fewshot.largest_difference) == (0, 0.0)


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_verified_by_its_own_measure(module: RopeGPT2Module, batch: PromptBatch, autocast: bool):
    if not autocast:
        module = module.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        fewshot = scored(module.eval(), batch, verify_every=1)
    assert fewshot.verified == SIZE
    assert fewshot.largest_difference > 0


# Accuracy in validate and test.


@pytest.mark.parametrize("step", ["validation_step", "test_step"])
def test_accuracy_is_the_share_of_prompts_whose_label_is_predicted(module: RopeGPT2Module, batch: PromptBatch, step, monkeypatch):
    fewshot = FewShotModule(module.eval().model).eval()
    monkeypatch.setattr(fewshot, "log", lambda *_, **__: None)
    for part in (batch, *batch.halves()):
        getattr(fewshot, step)(part, 0)
    metric = fewshot.val_accuracy if step == "validation_step" else fewshot.test_accuracy
    predicted = score_plain(module.model, batch).argmax(dim=-1).tolist()
    right = [LABELS[label] == prompt.query.sentiment for label, prompt in zip(predicted, batch.prompts, strict=True)]
    assert 0 < sum(right) < SIZE
    assert float(metric.compute()) == pytest.approx(sum(right) / SIZE)


def test_new_weights_are_not_scored_behind_old_demonstrations(module: RopeGPT2Module, batch: PromptBatch):
    fewshot = FewShotModule(module.eval().model).eval()
    before = fewshot.predict_step(batch, 0).label_logprobs
    with torch.no_grad():
        module.model.transformer.wte.weight.mul_(3.0)
    fewshot.on_validation_epoch_start()
    ours = fewshot.predict_step(batch, 0).label_logprobs
    close(ours, score_plain(module.model, batch))
    assert not torch.allclose(ours, before)
