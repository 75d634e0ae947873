"""lm-evaluation-harness on the prompts that evaluate.py scores: model, queries and demonstrations in, label log-probabilities out.

Everything happens in this process and on the very model object that is given. The harness is kept at its best: its one-token logits
cache is on (its default, so a query is run once for both label words), the task is laid out by a Python function (a Jinja template would
be compiled anew for every demonstration of every query), its progress bars are hidden, and the second or more it spends on describing
the machine (`pip list`, compilers) is left out of the clock.

Let n be queries.
"""

import contextlib
import csv
import io
import json
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.examples import COLUMNS, LABELS, Example

TASK = "sst2_prompt"
TASK_FILE = Path(__file__).parent / "lm_eval" / f"{TASK}.yaml"
NEVER_CUT = 1_000_000  # tokens; the harness cuts what exceeds its max_length from the left


class HarnessRun(NamedTuple):
    """What the harness gave.

    Attributes:
        label_logprobs: [n, 2] log-probability of " negative" and " positive" in the order of the queries, in nats.
        accuracy: fraction right, by the harness's own metric.
        seconds: from the model in memory to the scores of all queries.
    """

    label_logprobs: NDArray[np.float64]
    accuracy: float
    seconds: float


def write_task(folder: Path, queries: Sequence[Example], demonstrations: Sequence[tuple[str, str]]) -> Path:
    """Write queries.csv, demonstrations.csv and a task of the harness that reads them.

    Args:
        folder: an existing folder.
        queries: what is judged.
        demonstrations: review and label shown, in the order of the prompt, oldest first.

    Returns:
        The task's YAML.

    Raises:
        InputError: for a label that the task does not know.
    """
    for _, label in demonstrations:
        if label not in LABELS:
            raise InputError(
                f"the harness shows every demonstration with its label, {' or '.join(LABELS)}, got {label!r}; give one of them"
            )
    files = {"queries": [(query.review, query.sentiment) for query in queries]}
    if demonstrations:
        files["demonstrations"] = list(demonstrations)
    for name, rows in files.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            writer.writerows((" ".join(review.split()), label) for review, label in rows)
    task: dict[str, Any] = {
        "include": str(TASK_FILE.resolve()),
        "task": TASK,
        "dataset_kwargs": {
            "data_files": {name: str(folder.resolve() / f"{name}.csv") for name in files},
            "keep_default_na": False,
            "cache_dir": str(folder.resolve() / "cache"),
        },
    }
    if not demonstrations:
        task["fewshot_split"] = None
    path = folder / f"{TASK}.yaml"
    path.write_text(json.dumps(task, indent=2) + "\n", encoding="utf-8")  # JSON is YAML
    return path


def run_harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    queries: Sequence[Example],
    demonstrations: Sequence[tuple[str, str]] = (),
    batch_size: int = 1,
    max_length: int | None = NEVER_CUT,
    bootstrap_iters: int = 0,
) -> HarnessRun:
    """Score both label words after each query by lm-evaluation-harness, in the model's own dtype.

    Args:
        model: a causal language model; `model.dtype` is the dtype of the run, the harness's log-softmax included.
        tokenizer: its tokenizer; no token is put before a prompt.
        queries: what is judged.
        demonstrations: review and label shown, in the order of the prompt; all queries share them.
        batch_size: prompts in a batch; 1 is the harness's default, and "auto" takes 64 on a CPU, having timed nothing.
        max_length: tokens; longer prompts are cut from the left. None: as many as the model's config names.
        bootstrap_iters: of the harness's standard errors; accuracy needs none.

    Raises:
        InputError: if lm_eval is not installed, or a label is unknown.
    """
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise InputError(f"lm-evaluation-harness cannot be imported ({error}); install it: pip install 'lm_eval[hf]'") from error

    with tempfile.TemporaryDirectory() as folder, _quiet():
        started = time.perf_counter()
        write_task(Path(folder), queries, demonstrations)
        tasks = TaskManager(include_path=folder, include_defaults=False)
        harness = HFLM(
            pretrained=model, backend="causal", tokenizer=tokenizer, batch_size=batch_size, max_length=max_length, add_bos_token=False
        )
        with mock.patch("lm_eval.evaluator.add_env_info"):
            results = lm_eval.simple_evaluate(
                harness,
                tasks=[TASK],
                num_fewshot=len(demonstrations),
                task_manager=tasks,
                bootstrap_iters=bootstrap_iters,
                log_samples=True,
            )
        samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
        scores = np.array([[logprob for logprob, _ in sample["filtered_resps"]] for sample in samples])
        return HarnessRun(scores, float(results["results"][TASK]["acc,none"]), time.perf_counter() - started)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, no notices about a model that is already in memory."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
