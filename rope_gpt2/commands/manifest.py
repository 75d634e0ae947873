"""What one needs to run an evaluation again, and what its scores depend on."""

import argparse
import hashlib
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from rope_gpt2 import __version__
from rope_gpt2.commands.rope_options import record_rope
from rope_gpt2.training.loaders import PromptPlan

# PyTorch's notes on reproducibility promise the same result for the same program, machine and threads on a CPU; kernels of a GPU may sum in
# another order each time
CPU_REPEATABLE = "to the bit, with the same plan, machine and number of threads"
GPU_REPEATABLE = "to rounding: PyTorch does not promise that a GPU's kernels sum in the same order each time"
_PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "numpy")
_OPTIONS = ("shots", "seeds", "orders", "demonstration_labels", "selection", "template", "label_words", "scoring")


def record_plan(options: argparse.Namespace, plan: PromptPlan, files: dict[str, Path], accelerator: str, precision: str) -> dict[str, Any]:
    """All that the scores depend on: two runs with the same plan on one machine give the same files.

    Args:
        options: of `evaluate`.
        plan: its prompts.
        files: data and pool.
        accelerator, precision: as chosen.
    """
    hashed: dict[str, Any] = {name: {"path": str(path), "sha256": _sha256(path)} for name, path in files.items()}
    checkpoint = Path(options.checkpoint)
    if options.checkpoint == "random":
        hashed["checkpoint"] = {"path": "random", "seed": options.seed, "tokenizer": options.tokenizer}
    elif checkpoint.exists():
        members = [checkpoint] if checkpoint.is_file() else sorted(path for path in checkpoint.iterdir() if path.is_file())
        hashed["checkpoint"] = {"path": str(checkpoint), "sha256": {path.name: _sha256(path) for path in members}}
    else:
        hashed["checkpoint"] = {"path": options.checkpoint}
    rope = record_rope(options)
    return {
        **{name: getattr(options, name) for name in _OPTIONS},
        **hashed,
        **({"rope": rope} if rope else {}),
        "rows": len(plan.queries),
        "content_free": list(dict.fromkeys(item.kind for item in plan.content_free)),
        "max_length": options.max_length,
        "trim_queries": options.trim_queries,
        "window_rows": plan.window_rows,
        "batch_tokens": plan.batch_tokens,
        "accelerator": accelerator,
        "precision": precision,
        "versions": {
            "python": platform.python_version(),
            "rope-gpt2": __version__,  # of the code that runs; what pip knows of an editable installation may be older
            **{name: version(name) for name in _PACKAGES},
        },
    }


def build_manifest(options: argparse.Namespace, arguments: Sequence[str], recorded: dict[str, Any], seconds: float) -> dict[str, Any]:
    """manifest.json: the command, its plan, and what may differ between two runs of one plan: device, threads, time.

    Args:
        options, arguments: of `evaluate`.
        recorded: what `record_plan` returned.
        seconds: from the start of the command (of the last one, where a run was resumed).
    """
    on_gpu = recorded["accelerator"] == "gpu"
    return {
        "command": ["evaluate.py", *arguments],
        "options": vars(options),
        "plan": recorded,
        "device": {
            "type": recorded["accelerator"],
            "name": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
            "processes": options.devices,
            "threads": torch.get_num_threads(),
        },
        "repeatable": GPU_REPEATABLE if on_gpu else CPU_REPEATABLE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
