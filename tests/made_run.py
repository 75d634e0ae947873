"""A run with made-up scores, and the folder that it leaves."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rope_gpt2.fewshot import pieces, run_folder
from rope_gpt2.fewshot.batches import Item
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.examples import LABELS, Example
from rope_gpt2.fewshot.pieces import begin, end, write_json
from rope_gpt2.fewshot.prompts import Prompt
from rope_gpt2.fewshot.run_folder import write_reviews, write_scores
from rope_gpt2.fewshot.scores import Demonstration
from rope_gpt2.fewshot.scoring import ScoredBatch

WINDOW = 5  # rows
INPUTS = [("contextual", "N/A"), ("contextual", ""), ("domain", "some words"), ("domain", "of films"), ("domain", "é"), ("pmi", "")]
CONDITIONS = [
    Condition(0),
    Condition(2, 1, 1, "none", "random", "{text}\n{label}\n", ("bad", "gut, «sehr»")),
    Condition(4, selection="similar"),
]
SHOWN = [
    (),
    (Demonstration(7, 'A "quoted", review.\nOf two lines', "negative", None), Demonstration(3, "Génial.", "positive", None)),
    None,
]
PLAN = {"shots": [0, 4], "precision": "32-true", "data": {"path": "demo.csv", "sha256": "ab"}}


class Made:
    """A run with random scores: what was scored, and the folder that it left."""

    def __init__(self, folder: Path, rows: int = 12, generated: bool = False, content_free: bool = True, seed: int = 0) -> None:
        self.folder, self.rows, self.generated = folder, rows, generated
        self.inputs = INPUTS if content_free else []
        self.windows = -(-rows // WINDOW)
        generator = torch.Generator().manual_seed(seed)
        self.queries = [Example(row, f"review, «{row}»\n", LABELS[row % 3 % 2]) for row in range(1, rows + 1)]
        self.logprobs = -10 * torch.rand(len(CONDITIONS), rows, 2, generator=generator)
        self.free = -10 * torch.rand(len(CONDITIONS), len(self.inputs), 2, generator=generator)
        self.answers = torch.randint(0, 3, (len(CONDITIONS), rows), generator=generator, dtype=torch.int8)
        self.pieces = begin(folder, PLAN, resume=False)

    @property
    def items(self) -> list[Item]:
        return [Item(window, condition) for window in range(self.windows) for condition in range(len(CONDITIONS))]

    def write_piece(self, item: Item) -> None:
        """In any order of rows, as batches sorted by length come."""
        rows = range(item.window * WINDOW, min(self.rows, (item.window + 1) * WINDOW))
        lines = [
            (
                Prompt(self.queries[row], (1,), (2,), row % 3, row % 4 == 1),
                self.logprobs[item.condition, row],
                self.answers[item.condition, row],
            )
            for row in rows
        ]
        for place in range(len(self.inputs) if item.window == 0 else 0):
            free = Prompt(Example(-place - 1, "", LABELS[0]), (1,), (2,), dropped=5, trimmed=True)
            lines.append((free, self.free[item.condition, place], torch.tensor(0, dtype=torch.int8)))
        random.Random(0).shuffle(lines)
        prompts, logprobs, answers = zip(*lines, strict=True)
        self.pieces.write(item, prompts, ScoredBatch(torch.stack(logprobs), torch.stack(answers) if self.generated else None))

    def finish(self) -> "Made":
        for item in self.items:
            if not self.pieces.is_done(item):
                self.write_piece(item)
        write_reviews(iter(self.queries), self.folder / run_folder.REVIEWS)
        write_scores(self.folder, self.pieces, self.windows, CONDITIONS, SHOWN, self.inputs, self.generated)
        write_json({"plan": PLAN, "seconds": 1.5}, self.folder / pieces.MANIFEST)
        end(self.folder)
        return self


def files(folder: Path) -> dict[str, bytes]:
    """Path in the folder → content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite_scores(folder: Path, change) -> pa.Table:
    """The table of scores, changed; in one group."""
    table = change(pq.read_table(folder / run_folder.SCORES))
    pq.write_table(table, folder / run_folder.SCORES)
    return table
