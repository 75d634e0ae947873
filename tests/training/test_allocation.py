"""Memory that a step frees is there for the next one, in a process of its own: malloc's settings hold until the end."""

import subprocess
import sys

import pytest

from rope_gpt2.training import allocation

MEGABYTES, TIMES, ROUNDS = 64, 8, 3
COUNT_FAULTS = f"""
import resource, sys
import torch
from rope_gpt2.training.allocation import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "kept" else False
for _ in range({TIMES}):  # the first few still find their place
    torch.ones({MEGABYTES} << 20, dtype=torch.uint8)
counts = []
for _ in range({ROUNDS}):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({TIMES}):
        torch.ones({MEGABYTES} << 20, dtype=torch.uint8)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(int(kept), min(counts))  # the least: what else is allocated meanwhile may take a tensor's place once
"""


def faults(kind: str) -> tuple[int, int]:
    """Whether memory is kept, and page faults of making and dropping the same large tensor again, in the best round."""
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS, kind], capture_output=True, text=True, check=True)
    kept, count = done.stdout.split()
    return int(kept), int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc's settings are glibc's")
def test_a_large_tensor_that_is_made_again_touches_no_new_pages():
    kept, count = faults("kept")
    if not kept:
        pytest.skip("this C library has no mallopt")
    pages = MEGABYTES * 256 * TIMES  # of 4 KiB
    assert count < pages / 100
    assert faults("plain")[1] > 10 * max(count, 1)  # else the setting would do nothing


def test_another_system_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    assert not allocation.keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocation.sys, "platform", "linux")
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: object())
    assert not allocation.keep_freed_memory()
