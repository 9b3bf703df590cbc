"""Convert objects to what ``torch.load`` accepts with ``weights_only=True``, and back."""

from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

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
