"""`--trainer.strategy fsdp2`: parameters, gradients and optimizer states shared out among the processes, and put together again.

torch's fully_shard (FSDP2: Zhao et al. 2023, by parameter) under Lightning's ModelParallelStrategy; on GPUs, and with gloo on CPUs.
"""

import dataclasses
import io
import pickle
import shutil
from collections.abc import Callable
from enum import Enum
from pathlib import Path, PurePath
from typing import Any, cast

import torch
import torch.distributed.checkpoint as dcp
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.checkpoint import CheckpointException, FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.nn import Module

from rope_gpt2.model.configuration import RopeGPT2Config
from rope_gpt2.model.modeling import RopeGPT2ForCausalLM

META = "meta.pt"  # what Lightning writes beside the shards: all that is no weight and no optimizer state
FSDP2 = "fsdp2"
_DATA_MODULES = (
    "pathlib",
    "torch",
    "torch.serialization",
    "torch.distributed.checkpoint.metadata",
    "torch.distributed.checkpoint.filesystem",
)


class ShardedStrategy(ModelParallelStrategy):
    """Shards over all processes. A checkpoint is a folder with a file of each process, there whole or not at all."""

    def setup_environment(self) -> None:
        """One mesh of all processes."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Write beside the place, then rename; a process killed between two renames leaves the old folder as `.NAME.old`."""
        path = Path(self.broadcast(filepath))
        partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        self.barrier()
        super().save_checkpoint(checkpoint, partial, storage_options)
        self.barrier()
        if self.is_global_zero:
            shutil.rmtree(old, ignore_errors=True)
            if path.exists():
                path.replace(old)
            partial.replace(path)
            shutil.rmtree(old, ignore_errors=True)
        self.barrier()


StrategyRegistry.register(FSDP2, ShardedStrategy, description="parameters sharded over all processes by torch's fully_shard", override=True)


def shard(model: RopeGPT2ForCausalLM, mesh: DeviceMesh, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Shard a model in place, each block by itself and the embedding with the rest.

    Args:
        model: whole, the same on every process.
        mesh: of one dimension, all processes.
        forward: what training runs on the model in place of `model.forward`; the weights are together while it runs.

    Returns:
        `forward`, which puts the weights together. All processes must call it equally often.
    """
    for block in model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.run_whole = forward  # type: ignore[assignment]
    register_fsdp_forward_method(model, "run_whole")
    return cast(Callable[..., Any], model.run_whole)


def whole_copy(model: RopeGPT2ForCausalLM) -> RopeGPT2ForCausalLM:
    """A sharded model, put together on every process; all of them must call this."""
    state: dict[str, Any] = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
    with torch.random.fork_rng(), next(model.parameters()).device:  # initial weights, soon replaced, must not move the generator
        copy = RopeGPT2ForCausalLM(cast(RopeGPT2Config, model.config))
    copy.load_state_dict(state, strict=False)  # the tied head comes with the embedding
    return copy.train(model.training)


def is_sharded(model: Module) -> bool:
    """Whether this process holds a shard of it."""
    return any(hasattr(parameter, "to_local") for parameter in model.parameters())


def read_sharded_weights(folder: Path, model: RopeGPT2ForCausalLM) -> None:
    """Fill a whole model from a sharded checkpoint, by this process alone; optimizer states are not read.

    Args:
        folder: what ShardedStrategy wrote.
        model: of the same shape.

    Raises:
        KeyError: if the folder lacks weights of the model.
        ValueError: if it is damaged, or holds what is no data.
    """
    check_shards(folder)
    prefix = "state_dict.model."
    reader = _Reader(folder)
    stored = {name.removeprefix(prefix) for name in reader.read_metadata().state_dict_metadata if name.startswith(prefix)}
    wanted = model.state_dict()
    if missing := wanted.keys() - stored - set(model.all_tied_weights_keys):
        raise KeyError(f"it lacks the weights {min(missing)}")
    # tensors of a state_dict are the model's own: what is read into them is in the model
    state = {"state_dict": {f"model.{name}": tensor for name, tensor in wanted.items() if name in stored}}
    try:
        dcp.load(state, storage_reader=reader, no_dist=True)
    except CheckpointException as error:  # no Exception: it would end the program
        raise ValueError(f"a shard is damaged or of another model: {next(iter(error.failures.values()))[0]}") from error


def check_shards(folder: Path) -> None:
    """Refuse a sharded checkpoint that is more than data, for torch unpickles its list and its entries that are no tensors as they come.

    Args:
        folder: what ShardedStrategy wrote, or a stranger.

    Raises:
        ValueError: if reading it would run code or leave the folder, or its list is damaged.
    """
    try:
        metadata = _Reader(folder).read_metadata()
        for item in metadata.storage_data.values():
            if Path(item.relative_path).name != item.relative_path or item.transform_descriptors:
                raise ValueError(f"its list of shards names {item.relative_path!r}, which is no plain file of the folder")
        for name, kind in metadata.state_dict_metadata.items():
            if isinstance(kind, BytesStorageMetadata):
                item = metadata.storage_data[MetadataIndex(name)]
                with (folder / item.relative_path).open("rb") as file:
                    file.seek(item.offset)
                    torch.load(io.BytesIO(file.read(item.length)), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("it is more than data, and the rest is never unpickled") from error
    except Exception as error:  # unpickling raises anything
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error


class _Reader(FileSystemReader):
    """Takes the list of shards as the plain data that it is; the parent's unpickling would run whatever the file says."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = cast(Metadata, _DataUnpickler(file).load())
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module in _DATA_MODULES else None
        is_data = isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, (Enum, torch.Size, PurePath)))
        if is_data or isinstance(found, torch.dtype) or (module, name) == ("torch.serialization", "_get_layout"):
            return found
        if (module, name) == ("builtins", "getattr"):  # so Python 3.11.0 to 3.11.3 name a member of an Enum
            return _member
        raise pickle.UnpicklingError(f"the list of shards names {module}.{name}, which is no data")


def _member(kind: Any, name: str) -> Enum:
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"the list of shards asks for {name!r} of what is no Enum")
