"""evaluate.py on one condition, in this process: arguments in, label log-probabilities and demonstrations out."""

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rope_gpt2.commands.evaluate import evaluate
from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.run_folder import read_run


class OurRun(NamedTuple):
    """What evaluate.py left in its folder.

    Attributes:
        label_logprobs: [n, 2] log-probability of the label words in the order of the file, in nats.
        rows: [n] row of each query in its file, from 1.
        demonstrations: review and label shown, in the order of the prompt, oldest first.
        accuracy: fraction right.
        seconds: of the whole command, from reading the checkpoint, the data and the whole pool to metrics (and plots and report.html).
        seconds_to_scores: until the scores were on disk: what the harness's seconds cover, and the pool besides.
    """

    label_logprobs: NDArray[np.float32]
    rows: NDArray[np.int64]
    demonstrations: list[tuple[str, str]]
    accuracy: float
    seconds: float
    seconds_to_scores: float


def run_ours(
    checkpoint: str,
    data: Path,
    pool: Path,
    shots: int,
    precision: str | None = None,
    calibration: str | None = "none",
    max_length: int | None = None,
    limit: int = 0,
    report: bool = True,
) -> OurRun:
    """Run `evaluate.py` on one condition of seed 0.

    Args:
        checkpoint: what --checkpoint takes.
        data, pool: CSVs of the queries and of the demonstrations.
        shots: demonstrations in a prompt.
        precision, calibration, max_length: None for the command's own defaults.
        limit: the first so many queries; 0 for all.
        report: draw plots and page as well, which the harness has no counterpart of.

    Raises:
        InputError: as evaluate.py does, or if it ends with another code than 0.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--checkpoint", checkpoint, "--data", str(data), "--pool", str(pool), "--shots", str(shots), "--seeds", "1"]
        arguments += ["--output", folder, *([] if report else ["--no-report"])]
        for name, value in (("precision", precision), ("calibration", calibration), ("max-length", max_length), ("limit", limit or None)):
            if value is not None:
                arguments += [f"--{name}", str(value)]
        started = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            code = evaluate(arguments)
        seconds = time.perf_counter() - started
        if code:
            raise InputError(f"evaluate.py {' '.join(arguments)} ended with code {code}; run it alone to see why")
        run = read_run(Path(folder))
    scores = run.scores
    shown = [(demonstration.review, demonstration.shown or "") for demonstration in scores.conditions[0].demonstrations or ()]
    label_logprobs = scores.label_logprobs[0]
    accuracy = float((label_logprobs.argmax(axis=-1) == scores.sentiments).mean())
    return OurRun(label_logprobs, scores.rows, shown, accuracy, seconds, float(run.manifest["seconds"]))
