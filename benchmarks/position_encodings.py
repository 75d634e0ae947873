"""Position encodings beyond the training length: a small GPT-2 with each of them, trained alike, at 1, 2, 4 and 8 times that.

    D=data/wikitext2; python benchmarks/position_encodings.py --train $D/train.txt.gz --validation $D/valid.txt.gz --text $D/test.txt.gz

Trains configs/encodings.yaml for each encoding and seed (`python train.py fit`), then measures each with `rope-gpt2 length`; RoPE also with
every scaling that needs no training, by the factor of each length. What stands in --folder already is not made again: an interrupted
benchmark goes on where it was. Prints a table of perplexities, means over seeds with 95 % t intervals (of the mean loss, over training
runs), and what they are relative to the training length; writes JSON, and draws it.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from rich.console import Console
from rich.table import Table
from scipy import stats
from tqdm import tqdm

from rope_gpt2.model.configuration import POSITION_ENCODINGS

ROOT = Path(__file__).resolve().parent.parent
SCALINGS = ("linear", "dynamic", "yarn", "longrope")
MULTIPLES = (1, 2, 4, 8)
CONSOLE = Console(width=None if sys.stdout.isatty() else 120)


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--train", required=True, help="text to train on")
    parser.add_argument("--validation", required=True, help="text whose loss fit shows")
    parser.add_argument("--text", required=True, help="text to measure on")
    parser.add_argument("--tokens", type=int, default=65_536, help="of that text, as many")
    parser.add_argument("--encodings", nargs="+", choices=POSITION_ENCODINGS, default=list(POSITION_ENCODINGS), help="what to compare")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the trainings")
    parser.add_argument("--steps", type=int, help="of each training; by default as the config says")
    parser.add_argument("--folder", default="logs/encodings", help="for checkpoints and measurements")
    parser.add_argument("--cache-dir", default="data/cache", help="for tokens")
    parser.add_argument("--output", default="benchmarks/results/encodings.json", help="JSON to write")
    parser.add_argument("--plot", default="docs/encodings.svg", help="figure to draw")
    return parser


def train(options: argparse.Namespace, encoding: str, seed: int) -> Path:
    """Checkpoint folder of an encoding and seed, trained unless it is there."""
    folder = Path(options.folder) / f"{encoding}-{seed}"
    if not (folder / "pretrained" / "config.json").is_file():
        command = [sys.executable, str(ROOT / "train.py"), "fit", "--config", str(ROOT / "configs/encodings.yaml")]
        command += ["--seed_everything", str(seed), "--model.position_encoding", encoding]
        command += ["--data.init_args.train", options.train, "--data.init_args.validation", options.validation]
        command += ["--data.init_args.cache_dir", options.cache_dir, "--trainer.default_root_dir", str(folder)]
        command += ["--export.folder", str(folder / "pretrained")]
        run(command + (["--trainer.max_steps", str(options.steps)] if options.steps else []))
    return folder / "pretrained"


def measure(options: argparse.Namespace, checkpoint: Path, scaling: str) -> dict[str, Any]:
    """What `rope-gpt2 length` says of a checkpoint, measured unless it is there."""
    file = checkpoint.parent / f"length-{scaling}.json"
    if not file.is_file():
        command = [str(Path(sys.executable).with_name("rope-gpt2")), "length", "--checkpoint", str(checkpoint), "--text", options.text]
        command += ["--lengths", *map(str, MULTIPLES), "--tokens", str(options.tokens), "--precision", "32-true", "--output", str(file)]
        run(command + (["--rope-type", scaling, "--rope-factor", "auto"] if scaling != "none" else []))
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def run(command: list[str]) -> None:
    """A command of the package; what it says is shown only if it fails."""
    done = subprocess.run(command, cwd=Path.cwd(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}\nexit code {done.returncode}")


def summarize(runs: Sequence[dict[str, Any]], windows: str, positions: str) -> list[dict[str, Any]]:
    """For each multiple: perplexity over the seeds' runs, its interval, and its ratio to that at the training length, with interval."""
    rows = []
    for multiple in MULTIPLES:
        losses, base = (np.array([_loss(run, at, windows, where) for run in runs]) for at, where in ((multiple, positions), (1, "all")))
        if np.isnan(losses).any():
            rows.append({"multiple": multiple, "perplexity": None})
            continue
        row: dict[str, Any] = {"multiple": multiple, "perplexity": math.exp(losses.mean()), "interval": _interval(losses)}
        row |= {"ratio": math.exp((losses - base).mean()), "ratio_interval": _interval(losses - base), "seeds": np.exp(losses).tolist()}
        rows.append(row)
    return rows


def _loss(run: dict[str, Any], multiple: float, windows: str, positions: str) -> float:
    for result in run["results"]:
        if result["multiple"] == multiple and result["windows"] == windows and result.get("positions") == positions:
            return float(result["loss"])
    return math.nan


def _interval(values: np.ndarray) -> list[float] | None:
    """95 % t interval of a mean of logarithms, as a factor or perplexity."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return [math.exp(values.mean() - half), math.exp(values.mean() + half)]


def show(rows: dict[str, list[dict[str, Any]]], title: str) -> None:
    """Print a table."""
    table = Table(title=title)
    for name in ("encoding", *(f"{multiple} × L" for multiple in MULTIPLES), "8 × L over L"):
        table.add_column(name, justify="left" if name == "encoding" else "right")
    for name, cells in rows.items():
        shown = [_cell(cell["perplexity"], cell.get("interval")) for cell in cells]
        last = cells[-1]
        table.add_row(name, *shown, _cell(last.get("ratio"), last.get("ratio_interval"), ".2f"))
    CONSOLE.print(table)


def _cell(value: float | None, interval: list[float] | None, digits: str = ".1f") -> str:
    if value is None:
        return "–"
    return f"{value:{digits}}" + (f" ({interval[0]:{digits}} to {interval[1]:{digits}})" if interval else "")


def draw(rows: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Perplexity over length, a line each, with intervals."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8.0, 4.0), layout="constrained")
    for number, (name, cells) in enumerate(rows.items()):
        cells = [cell for cell in cells if cell["perplexity"] is not None]
        values = np.array([cell["perplexity"] for cell in cells])
        errors = None
        if all(cell["interval"] for cell in cells):
            low, high = np.array([cell["interval"] for cell in cells]).T
            errors = np.stack((values - low, high - values))
        marker, line = "osD^vPX<>*"[number % 10], "--" if name.startswith("RoPE, ") else "-"
        axes.errorbar(
            [cell["multiple"] for cell in cells], values, errors, marker=marker, markersize=4, linestyle=line, capsize=2, label=name
        )
    axes.set(xscale="log", xlabel="length of the window, in training lengths", ylabel="perplexity (windows apart)")
    axes.set_xticks(MULTIPLES, [str(multiple) for multiple in MULTIPLES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = build_parser().parse_args(arguments)
    jobs = [(encoding, seed) for seed in options.seeds for encoding in options.encodings]
    measured: dict[str, list[dict[str, Any]]] = {}
    for encoding, seed in tqdm(jobs, unit=" training", disable=not sys.stderr.isatty()):
        checkpoint = train(options, encoding, seed)
        for scaling in ("none", *(SCALINGS if encoding == "rope" else ())):
            name = {"rope": "RoPE", "alibi": "ALiBi"}.get(encoding, encoding) + (f", {scaling}" if scaling != "none" else "")
            measured.setdefault(name, []).append(measure(options, checkpoint, scaling))
    kinds = [("apart", "all"), ("sliding", "all"), ("sliding", "beyond")]
    tables = {f"{windows}, {where}": {name: summarize(runs, windows, where) for name, runs in measured.items()} for windows, where in kinds}
    for title, rows in tables.items():
        show(rows, f"perplexity, windows {title} positions, {len(options.seeds)} seeds")
    any_run = next(iter(measured.values()))[0]
    facts = {"training_length": any_run["training_length"], "tokens": any_run["tokens"], "seeds": options.seeds, "steps": options.steps}
    machine = describe_machine(("torch", "lightning", "transformers"))
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(facts | {"machine": machine, "tables": tables}, indent=1) + "\n", encoding="utf-8")
    draw(tables["apart, all"], Path(options.plot))
    print(f"wrote {options.output} and {options.plot}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
