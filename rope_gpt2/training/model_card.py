"""The README.md of a converted model: what it is, how to load it, how it was made, and what it was measured at."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from rope_gpt2.errors import InputError
from rope_gpt2.fewshot.pieces import MANIFEST, METRICS

TEMPLATE = """---
{{ card_data }}
---

# {{ name }}

{{ summary }}

| | |
|---|---|
| class | `{{ model_class }}` |
| parameters | {{ parameters }}, stored as {{ dtype }} |
| blocks, heads, embedding | {{ blocks }}, {{ heads }}, {{ embedding }} |
| vocabulary | {{ vocabulary }} tokens |
| positions | {{ positions }} |
| training length | {{ training_length }} tokens |

## Load

```python
{% if needs_package %}import rope_gpt2  # pip install rope-gpt2; registers the model with transformers
{% endif %}from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{{ address }}")
tokenizer = AutoTokenizer.from_pretrained("{{ address }}")
```

## How it was made

`rope-gpt2 convert {{ command }}` (rope-gpt2 {{ version }}) from `{{ source }}`. {{ exactness }}
{% if results %}
## Results

Few-shot accuracy of `{{ measured }}` on {{ data }}, by `rope-gpt2 evaluate`:

| shots | accuracy % | 95 % interval | majority % | n | seeds |
|--:|--:|--:|--:|--:|--:|
{% for row in results %}| {{ row.shots }} | {{ row.accuracy }} | {{ row.interval }} | {{ row.majority }} | {{ row.n }} | {{ row.seeds }} |
{% endfor %}{% endif %}
## License

None is stated here. It depends on the weights and the text that they were trained on: whoever publishes this model puts `license:` at
the head of this file.
"""


class Origin(NamedTuple):
    """How a model came about.

    Attributes:
        command: of `rope-gpt2 convert`.
        source: what was converted: a folder, a checkpoint or a name of the hub.
        exactness: a sentence on what became of its logits.
        version: of this package.
    """

    command: str
    source: str
    exactness: str
    version: str


class Results(NamedTuple):
    """What a run of evaluate gave.

    Attributes:
        checkpoint, data: what was measured, and on what.
        summaries: entries of its metrics.json with uncalibrated scores and true demonstration labels, by shots.
    """

    checkpoint: str
    data: str
    summaries: tuple[dict[str, Any], ...]


def read_results(folder: Path) -> Results:
    """The results of a run folder of evaluate.

    Raises:
        InputError: if there are none.
    """
    try:
        metrics = json.loads((folder / METRICS).read_text(encoding="utf-8"))
        options = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["options"]
        plain = [
            one
            for one in metrics["summaries"]
            if one["calibration"] == "none" and (one["demonstration_labels"] == "gold" or one["shots"] == 0)
        ]
        if not plain:
            raise ValueError("no uncalibrated accuracy with true labels")
        summaries = tuple(sorted(plain, key=lambda one: int(one["shots"])))
        return Results(_last_part(str(options["checkpoint"])), _last_part(str(options["data"])), summaries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--results {folder}: holds no finished run ({error}); give a folder that evaluate wrote") from error


def write_card(
    model: PreTrainedModel, folder: Path, dtype: torch.dtype, origin: Origin, results: Results | None = None, name: str | None = None
) -> str:
    """The text of a model card.

    Args:
        model: what stands in the folder.
        folder: where it is written.
        dtype: of the stored weights.
        origin: how it was made.
        results: measured accuracy, or None.
        name: on the hub, "owner/name"; None where it is not published.
    """
    title = (name or folder.resolve().name).split("/")[-1]
    config = model.config
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=[config.model_type, "few-shot", "sentiment"] if results else [config.model_type],
        base_model=None if Path(origin.source).exists() else origin.source,
        model_name=title if results else None,
        eval_results=[_eval_result(results, one) for one in results.summaries] if results else None,
    )
    count = model.num_parameters()
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        name=title,
        summary=_summary(config.model_type),
        model_class=type(model).__name__,
        parameters=f"{count / 1e6:.1f} million" if count >= 1e5 else str(count),
        dtype=str(dtype).removeprefix("torch."),
        blocks=config.num_hidden_layers,
        heads=config.num_attention_heads,
        embedding=config.hidden_size,
        vocabulary=config.vocab_size,
        positions=describe_positions(config),
        training_length=config.max_position_embeddings,
        needs_package=config.model_type == "rope_gpt2",
        address=name or folder.name,
        command=origin.command,
        source=origin.source if not Path(origin.source).exists() else _last_part(origin.source),
        exactness=origin.exactness,
        version=origin.version,
        measured=results.checkpoint if results else "",
        data=results.data if results else "",
        results=[_row(one) for one in results.summaries] if results else [],
    )
    return f"{card}\n"  # Jinja takes the last line end


def describe_positions(config: Any) -> str:
    """How a GPT-2, a RoPE GPT-2 or a GPT-NeoX knows positions, in words.

    >>> from transformers import GPT2Config
    >>> describe_positions(GPT2Config(n_positions=1024))
    'a learned table of 1024 positions'
    """
    encoding = getattr(config, "position_encoding", "learned" if config.model_type == "gpt2" else "rope")
    if encoding == "learned":
        return f"a learned table of {config.max_position_embeddings} positions"
    if encoding != "rope":
        return {"none": "none, the causal mask alone", "alibi": "linear biases (ALiBi)", "sinusoidal": "sinusoids"}.get(encoding, encoding)
    parameters = config.rope_parameters
    part = parameters.get("partial_rotary_factor", 1.0)
    words = [f"rotary (RoPE), base {parameters['rope_theta']:g}", f"rope type {parameters['rope_type']}"]
    if "factor" in parameters:
        words.append(f"factor {parameters['factor']:g}")
    return ", ".join([*words, "the whole of each head" if part == 1.0 else f"the first {part:g} of each head"])


def _summary(model_type: str) -> str:
    return {
        "rope_gpt2": "A causal language model: GPT-2's architecture in the form of the package rope-gpt2.",
        "gpt_neox": "A causal language model: GPT-2's architecture with rotary positions, written as a stock GPT-NeoX with a sequential "
        "residual, so that programs that know GPT-NeoX load it as it is.",
        "gpt2": "A causal language model: a stock GPT-2.",
    }[model_type]


def _row(summary: dict[str, Any]) -> dict[str, str]:
    low, high = summary["ci95"]
    return {
        "shots": str(summary["shots"]),
        "accuracy": f"{100 * summary['accuracy_mean']:.1f}",
        "interval": f"{100 * low:.1f} to {100 * high:.1f}",
        "majority": f"{100 * summary['majority_baseline']:.1f}",
        "n": str(summary["n"]),
        "seeds": str(summary["seeds"]),
    }


def _eval_result(results: Results, summary: dict[str, Any]) -> EvalResult:
    return EvalResult(
        task_type="text-classification",
        task_name="few-shot sentiment classification",
        dataset_type=results.data,
        dataset_name=results.data,
        metric_type="accuracy",
        metric_name=f"accuracy, {summary['shots']} shots",
        metric_value=round(float(summary["accuracy_mean"]), 4),
    )


def _last_part(path: str) -> str:
    """A path without the folders of the machine that it lies on."""
    return Path(path).resolve().name if Path(path).exists() else path.rstrip("/")
