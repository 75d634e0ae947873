"""Notes of Lightning and transformers that tell a user of this package nothing, silenced in one place."""

import logging
import warnings

from transformers.utils import logging as transformers_logging

_WARNINGS = (
    ".*does not have many workers.*",  # batches are made from tokens in memory: workers would only cost
    ".*`IterableDataset` has `__len__` defined.*",  # every process counts its own batches
    ".*Couldn't infer the batch indices.*",  # predictions carry their own rows
    ".*Experiment logs directory .* exists and is not empty.*",  # TensorBoard's logger made it just now; nothing there is deleted
    ".*The dirpath has changed from .*",  # a run that goes on has a folder of its own, and knows the best all the same
    ".*treespec, LeafSpec.*",  # Lightning on a newer torch
)


def silence_notices(lightning_level: int | None = None) -> None:
    """Silence them for this process.

    Args:
        lightning_level: least level of what Lightning logs, of `logging`; None leaves it.
    """
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    transformers_logging.disable_progress_bar()
    if lightning_level is not None:
        for name in ("lightning.pytorch", "lightning.fabric"):
            logging.getLogger(name).setLevel(lightning_level)
