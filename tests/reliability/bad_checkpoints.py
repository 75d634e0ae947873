"""Checkpoints and tokenizers that are damaged, incomplete, of other programs, or do not fit one another."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reliability.refusals import Bad, Content
from safetensors.torch import load_file, save_file

EVALUATE = "evaluate --output out --checkpoint"
PREDICT = "predict --config fit.yaml --data.predict data/demo.csv --predictions.output out/predictions.csv --ckpt_path"


def _copy(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """A copy of the model's folder, changed."""

    def make(path: Path) -> None:
        shutil.copytree(path.parent / "model", path)
        change(path)

    return make


def _bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return _copy(lambda folder: _rewrite(folder / name, change))


def _rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def _config(**changes: Any) -> Callable[[Path], None]:
    return _bytes("config.json", lambda content: json.dumps(json.loads(content) | changes).encode())


def _weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return _copy(make)


def _header(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Weights whose safetensors header says another thing than what follows it."""

    def rewrite(content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
        return len(header).to_bytes(8, "little") + header + content[8 + length :]

    return _bytes("model.safetensors", rewrite)


def _without(*names: str) -> Callable[[Path], None]:
    return _copy(lambda folder: [(folder / name).unlink() for name in names] and None)


def _pickled(folder: Path) -> None:
    """The weights as a pickle, which could run code, in place of safetensors."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _other_shape(header: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in header if name.endswith("c_attn.weight"))
    return header | {name: header[name] | {"shape": list(reversed(header[name]["shape"]))}}


def _beyond_the_end(header: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in header if name.endswith("c_attn.weight"))
    start, end = header[name]["data_offsets"]
    return header | {name: header[name] | {"data_offsets": [start + 10**9, end + 10**9]}}


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(content: bytes) -> bytes:
        parsed = json.loads(content)
        change(parsed)
        return json.dumps(parsed).encode()

    return _bytes("tokenizer.json", rewrite)


def _grown(content: dict[str, Any]) -> None:
    """A tokenizer of one token more than the model has rows."""
    vocabulary = content["model"]["vocab"]
    for number in range(len(vocabulary), 514):
        vocabulary[f"extra{number}"] = number


class _Attack:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


FOLDERS: dict[str, tuple[Content | None, str]] = {
    "that is missing": (None, "no such folder"),
    "that is empty": (Path.mkdir, "holds no config.json"),
    "without config.json": (_without("config.json"), "holds no config.json"),
    "without weights": (_without("model.safetensors"), "the model cannot be loaded"),
    "with a config.json of no byte": (_bytes("config.json", lambda _: b""), "the model cannot be loaded"),
    "with a config.json cut off": (_bytes("config.json", lambda content: content[:40]), "the model cannot be loaded"),
    "with a config.json that is a list": (_bytes("config.json", lambda _: b"[]"), "the model cannot be loaded"),
    "with a config.json in Latin-1": (_bytes("config.json", lambda _: b'{"model_type": "\xe9"}'), "the model cannot be loaded"),
    "of an unknown kind of model": (_config(model_type="rope_gpt3"), "rope_gpt3"),
    "of no kind of model": (_config(model_type=None), "the model cannot be loaded"),
    "of a model that is no language model": (_config(model_type="vit"), "the model cannot be loaded"),
    "with an unknown type of rope": (_config(rope_parameters={"rope_type": "spiral"}), "spiral"),
    "with an unknown key of rope": (_config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "rope_fator": 2}), "rope_fator"),
    "with a rope that is no mapping": (_config(rope_parameters=7), "the model cannot be loaded"),
    "with an odd head size": (_config(n_head=32), "the rotary dimension must be even"),
    "with heads that do not divide": (_config(n_head=3), "the model cannot be loaded"),
    "with a word for a size": (_config(n_layer="two"), "the model cannot be loaded"),
    "with a negative size": (_config(n_layer=-2), "the model cannot be loaded"),
    "with more blocks than weights": (_config(n_layer=3), "weights"),
    "with fewer blocks than weights": (_config(n_layer=1), "weights"),
    "of another width": (_config(n_embd=64), "have the shape"),
    "with weights of no byte": (_bytes("model.safetensors", lambda _: b""), "the model cannot be loaded"),
    "with weights cut off": (_bytes("model.safetensors", lambda content: content[: len(content) // 2]), "the model cannot be loaded"),
    "with weights cut off in their header": (_bytes("model.safetensors", lambda content: content[:100]), "the model cannot be loaded"),
    "with bytes behind the weights": (_bytes("model.safetensors", lambda content: content + bytes(64)), "the model cannot be loaded"),
    "with a header of a terabyte": (
        _bytes("model.safetensors", lambda content: (2**40).to_bytes(8, "little") + content[8:]),
        "the model cannot be loaded",
    ),
    "with a header that is no JSON": (
        _bytes("model.safetensors", lambda content: content[:8] + b"x" + content[9:]),
        "the model cannot be loaded",
    ),
    "with a header of another shape": (_header(_other_shape), "have the shape"),
    "with a header that points beyond the end": (_header(_beyond_the_end), "the model cannot be loaded"),
    "with a weight of another shape": (
        _weights(lambda weights: {name: tensor[:-1] if name.endswith("wte.weight") else tensor for name, tensor in weights.items()}),
        "have the shape",
    ),
    "with a weight missing": (
        _weights(lambda weights: {name: tensor for name, tensor in weights.items() if "h.1.attn.c_proj" not in name}),
        "weights",
    ),
    "with a weight that is no number": (
        _weights(lambda weights: {name: tensor * (torch.nan if "h.1.attn" in name else 1) for name, tensor in weights.items()}),
        "finite",
    ),
    "with weights as a pickle alone": (_copy(_pickled), "the model cannot be loaded"),
    "without a tokenizer": (_without("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "with a tokenizer of no byte": (_bytes("tokenizer.json", lambda _: b""), "tokenizer"),
    "with a tokenizer cut off": (_bytes("tokenizer.json", lambda content: content[: len(content) // 2]), "tokenizer"),
    "with a tokenizer of another program": (_bytes("tokenizer.json", lambda _: b'{"words": ["a", "b"]}'), "tokenizer"),
    "with a tokenizer without merges": (_tokenizer(lambda content: content["model"].pop("merges")), "tokenizer"),
    "with a tokenizer of more tokens than rows": (_tokenizer(_grown), "the tokenizer has 514 tokens, the model 512"),
}


def _checkpoint(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """The Lightning checkpoint, changed."""

    def make(path: Path) -> None:
        content = torch.load(path.parent / "last.ckpt", weights_only=True)
        torch.save(change(content) or content, path)

    return make


def _cut(path: Path) -> None:
    content = (path.parent / "last.ckpt").read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _hostile(path: Path) -> None:
    torch.save({"state_dict": _Attack()}, path)


def _first(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        weights = content["state_dict"]
        key = next(key for key in weights if name in key)
        weights[key] = change(weights[key])

    return apply


CHECKPOINTS: dict[str, tuple[Content | None, str]] = {
    "that is missing": (None, "no such"),
    "of no byte": (b"", "is no"),
    "that is text": ("a checkpoint\n", "is no"),
    "that is an archive of text": (lambda path: shutil.make_archive(str(path), "zip", path.parent / "data") and _unzipped(path), "is no"),
    "that is an empty folder": (Path.mkdir, "bad.ckpt"),
    "that is cut off": (_cut, "is no"),
    "of a pickle that runs code": (_hostile, "is no"),
    "of a bare pickle that runs code": (lambda path: path.write_bytes(pickle.dumps(_Attack())) and None, "is no"),
    "of another program": (lambda path: torch.save({"state_dict": {"weight": torch.ones(2)}, "epoch": 1}, path), "bad.ckpt"),
    "that is a bare tensor": (lambda path: torch.save(torch.ones(3), path), "bad.ckpt"),
    "that is a list": (lambda path: torch.save([1, 2], path), "bad.ckpt"),
    "without weights": (_checkpoint(lambda content: content.pop("state_dict") and None), "bad.ckpt"),
    "without options": (_checkpoint(lambda content: content.pop("hyper_parameters") and None), "bad.ckpt"),
    "without a tokenizer": (_checkpoint(lambda content: content.pop("SentimentDataModule") and None), "bad.ckpt"),
    "with a broken tokenizer": (
        _checkpoint(lambda content: content.update(SentimentDataModule={"tokenizer_json": "{"})),
        "bad.ckpt",
    ),
    "with a tokenizer that is a number": (
        _checkpoint(lambda content: content.update(SentimentDataModule={"tokenizer_json": 7})),
        "bad.ckpt",
    ),
    "with options that are no shape": (_checkpoint(lambda content: content["hyper_parameters"].update(n_head=5)), "n_embd"),
    "of another shape than it says": (_checkpoint(lambda content: content["hyper_parameters"].update(n_embd=64)), "bad.ckpt"),
    "of more rows than it says": (_checkpoint(lambda content: content["hyper_parameters"].update(vocab_size=400)), "bad.ckpt"),
    "with a weight missing": (_checkpoint(lambda content: content["state_dict"].pop("model.transformer.ln_f.weight") is None), "bad.ckpt"),
    "with a weight that is no number": (_checkpoint(_first("attn.c_attn.weight", lambda tensor: tensor * torch.nan)), "finite"),
}


def _unzipped(path: Path) -> None:
    Path(f"{path}.zip").rename(path)


def _rows() -> list[Bad]:
    rows = []
    for name, (content, said) in FOLDERS.items():
        files = {} if content is None else {"bad": content}
        rows.append(Bad(f"evaluate --checkpoint: a folder {name}", f"{EVALUATE} bad", ("bad", said), files))
    for name, (content, said) in CHECKPOINTS.items():
        files = {} if content is None else {"bad.ckpt": content}
        rows.append(Bad(f"evaluate --checkpoint: a checkpoint {name}", f"{EVALUATE} bad.ckpt", (said,), files))
        rows.append(Bad(f"predict --ckpt_path: a checkpoint {name}", f"{PREDICT} bad.ckpt", (said,), files))
    return rows


RANDOM = "evaluate --output out --checkpoint random --tokenizer"
ROWS = [
    *_rows(),
    Bad(
        "evaluate --checkpoint: a file that is none", f"{EVALUATE} data/demo.csv", ("data/demo.csv: is neither a folder nor a .ckpt file",)
    ),
    Bad("evaluate --tokenizer: a folder that is missing", f"{RANDOM} nowhere", ("tokenizer 'nowhere' cannot be loaded",)),
    Bad("evaluate --tokenizer: a file", f"{RANDOM} data/demo.csv", ("tokenizer 'data/demo.csv' cannot be loaded",)),
    Bad(
        "fit --data.tokenizer: a folder without one", "fit --config fit.yaml --data.tokenizer data", ("tokenizer 'data' cannot be loaded",)
    ),
    Bad(
        "fit --data.tokenizer: more tokens than rows",
        "fit --config fit.yaml --model.vocab_size 300 --data.tokenizer model",
        ("tokens, the model 300", "model.vocab_size"),
    ),
    Bad(
        "fit --data.tokenizer: one that ends no document",
        "fit --config fit.yaml --data.tokenizer bad --data.text data/demo.csv --data.cache_dir cache",
        ("no end-of-text token",),
        {"bad": _bytes("tokenizer_config.json", lambda _: b'{"tokenizer_class": "PreTrainedTokenizerFast"}')},
    ),
    Bad(
        "evaluate --label-words: words that the tokenizer reads alike",
        "evaluate --output out --checkpoint model --label-words good 'good movie'",
        ("label words ['good', 'good movie'] are not told apart",),
    ),
    Bad("fit --ckpt_path: a run of another shape", "fit --config fit.yaml --ckpt_path last.ckpt --model.n_layer 3", ("n_layer 2, got 3",)),
    Bad(
        "fit --model.init_from: an unknown encoding",
        "fit --config fit.yaml --model.init_from bad",
        ("bad: the model cannot be loaded", "spiral"),
        {"bad": _config(position_encoding="spiral")},
    ),
    Bad(
        "label --checkpoint: a folder cut short",
        "label --checkpoint bad --text data/demo.csv --output out/l.csv",
        ("bad",),
        {"bad": _without("model.safetensors")},
    ),
    Bad(
        "length --checkpoint: a folder cut short",
        "length --checkpoint bad --text data/demo.csv --output out/l.json",
        ("bad",),
        {"bad": _without("model.safetensors")},
    ),
    Bad("convert: a folder cut short", "convert to-gpt-neox bad out", ("bad",), {"bad": _without("model.safetensors")}),
    Bad("convert: a GPT-2 that is none", "convert from-gpt2 model out", ("RopeGPT2ForCausalLM",)),
]
