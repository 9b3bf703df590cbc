"""Save checkpoints that torch loads without executing what is in them.

MMEngine 0.10.7 pickles HistoryBuffer objects and NumPy scalars into a checkpoint. Its loader
(``load_from_local`` in runner/checkpoint.py) calls ``torch.load`` with the default, which is
``weights_only=True`` since torch 2.6 and refuses them, so every ``--resume`` fails.
"""

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from xtra_toolkit.registry import HOOKS

MARK = "xtra_toolkit.SafeResume"  # the key that tells an encoded object from a dictionary
LOADABLE = (dict, OrderedDict, Counter)


def encode(value: Any) -> Any:
    """Convert ``value`` to tensors, dictionaries, lists and numbers; see ``decode``."""
    if isinstance(value, HistoryBuffer):
        return {
            MARK: "HistoryBuffer",
            "log_history": torch.from_numpy(value._log_history),
            "count_history": torch.from_numpy(value._count_history),
            "max_length": value.max_length,
        }
    if isinstance(value, np.ndarray):
        return {MARK: "ndarray", "values": value.tolist(), "dtype": value.dtype.str}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        kind = type(value) if type(value) in LOADABLE else dict  # a ConfigDict becomes a dict
        return kind({encode(key): encode(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        kind = list if isinstance(value, list) else tuple
        return kind(encode(item) for item in value)
    return value


def decode(value: Any) -> Any:
    """Invert ``encode``; NumPy scalars and ConfigDicts stay plain Python objects."""
    if isinstance(value, list | tuple):
        return type(value)(decode(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = value.get(MARK)
    if kind == "HistoryBuffer":
        histories = (value[key].cpu().numpy() for key in ("log_history", "count_history"))
        return HistoryBuffer(*histories, max_length=value["max_length"])
    if kind == "ndarray":
        return np.array(value["values"], dtype=value["dtype"])
    return type(value)({key: decode(item) for key, item in value.items()})


@HOOKS.register_module()
class SafeResume(Hook):
    """Encode the bookkeeping of a checkpoint when it is saved, and decode it when it is loaded.

    Weights and optimizer state are tensors already. Checkpoints saved without this hook load as
    before. MMEngine keeps the last million values of each logged scalar, copies them in each step
    and saves them in each checkpoint; this hook limits their number.

    Args:
        history: Number of values of each scalar to keep. A ``log_processor`` averages over at most
            this many, whatever its ``window_size``.
    """

    priority = "LOWEST"  # what other hooks add to the checkpoint is encoded as well
    parts = ("meta", "message_hub", "param_schedulers")

    def __init__(self, history: int = 10_000):
        if history < 1:
            raise ValueError(f"SafeResume(history={history}) was given; it keeps at least 1 value")
        self.history = history

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Limit the history of every scalar; a buffer shortens itself when it is updated."""
        for buffer in runner.message_hub.log_scalars.values():
            buffer.max_length = self.history

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Encode the checkpoint. The runner calls this just before it writes the file."""
        for part in checkpoint.keys() & self.parts:
            checkpoint[part] = encode(checkpoint[part])

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Decode the checkpoint. The runner calls this before it reads the parts."""
        for part in checkpoint.keys() & self.parts:
            checkpoint[part] = decode(checkpoint[part])
