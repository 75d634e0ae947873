"""A stranger's checkpoint, one file or sharded, runs no code and leads nowhere out of its folder."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from reliability.strangers import CODE, Attack, evaluate
from running import call, fit_arguments
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING as MEMORY_FORMAT

from rope_gpt2.training.sharding import check_shards

# a file of Lightning's

PLACES = {
    "weights": lambda content, attack: content["state_dict"].update({"model.transformer.ln_f.weight": attack}),
    "optimizer state": lambda content, attack: content.update(optimizer_states=[attack]),
    "hyperparameters": lambda content, attack: content["hyper_parameters"].update(n_layer=attack),
    "state of a callback": lambda content, attack: content["callbacks"].update(Other=attack),
    "tokenizer": lambda content, attack: content["SentimentDataModule"].update(tokenizer_json=attack),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_pickle_in_a_checkpoint_is_never_run(place: str, whole: dict[str, Any], marker: Path, tmp_path: Path, refused):
    PLACES[place](whole, Attack(marker))
    hostile = tmp_path / "hostile.ckpt"
    torch.save(whole, hostile)
    assert "the rest is never unpickled" in refused(*evaluate(hostile))
    assert "hostile.ckpt" in refused(*fit_arguments(tmp_path / "logs"), "--ckpt_path", str(hostile))
    assert "hostile.ckpt" in refused("predict", "--config", "configs/predict.yaml", "--ckpt_path", str(hostile))


@pytest.mark.parametrize(
    "command",
    [
        ["label", "--text", "data/demo.csv", "--output", "{tmp}/labelled.csv", "--checkpoint", "{file}"],
        ["validate", "--config", "configs/smoke.yaml", "--ckpt_path", "{file}"],
        ["fit", "--config", "configs/smoke.yaml", "--model.init_from", "{file}", "--trainer.default_root_dir", "{tmp}/logs"],
    ],
    ids=lambda command: command[0],
)
def test_no_command_unpickles_a_bare_pickle(command: list[str], marker: Path, tmp_path: Path, refused):
    hostile = tmp_path / "hostile.ckpt"
    hostile.write_bytes(pickle.dumps(Attack(marker)))
    assert "hostile.ckpt" in refused(*(part.format(file=hostile, tmp=tmp_path) for part in command))


def test_hyperparameters_name_no_class_to_build(whole: dict[str, Any], tmp_path: Path, marker: Path, monkeypatch):
    """What they name beside the options of the model is passed over."""
    (tmp_path / "stranger.py").write_text(CODE.format(marker=str(marker)))
    monkeypatch.syspath_prepend(tmp_path)
    whole["hyper_parameters"] |= {"_class_path": "stranger.StrangeModel", "_instantiator": "stranger.StrangeModel"}
    torch.save(whole, tmp_path / "hostile.ckpt")
    output = ["--predictions.output", str(tmp_path / "predictions.csv"), "--data.limit", "4"]
    assert call(["predict", "--config", "configs/predict.yaml", *output, "--ckpt_path", str(tmp_path / "hostile.ckpt")]) == 0
    assert not marker.exists()


def test_going_on_from_a_strangers_checkpoint_removes_no_file_of_ours(whole: dict[str, Any], marker: Path, tmp_path: Path):
    precious = tmp_path / "precious.csv"
    precious.write_text("kept")
    logs = tmp_path / "logs"
    named = f"{logs}/version_0/checkpoints/../../../precious.csv"  # begins like one of the run's own checkpoints
    (name,) = [name for name in whole["callbacks"] if name.startswith("BestCheckpoint")]
    best = {"best_k_models": {named: torch.tensor(-1.0)}, "kth_best_model_path": named, "kth_value": torch.tensor(-1.0)}
    whole["callbacks"][name] |= {**best, "best_model_path": named, "last_model_path": named, "best_model_score": torch.tensor(-1.0)}
    for state in whole["callbacks"].values():
        state |= {"best_model_path": named} if "best_model_path" in state else {}
    torch.save(whole, tmp_path / "hostile.ckpt")
    assert call([*fit_arguments(logs, trainer__max_epochs="3"), "--ckpt_path", str(tmp_path / "hostile.ckpt")]) == 0
    assert precious.read_text() == "kept"


# a sharded one


@pytest.fixture
def shards(whole: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes a sharded checkpoint, as `fit --trainer.strategy fsdp2` does; keywords are laid over its weights."""

    def write(**weights: Any) -> Path:
        target = tmp_path / "sharded.ckpt"
        content = dict(whole)
        state = {"state_dict": content.pop("state_dict") | {name.replace("__", "."): value for name, value in weights.items()}}
        dcp.save(state, checkpoint_id=target, no_dist=True)
        torch.save(content, target / "meta.pt")
        return target

    return write


def refused_by_both(sharded: Path, refused: Callable[..., str]) -> str:
    """By evaluate and by a fit that goes on; what evaluate says."""
    options = fit_arguments(sharded.parent / "logs", trainer__strategy="fsdp2", trainer__devices="1")
    assert str(sharded) in refused(*options, "--ckpt_path", str(sharded))
    return refused(*evaluate(sharded))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_pickle_in_a_sharded_checkpoint_is_never_run(shards, marker: Path, refused):
    sharded = shards()
    check_shards(sharded)  # a good one is taken
    whole_list = (sharded / ".metadata").read_bytes()
    for name in ("meta.pt", ".metadata"):
        kept = (sharded / name).read_bytes()
        (sharded / name).write_bytes(pickle.dumps(Attack(marker)))
        refused_by_both(sharded, refused)
        (sharded / name).write_bytes(kept)
    assert (sharded / ".metadata").read_bytes() == whole_list
    shutil.rmtree(sharded)
    # an entry that says it is no tensor: torch unpickles it as it comes
    assert "never unpickled" in refused_by_both(shards(model__transformer__ln_f__weight=Attack(marker)), refused)


class Lookup:
    """Pickles as `getattr(holder, name)`; Python 3.11.0 to 3.11.3 write the members of Enums so."""

    def __init__(self, holder: type, name: str) -> None:
        self.holder, self.name = holder, name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[type, str]]:
        return getattr, (self.holder, self.name)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_list_of_shards_may_name_members_of_enums_and_nothing_else_of_anything(shards, refused):
    sharded = shards()
    metadata = pickle.loads((sharded / ".metadata").read_bytes())
    for holder, name, is_good in (
        (MEMORY_FORMAT, "TORCH_CHANNELS_LAST", True),
        (MEMORY_FORMAT, "mro", False),
        (PurePosixPath, "joinpath", False),
    ):
        metadata.planner_data = Lookup(holder, name)
        (sharded / ".metadata").write_bytes(pickle.dumps(metadata))
        if is_good:
            check_shards(sharded)
        else:
            assert "never unpickled" in refused_by_both(sharded, refused)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_lie_in_their_folder(shards, tmp_path: Path, refused):
    sharded = shards()
    (shard,) = sharded.glob("*.distcp")
    shard.rename(tmp_path / shard.name)
    metadata = pickle.loads((sharded / ".metadata").read_bytes())
    metadata.storage_data = {key: replace(item, relative_path=f"../{shard.name}") for key, item in metadata.storage_data.items()}
    (sharded / ".metadata").write_bytes(pickle.dumps(metadata))
    assert f"'../{shard.name}', which is no plain file of the folder" in refused_by_both(sharded, refused)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_truncated_shard_is_named(shards, refused):
    sharded = shards()
    (shard,) = sharded.glob("*.distcp")
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    assert "sharded.ckpt: is no checkpoint of this package, or is damaged (a shard is damaged" in refused(*evaluate(sharded))
