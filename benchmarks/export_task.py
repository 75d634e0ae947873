"""A run folder of evaluate.py → a folder with a task for lm-evaluation-harness: the same queries behind the same demonstrations.

python benchmarks/export_task.py results --shots 4 --seed 0 --output results/harness
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness import TASK, write_task
from script import run_script

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.run_folder import read_run


def export_task(run_folder: Path, condition: Condition, output: Path) -> Path:
    """Write the queries and one condition of a run as a task.

    Args:
        run_folder: what evaluate.py wrote.
        condition: one that it scored, in the default template with the default label words.
        output: a folder, made if it is not there.

    Returns:
        The task's YAML.

    Raises:
        InputError: if the run has no such condition, or its queries have demonstrations of their own.
    """
    run = read_run(run_folder)
    scores = run.scores
    chosen = [scored for scored in scores.conditions if scored.condition == condition]
    if not chosen or chosen[0].demonstrations is None:
        raise InputError(f"{run_folder}: scored no condition {condition} with demonstrations that all queries share; choose another")
    rows = [int(row) for row in scores.rows]
    reviews = run.reviews(rows)
    queries = [Example(row, reviews[row], LABELS[label]) for row, label in zip(rows, scores.sentiments, strict=True)]
    output.mkdir(parents=True, exist_ok=True)
    return write_task(output, queries, [(one.review, one.shown or "") for one in chosen[0].demonstrations])


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="folder that evaluate.py wrote")
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demonstration-labels", default="gold", choices=("gold", "random", "flipped"))
    parser.add_argument("--output", type=Path, default=Path("results/harness"), metavar="DIR")
    options = parser.parse_args(list(arguments))
    seed, labels = (options.seed, options.demonstration_labels) if options.shots else (0, "gold")  # without demonstrations all are one
    path = export_task(options.run, Condition(options.shots, seed, demonstration_labels=labels), options.output)
    print(f"{path} written; run it with --include_path {options.output} --tasks {TASK} --num_fewshot {options.shots}")
    return 0


if __name__ == "__main__":
    run_script(main)
