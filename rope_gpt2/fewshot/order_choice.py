"""Label probabilities → which orders of the demonstrations to keep, without looking at a label (Lu et al. 2021)."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit

from rope_gpt2.fewshot.groups import Group

METHODS = ("LocalE", "GlobalE")


@dataclass(frozen=True, slots=True)
class OrderChoice:
    """Orders chosen by entropy against all orders; only of seeds that have several.

    Attributes:
        shots, demonstration_labels, selection, template, label_words, calibration: the group and how its scores were calibrated.
        method: LocalE or GlobalE, see `choose_orders`.
        seeds: how many seeds have several orders.
        orders: how many orders such a seed has, at most.
        top: how many of them are kept: a sixth, at least one (Lu et al. keep 4 of 24).
        accuracy_mean: of the chosen orders: mean over seeds of the mean over orders.
        accuracy_all: the same of all orders.
        accuracy_std: over all chosen conditions (n - 1 in the denominator), None for one.
    """

    shots: int
    demonstration_labels: str
    selection: str
    template: str
    label_words: str
    calibration: str
    method: str
    seeds: int
    orders: int
    top: int
    accuracy_mean: float
    accuracy_all: float
    accuracy_std: float | None


def order_entropies(odds: NDArray, method: str) -> float:
    """The entropy by which an order is chosen, in nats; the higher, the less the prompt alone decides.

    GlobalE is the entropy of the fractions predicted of each label over the probing set, LocalE the mean over the probing set of the
    entropy of each query's label probabilities (Lu et al. 2021, section 3). In the paper the model itself generates the probing set;
    here it is the run's queries without their labels, so that a choice has seen, all together, the texts it is then measured on.

    Args:
        odds: [n] log-odds of positive.
        method: one of `METHODS`.
    """
    if method == "GlobalE":
        positive = float((odds > 0).mean())
        return float(entr([positive, 1 - positive]).sum())
    return float((entr(expit(odds)) + entr(expit(-odds))).mean())


def choose_orders(group: Group, odds: NDArray, accuracies: NDArray, calibration: str) -> list[OrderChoice]:
    """A choice by each method; none for a group in which no seed has several orders.

    Args:
        group: of the run.
        odds: [C, n] calibrated log-odds of positive.
        accuracies: [C].
        calibration: of these scores.
    """
    seeds = [orders for orders in group.members if len(orders) > 1]
    if not seeds:
        return []
    most = max(len(orders) for orders in seeds)
    choices = []
    for method in METHODS:
        kept = []
        for orders in seeds:
            entropies = [order_entropies(odds[index], method) for index in orders]
            best = np.argsort(np.negative(entropies), kind="stable")[: _top(len(orders))]  # ties: the first order
            kept.append(accuracies[[orders[rank] for rank in best]])
        chosen = np.concatenate(kept)
        choices.append(
            OrderChoice(
                **asdict(group.setting),
                calibration=calibration,
                method=method,
                seeds=len(seeds),
                orders=most,
                top=_top(most),
                accuracy_mean=float(np.mean([of_seed.mean() for of_seed in kept])),
                accuracy_all=float(np.mean([accuracies[list(orders)].mean() for orders in seeds])),
                accuracy_std=float(chosen.std(ddof=1)) if len(chosen) > 1 else None,
            )
        )
    return choices


def _top(orders: int) -> int:
    return max(1, round(orders / 6))
