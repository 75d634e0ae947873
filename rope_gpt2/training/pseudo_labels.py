"""Unlabelled documents → reviews with the labels that a model gives them (self-training: Yarowsky 1995; Du et al. 2021 for SST-2).

A model that learned from few labels reads many unlabelled reviews; those that it is sure of become training reviews for the next one.
"""

import csv
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.batches import collate_prompts, group_prompts
from rope_gpt2.fewshot.conditions import Condition
from rope_gpt2.fewshot.demonstrations import DemonstrationSampler, Pool
from rope_gpt2.fewshot.examples import COLUMNS, LABELS, Example
from rope_gpt2.fewshot.prompts import PromptBuilder
from rope_gpt2.fewshot.scoring import PrefixCache, score_labels
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer
from rope_gpt2.spreadsheets import MARK, guard
from rope_gpt2.training.whole_files import open_whole

BATCH_TOKENS = 2048  # of documents in a batch: what a CPU's caches hold


class Labeller:
    """Gives documents the probability of being positive, without demonstrations.

    Args:
        model: a causal language model, on its device.
        tokenizer: the model's.
        max_length: tokens of a prompt; a longer document is cut at its end.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.model = model
        condition = Condition(shots=0)
        self._builder = PromptBuilder(
            tokenizer, Template(condition.template), Verbalizer(condition.label_words), max_length, trim_queries=True, later=False
        )
        self._sampler = DemonstrationSampler(Pool([]), condition)

    @torch.inference_mode()
    def probabilities(self, documents: Sequence[str]) -> torch.Tensor:
        """[N] float32 probabilities of `positive` against `negative`, in the order of N documents."""
        queries = [Example(row, text, LABELS[0]) for row, text in enumerate(documents, start=1)]  # the label is never looked at
        prompts = self._builder.build(self._sampler, self._builder.encode(queries))
        cache = PrefixCache()
        found = torch.empty(len(documents))
        for group in group_prompts(prompts, BATCH_TOKENS):
            batch = collate_prompts(group, self._builder.label_token_ids).to(self.model.device)
            logprobs = score_labels(self.model, batch, cache).float()
            rows = torch.tensor([prompt.query.row - 1 for prompt in group.prompts])
            found[rows] = logprobs.softmax(dim=-1)[:, 1].cpu()
        return found


def choose(
    labelled: Iterable[tuple[Sequence[str], torch.Tensor]], min_confidence: float, count: int, seed: int
) -> list[tuple[str, str, float]]:
    """A random half of positive and of negative documents among those that the model is sure of.

    Args:
        labelled: documents and their probabilities of being positive, piece by piece.
        min_confidence: least probability of the likelier label, in [0.5, 1].
        count: documents of both labels together, at most; 0 for as many as the rarer label has, twice.
        seed: which.

    Returns:
        (document, label, confidence) of the chosen, in random order, as many of one label as of the other.

    Raises:
        InputError: if no document of a label is sure enough.
    """
    sure: dict[str, list[tuple[str, str, float]]] = {label: [] for label in LABELS}
    seen: set[str] = set()
    for documents, probabilities in labelled:
        for document, probability in zip(documents, probabilities.tolist(), strict=True):
            label = LABELS[probability >= 0.5]
            confidence = max(probability, 1 - probability)
            if confidence >= min_confidence and document not in seen:
                seen.add(document)
                sure[label].append((document, label, confidence))
    half = min(len(documents) for documents in sure.values())
    if not half:
        missing = next(label for label, documents in sure.items() if not documents)
        raise InputError(f"no document is {missing} with a confidence of at least {min_confidence}; lower --min-confidence")
    half = min(half, count // 2) if count else half
    generator = random.Random(f"pseudo labels {seed}")
    chosen = [item for documents in sure.values() for item in generator.sample(documents, half)]
    generator.shuffle(chosen)
    return chosen


def write_labelled(chosen: Sequence[tuple[str, str, float]], path: Path) -> None:
    """`review,sentiment,confidence,apostrophe`, whole or not at all; no review is a formula to a spreadsheet (rope_gpt2/spreadsheets.py).

    Raises:
        InputError: if the file cannot be written.
    """
    with open_whole(path, "--output") as file:
        # every field in quotes: a semicolon, which parts columns in some countries, begins no cell
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow((*COLUMNS, "confidence", MARK))
        for document, label, confidence in chosen:
            review, mark = guard(document)
            writer.writerow((review, label, f"{confidence:.4f}", mark))


def limited(pieces: Iterable[Sequence[str]], limit: int) -> Iterator[Sequence[str]]:
    """The first documents only, this many; 0 for all."""
    left = limit
    for piece in pieces:
        yield piece[:left] if limit else piece
        left -= len(piece)
        if limit and left <= 0:
            return
