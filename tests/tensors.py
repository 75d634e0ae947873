"""Tensors of two implementations, one beside the other."""

from typing import Any

import torch


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, **tolerances: Any) -> None:
    """Equal to 1e-5, absolute and relative, or to the tolerances of `torch.testing.assert_close` that are given."""
    torch.testing.assert_close(ours, theirs, **({"rtol": 1e-5, "atol": 1e-5} | tolerances))
