"""The module: its loss, its optimiser, its schedule."""

import gc
import math

import lightning as L
import pytest
import torch
from torch.nn import functional

from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.batches import Item, PromptBatch
from rope_gpt2.fewshot.episodes import IGNORED, EpisodeBatch
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.scoring import ScoredBatch, score_channel_plain, score_plain
from rope_gpt2.training import module as module_file
from rope_gpt2.training.module import FewShotModule, RopeGPT2Module, rope_parameters, token_losses


@pytest.fixture
def module() -> RopeGPT2Module:
    torch.manual_seed(0)
    return RopeGPT2Module(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, dropout=0.0, lm_loss_weight=0.5)


def test_the_loss_is_the_weighted_sum_of_the_means_over_text_and_labels(module: RopeGPT2Module, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    ids = torch.randint(0, 64, (2, 10))
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = IGNORED
    targets[1, 6:] = IGNORED
    is_label = torch.zeros(2, 10, dtype=torch.bool)
    is_label[0, 4] = is_label[0, 8] = is_label[1, 5] = True
    ours = module.training_step(EpisodeBatch(ids, targets, is_label), 0)
    log_probabilities = module.model(ids).logits.log_softmax(-1)
    text, label = [], []
    for row in range(2):
        for place in range(10):
            if targets[row, place] != IGNORED:
                (label if is_label[row, place] else text).append(-log_probabilities[row, place, targets[row, place]])
    theirs = 0.5 * torch.stack(text).mean() + torch.stack(label).mean()
    torch.testing.assert_close(ours, theirs)


def test_token_losses_are_those_of_the_full_logits():
    hidden, head, targets = torch.randn(2, 5, 8), torch.randn(11, 8), torch.randint(0, 11, (2, 5))
    theirs = functional.cross_entropy((hidden @ head.T).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(token_losses(hidden, head, targets), theirs)


def test_weight_decay_is_on_matrices_only(module: RopeGPT2Module):
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module._trainer = trainer
    trainer.__class__ = type("Trainer", (L.Trainer,), {"estimated_stepping_batches": 10})
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert {parameter.ndim for parameter in groups[0]["params"]} == {2}
    assert groups[0]["weight_decay"] == 0.1
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}
    assert groups[1]["weight_decay"] == 0.0
    assert sum(len(group["params"]) for group in groups) == len(list(module.parameters()))


def test_the_schedule_warms_up_and_ends_at_its_floor():
    module = RopeGPT2Module(vocab_size=64, n_embd=16, n_layer=1, n_head=2, learning_rate=1.0, min_learning_rate=0.1, warmup_steps=4)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.__class__ = type("Trainer", (L.Trainer,), {"estimated_stepping_batches": 20})
    module._trainer = trainer
    factor = module.configure_optimizers()["lr_scheduler"]["scheduler"].lr_lambdas[0]
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    rates = [factor(step) for step in range(4, 21)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert factor(12) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_an_unknown_scoring_is_refused(module: RopeGPT2Module):
    with pytest.raises(InputError, match="scoring must be one of likelihood, channel, generate, got 'guess'; choose one"):
        FewShotModule(module.model, scoring="guess")


@pytest.mark.parametrize("rope_type", ["default", "linear", "dynamic", "yarn", "llama3"])
def test_every_rope_type_is_reached_from_flat_scalars(rope_type: str):
    module = RopeGPT2Module(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2, rope_type=rope_type, rope_factor=2.0)
    assert module.model.config.rope_parameters["rope_type"] == rope_type
    assert rope_parameters(rope_type, 10000.0, 2.0, 1.0).get("factor") == (None if rope_type == "default" else 2.0)


# Scoring.

SIZE = 11


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
