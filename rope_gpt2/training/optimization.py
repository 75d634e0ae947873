"""Optimisers and learning-rate schedules of a training.

AdamW (Loshchilov & Hutter 2019) for everything, or Muon (Jordan et al. 2024) for the matrices of the blocks beside AdamW for embeddings,
biases and norms. Warm-up, then a cosine (Loshchilov & Hutter 2017), or a plateau and a decay at the end (Hu et al. 2024; the form
1 - sqrt of Hägele et al. 2024), which lets a run go on from its plateau to any length.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from rope_gpt2.errors import InputError
from rope_gpt2.training.precision import Float32ForBfloat16, has_bfloat16

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd")
GROUP_OPTIONS = ("initial_lr", "weight_decay", "betas")


@dataclass(frozen=True)
class OptimizerOptions:
    """What `build_optimizer` builds.

    Attributes:
        name: "adamw", or "muon" for the blocks' matrices beside AdamW.
        learning_rate: peak of the schedule; Muon's update is scaled to the root mean square of AdamW's (Liu et al. 2025), so that one
            number serves both.
        weight_decay: decoupled, on matrices and embeddings only.
        beta2: second moment's decay of AdamW; the first is 0.9.
        momentum: of Muon, with Nesterov's look ahead.
        embedding_rate: learning rate of embeddings, as a multiple of `learning_rate`.
    """

    name: Literal["adamw", "muon"]
    learning_rate: float
    weight_decay: float
    beta2: float
    momentum: float = 0.95
    embedding_rate: float = 1.0


class MuonBesideAdamW(Optimizer):
    """torch's Muon and AdamW behind the face of one optimiser, so that one schedule, one checkpoint and gradient clipping serve both.

    Args:
        muon: groups of matrices.
        adamw: groups of all else.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._parts: tuple[Muon, AdamW] = (muon, adamw)
        self._share()

    def _share(self) -> None:
        """The parts work on this optimiser's own groups and state."""
        first = 0
        for part in self._parts:
            part.param_groups = self.param_groups[first : first + len(part.param_groups)]
            part.state = self.state
            first += len(part.param_groups)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of both; the closure is called once."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        muon, adamw = self._parts
        # torch's Muon orthogonalizes in bfloat16, which not every CPU has: it then takes twice as long as the rest of a step in float32
        with nullcontext() if has_bfloat16() else Float32ForBfloat16():
            muon.step()
        adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore both."""
        super().load_state_dict(state_dict)
        self._share()


def build_optimizer(module: nn.Module, options: OptimizerOptions) -> Optimizer:
    """The optimiser of a model.

    Args:
        module: Muon takes the weights of two dimensions whose name has ".h." in it: those of the blocks.

    Raises:
        InputError: for an unknown name, or sharded parameters with Muon, which needs whole matrices.
    """
    if options.name not in OPTIMIZERS:
        raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {options.name!r}; choose one of them")
    named = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    muon_names = {name for name, parameter in named if options.name == "muon" and parameter.ndim == 2 and ".h." in f".{name}"}
    if options.name == "muon" and not muon_names:
        raise InputError("muon found no matrix in the blocks (parameters are sharded, say); take --model.optimizer adamw")
    rest = [parameter for name, parameter in named if name not in muon_names]
    apart: set[int] = set()  # embeddings with a rate of their own; with the usual one, groups are as in the checkpoints of former versions
    if options.embedding_rate != 1:
        apart = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    rate = options.learning_rate * options.embedding_rate
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in rest if parameter.ndim >= 2 and id(parameter) not in apart]},
        {"params": [parameter for parameter in rest if parameter.ndim < 2], "weight_decay": 0.0},
        {"params": [parameter for parameter in rest if id(parameter) in apart], "lr": rate},
    ]
    groups = [{"weight_decay": options.weight_decay, **group} for group in groups if group["params"]]
    adamw = AdamW(groups, lr=options.learning_rate, betas=(0.9, options.beta2), fused=True)
    adamw._step_supports_amp_scaling = False  # or Lightning refuses to clip before a fused step
    if not muon_names:
        return adamw
    matrices: Iterable[nn.Parameter] = [parameter for name, parameter in named if name in muon_names]
    muon = Muon(
        matrices,
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        momentum=options.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonBesideAdamW(muon, adamw)


def group_options(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the options of a run say of each parameter group; ask after the schedule is made, which keeps the peak in `initial_lr`."""
    return [{name: group[name] for name in GROUP_OPTIONS if name in group} for group in optimizer.param_groups]


def set_group_options(optimizer: Optimizer, schedule: LambdaLR, options: Sequence[Mapping[str, Any]]) -> None:
    """Put the options of `group_options` in place of those that a restored state brought, and the learning rate of the step reached.

    Nothing changes where they are the same.
    """
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)
    schedule.base_lrs = [own["initial_lr"] for own in options]
    for group, factor in zip(optimizer.param_groups, schedule.lr_lambdas, strict=True):
        group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)


def schedule_factor(schedule: str, total: int, warmup: int, floor: float, decay_fraction: float) -> Callable[[int], float]:
    """Learning rate at a step, as a fraction of the peak.

    Args:
        schedule: "cosine", or "wsd" for warm-up, stable, decay.
        total: optimizer steps.
        warmup: steps of linear warm-up.
        floor: fraction of the peak at the end, in [0, 1].
        decay_fraction: of "wsd": the last part of the steps, in [0, 1], in which the rate falls; it begins behind the warm-up.

    Raises:
        InputError: for an unknown schedule, or a number out of its range.

    >>> factor = schedule_factor("wsd", total=100, warmup=10, floor=0.0, decay_fraction=0.25)
    >>> [round(factor(step), 2) for step in (0, 9, 50, 75, 81, 100)]
    [0.1, 1.0, 1.0, 1.0, 0.51, 0.0]
    """
    if schedule not in SCHEDULES:
        raise InputError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}; choose one of them")
    if warmup < 0:
        raise InputError(f"warmup_steps must be 0 or more, got {warmup}; give another number")
    for name, value in (("min_learning_rate", floor), ("decay_fraction", decay_fraction)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} must lie in [0, 1], got {value}; give another number")
    warmup = min(warmup, total)
    decay = min(round(total * decay_fraction), total - warmup)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if schedule == "cosine":
            done = min(1.0, (step - warmup) / max(1, total - warmup))
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
        if not decay:
            return 1.0
        done = min(1.0, max(0.0, (step - (total - decay)) / decay))
        return floor + (1 - floor) * (1 - math.sqrt(done))

    return factor
