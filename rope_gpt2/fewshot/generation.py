"""Batches → labels that the model names in a greedy continuation of each prompt.

Let B be batch.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rope_gpt2.fewshot.batches import PromptBatch
from rope_gpt2.fewshot.examples import LABELS
from rope_gpt2.fewshot.foreign import forget_length
from rope_gpt2.fewshot.prompts import Ids
from rope_gpt2.fewshot.scores import UNCERTAIN
from rope_gpt2.fewshot.scoring import prepare_inputs, stands_alone
from rope_gpt2.fewshot.verbalizer import Verbalizer

MAX_NEW_TOKENS = 5  # of a generated answer, where no label word has more


@torch.no_grad()
def generate_labels(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: PromptBatch,
    verbalizer: Verbalizer,
    max_new_tokens: int | None = None,
) -> Tensor:
    """Continue each prompt greedily (batched, cached) and look for a label word in what follows, `answer_length` tokens by default.

    Returns:
        [B] int8 index of the label; `UNCERTAIN` where the text names neither label word.
    """
    max_new_tokens = max_new_tokens or answer_length(batch.label_token_ids)
    changing = stands_alone(model, batch, max_new_tokens)
    if changing and len(batch.prompts) > 1:
        return torch.cat(
            [generate_labels(model, tokenizer, batch.only(place), verbalizer, max_new_tokens) for place in range(len(batch.prompts))]
        )
    inputs = prepare_inputs(model, batch, prefix_cache=None)
    forget_length(model)
    pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    generated = model.generate(  # type: ignore[operator]
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        use_cache=not changing,
        pad_token_id=pad_token_id,
    )
    texts = tokenizer.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    found = [verbalizer.find(text) for text in texts]
    return torch.tensor([UNCERTAIN if label is None else LABELS.index(label) for label in found], dtype=torch.int8)


def answer_length(label_token_ids: Sequence[Ids]) -> int:
    """Tokens of a generated answer: `MAX_NEW_TOKENS`, or those of the longest label word, which would not be found in fewer."""
    return max(MAX_NEW_TOKENS, *map(len, label_token_ids))
