"""Scoring as one program of torch.export: token ids in, label log-probabilities out, without this package.

What stands in the file: the network, the label words' token ids, and beside the program, as files of its archive, `tokenizer.json` and
`scoring.json` (layout, labels, label words, special tokens). Batch size and length are free.

Let B be batch, L length, V vocabulary, C labels, T tokens of a label word.
"""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.errors import InputError, VerificationError
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.pieces import write_whole
from rope_gpt2.fewshot.prompts import Ids
from rope_gpt2.fewshot.template import Template
from rope_gpt2.fewshot.verbalizer import Verbalizer

TOLERANCE = 1e-4  # nats in float32, between the program and the module that it was made from; another order of sums gives 1e-6
LONGEST = 2**20  # tokens; a bound that torch.export is happy with, where the model sets none


class LabelScorer(nn.Module):
    """Log-probability of each label word after each prompt, by a whole pass over right-padded prompts.

    Args:
        model: a causal language model of transformers in evaluation mode; no hidden state of it may depend on what stands behind.
        label_token_ids: token ids of each label word.
    """

    def __init__(self, model: PreTrainedModel, label_token_ids: Sequence[Ids]) -> None:
        super().__init__()
        self.model = model
        self.label_token_ids = tuple(map(tuple, label_token_ids))

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Score.

        Args:
            input_ids: [B, L] int64, padded on the right with any token.
            lengths: [B] int64, tokens of each prompt, from 1 to L.

        Returns:
            [B, C] float32, in nats.
        """
        last = lengths[:, None] - 1  # (batch, 1)
        first = self._logprobs(input_ids, last)[:, 0]  # (batch, vocabulary)
        columns = []
        for ids in self.label_token_ids:
            score = first[:, ids[0]]
            if len(ids) > 1:  # the further tokens, each given those before it
                word = input_ids.new_tensor(ids).expand(input_ids.shape[0], -1)  # (batch, tokens)
                places = last + torch.arange(1, len(ids), device=word.device)
                continued = torch.cat((input_ids, torch.zeros_like(word[:, 1:])), dim=1).scatter(1, places, word[:, :-1])
                score = score + self._logprobs(continued, places).gather(2, word[:, 1:, None]).sum(dim=(1, 2))
            columns.append(score)
        return torch.stack(columns, dim=-1)

    def _logprobs(self, ids: Tensor, places: Tensor) -> Tensor:
        """[B, K, V] float32 log-probabilities of the token that follows each of `places` [B, K]."""
        states = self.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        wanted = states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))
        logits: Tensor = self.model.get_output_embeddings()(wanted)
        return logits.float().log_softmax(dim=-1)


@torch.no_grad()
def export_scorer(model: PreTrainedModel, label_token_ids: Sequence[Ids], longest: int | None = None) -> ExportedProgram:
    """The scorer as a program, checked against the module at other shapes than it was traced with.

    Args:
        model: in evaluation mode.
        label_token_ids: token ids of each label word.
        longest: tokens that the model can read; None for no end.

    Raises:
        InputError: if the model's code cannot be exported.
        VerificationError: if the program gives other numbers.
    """
    scorer = LabelScorer(model, label_token_ids).eval()
    further = max(map(len, label_token_ids)) - 1
    batch, length = Dim("batch", min=1, max=LONGEST), Dim("length", min=1, max=(longest or LONGEST) - further)
    example = torch.zeros(3, 5, dtype=torch.long), torch.tensor([5, 3, 2])
    shapes = {"input_ids": {0: batch, 1: length}, "lengths": {0: batch}}
    try:
        program = torch.export.export(scorer, example, dynamic_shapes=shapes)
    except Exception as error:  # of torch's compiler, of many classes
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{type(model).__name__} cannot be exported by torch.export ({reason}); export another model") from error
    generator = torch.Generator().manual_seed(0)
    for size, longer in ((1, 1), (2, 9)):
        ids = torch.randint(model.config.vocab_size, (size, longer), generator=generator)
        lengths = torch.arange(longer, longer - size, -1)
        ours, theirs = scorer(ids, lengths), program.module()(ids, lengths)
        allowed = TOLERANCE if model.dtype == torch.float32 else 0.1
        if not torch.allclose(ours, theirs, atol=allowed, rtol=0):
            raise VerificationError(f"the exported program differs by {(ours - theirs).abs().max():.2g} nats; torch.export is at fault")
    return program


def write_scorer(
    program: ExportedProgram, tokenizer: PreTrainedTokenizerBase, template: Template, verbalizer: Verbalizer, path: Path
) -> None:
    """Write a program with what is needed to make its inputs, whole or not at all.

    Args:
        program: of `export_scorer`.
        tokenizer: a fast one, as `tokenizer.json`.
        template, verbalizer: how prompts are laid out, in `scoring.json`.
        path: FILE.pt2.
    """
    described: dict[str, Any] = {
        "inputs": {"input_ids": "[B, L] int64, padded on the right with any token", "lengths": "[B] int64, tokens of each prompt"},
        "output": "[B, C] float32, log-probability of each label word after the prompt, in nats",
        "labels": list(LABELS),
        "label_words": list(verbalizer.words),
        "label_token_ids": [list(ids) for ids in verbalizer.token_ids(tokenizer, template)],
        "template": template.text,
        "query": template.query("{text}"),
        "add_special_tokens": False,
    }
    texts = {"tokenizer.json": tokenizer.backend_tokenizer.to_str(), "scoring.json": json.dumps(described, indent=2)}
    content = io.BytesIO()
    torch.export.save(program, content, extra_files=texts)
    write_whole(path, lambda partial: partial.write_bytes(content.getbuffer()))
