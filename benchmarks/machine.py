"""What a benchmark says of the machine that it ran on."""

import contextlib
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import rope_gpt2


def describe_machine(packages: Sequence[str], device: str = "cpu") -> dict[str, Any]:
    """Processor, threads, and versions of Python, this package and some others (None where one is missing).

    Args:
        packages: names as pip knows them.
        device: "cpu" or "cuda": which processor is named.
    """
    # this package's own is that of the code that runs: an editable installation may have been made at another version
    versions: dict[str, str | None] = {"python": platform.python_version(), "rope-gpt2": rope_gpt2.__version__}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux names the model here, and nowhere else
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor)
    return {
        "processor": torch.cuda.get_device_name() if device == "cuda" else processor,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions,
    }
