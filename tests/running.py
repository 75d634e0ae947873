"""Running the commands in tests, and reading what they leave."""

import sys
from pathlib import Path

import pandas as pd

from rope_gpt2.commands.main import main

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "data" / "demo.csv"
TINY = {
    "trainer.max_epochs": "2",
    "model.vocab_size": "512",
    "model.n_embd": "32",
    "model.n_positions": "192",
    "data.batch_size": "8",
    "trainer.enable_progress_bar": "false",
}


def fit_arguments(folder: Path, **options: str) -> list[str]:
    """`fit` of a tiny model on the demo sentences."""
    chosen = TINY | {"trainer.default_root_dir": str(folder)} | {name.replace("__", "."): value for name, value in options.items()}
    return ["fit", "--config", "configs/smoke.yaml", *(part for name, value in chosen.items() for part in (f"--{name}", value))]


def call(arguments: list[str]) -> int:
    """A command in this process, with the command line put back."""
    before = sys.argv
    try:
        return main(arguments)
    finally:
        sys.argv = before


def predictions(folder: Path, **settings: int | str) -> pd.DataFrame:
    """predictions.csv of a folder (or a file), the rows with these settings."""
    table = pd.read_csv(folder / "predictions.csv" if folder.is_dir() else folder)
    for name, value in settings.items():
        table = table[table[name] == value]
    return table.reset_index(drop=True)
