"""A tiny model of each family, and a stream of tokens."""

import pytest
import torch
from length_models import FAMILIES, V, make_model


@pytest.fixture(params=FAMILIES)
def model(request):
    return make_model(request.param)


@pytest.fixture
def tokens():
    return torch.randint(0, V, (200,), generator=torch.Generator().manual_seed(1))
