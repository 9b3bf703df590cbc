"""Read the tensors of an untrusted checkpoint, without executing anything in it.

torch's weights-only reader refuses a file that names a class which torch does not know, and
training checkpoints name many (argparse.Namespace, configs, optimizers). Here one class that does
nothing replaces each of them, so that the reader skips everything that is no tensor.
"""

import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

# The keys of the weights in checkpoints of Lightning and MMEngine, of DeepSpeed, and of MAE
WEIGHT_KEYS = ("state_dict", "module", "model")
WRAPPERS = r"^((module|_forward_module|_orig_mod)\.)+"


class _EqualsDict(type):
    """Make a class compare equal to dict: torch sets items only on an object of such a type."""

    def __eq__(cls, other: object) -> bool:
        return other is dict or other is cls

    __hash__ = type.__hash__


class Inert(list, metaclass=_EqualsDict):
    """Replace a class or function that torch does not know; take any arguments, do nothing."""

    __hash__ = object.__hash__

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read the weights of a Lightning, MMEngine, DeepSpeed, MAE, plain or safetensors file.

    Raises:
        ValueError: The file cannot be read without executing it, or no weights are found in it.
    """
    path = Path(path)
    state = read_safetensors(path) if path.suffix == ".safetensors" else _weights(_load(path))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{path}: {name!r} is no tensor; the weights must lie under 'state_dict' "
                "(Lightning, MMEngine), 'module' (DeepSpeed) or 'model' (MAE), or at the top"
            )
        if not value.numel():
            raise ValueError(
                f"{path}: {name!r} is empty, as in files of ZeRO stage 3, which stores the "
                "parameters elsewhere; gather them with DeepSpeed's zero_to_fp32.py and convert "
                "its output"
            )
    return {re.sub(WRAPPERS, "", name): value for name, value in state.items()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a .safetensors file; ValueError if it is not one."""
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error})") from error


@contextmanager
def refusing(path: str | Path, advice: str) -> Iterator[None]:
    """Turn the errors of torch's weights-only reader into a ValueError that says what to do.

    Args:
        path: The file, for the message.
        advice: What to do, the end of the message.
    """
    try:
        yield
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        if "torchscript" in str(error).lower():
            raise ValueError(
                f"{path} is a TorchScript archive, which is a program, and is not executed; save "
                "only the state_dict of its module, on a machine where you trust the file"
            ) from error
        refused = re.search(
            r"GLOBAL \S+ (whose module \S+ is blocked|was not an allowed)", str(error)
        )
        reason = refused.group() if refused else str(error).strip().splitlines()[-1]
        raise ValueError(
            f"{path} cannot be read as tensors alone, and is not executed ({reason}); {advice}"
        ) from error


def damage(path: str | Path) -> str | None:
    """Describe the first damage in a file that ``torch.save`` wrote; None if it is whole.

    torch stores a CRC-32 of each record and does not compare it when it loads the file. A file
    that is no zip archive (torch's format before 1.6) has no checksum and counts as whole.
    """
    status = os.stat(path)
    return _damage(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)  # called by the hook that chooses a checkpoint, and then by the loader
def _damage(path: str, size: int, changed: int) -> str | None:
    with open(path, "rb") as file:
        archive = file.read(4) == b"PK\x03\x04"
    if not archive and not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    except Exception as error:  # damaged headers raise errors of many classes
        return f"{type(error).__name__}: {error}"
    return f"{broken} does not match its checksum" if broken else None


def _load(path: Path) -> Any:
    advice = "save only its state_dict, on a machine where you trust the file"
    with refusing(path, advice), safe_globals([(Inert, name) for name in _unknown(path)]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _unknown(path: Path) -> list[str]:
    """Return the names in the file that torch does not know; none for formats before 1.6."""
    return get_unsafe_globals_in_checkpoint(path) if zipfile.is_zipfile(path) else []


def _weights(content: Any) -> dict:
    if not isinstance(content, dict):
        raise ValueError(f"the file holds a {type(content).__name__}, not a dict of weights")
    return next((content[k] for k in WEIGHT_KEYS if isinstance(content.get(k), dict)), content)
