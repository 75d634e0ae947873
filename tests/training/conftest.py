"""What the tests of training share: a small module whose log can be read."""

import pytest
import torch
from small_modules import SHAPE, make_trainer

from rope_gpt2.training.module import RopeGPT2Module


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> RopeGPT2Module:
    """Without a trainer's loop; what it logs stands in `logged`."""
    torch.manual_seed(0)
    module = RopeGPT2Module(**SHAPE, lm_loss_weight=0.5)
    module._trainer = make_trainer()
    module.logged = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: module.logged.update({name: value}))
    return module
