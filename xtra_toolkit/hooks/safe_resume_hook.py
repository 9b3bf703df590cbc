"""Checkpoints that torch loads without executing what is in them.

MMEngine 0.10.7 pickles its HistoryBuffer objects and NumPy scalars into a checkpoint, and its
loader (``load_from_local`` in runner/checkpoint.py) calls ``torch.load`` with the default, which
since torch 2.6 is ``weights_only=True`` and refuses them: every ``--resume`` fails.
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
    """``value`` in tensors, dictionaries, lists and numbers; see ``decode``."""
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
    """What ``encode`` was given; NumPy scalars and ConfigDicts stay Python's."""
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
    """Encodes a checkpoint's bookkeeping when it is saved, and decodes it when it is loaded.

    Weights and optimizer state are tensors already. Checkpoints saved without this hook load as
    they did before. MMEngine keeps the last million values of each logged scalar, copies them in
    each step and saves them in each checkpoint; this hook bounds them.

    Args:
        history: values of each scalar that are kept. A ``log_processor`` averages over no more,
            whatever its ``window_size``.
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
        """Bound what MMEngine has recorded; each buffer shortens itself when it is updated."""
        for buffer in runner.message_hub.log_scalars.values():
            buffer.max_length = self.history

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Called by the runner just before it writes the file, whichever hook asked for it."""
        for part in checkpoint.keys() & self.parts:
            checkpoint[part] = encode(checkpoint[part])

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Called by the runner before it reads the checkpoint's parts."""
        for part in checkpoint.keys() & self.parts:
            checkpoint[part] = decode(checkpoint[part])
