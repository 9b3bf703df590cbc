"""Make MMEngine load checkpoints as tensors only, so that no code in a file is executed.

This covers ``load_from``, ``--resume`` and ``init_cfg``. MMEngine 0.10.7 reads a local file with
torch's default, which an environment variable can change (``load_from_local``), and unpickles
everything that it downloads (``load_from_http`` calls ``load_state_dict_from_url``, which in torch
2.14 has ``weights_only=False``). This module replaces both readers when it is imported, and every
registry imports it.
"""

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader, checkpoint

from xtra_toolkit.weights.read import damage, read_safetensors, refusing

ADVICE = "xtra convert extracts the weights from a file that holds other objects too"
_download = checkpoint.load_url


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: Any) -> dict:
    """Load a checkpoint, or the tensors of a .safetensors file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds other objects than tensors and plain values, or is
            no checkpoint.
    """
    path = Path(os.path.expanduser(filename))
    if not path.is_file():
        raise FileNotFoundError(f"{filename} can not be found.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if problem := damage(path):
        raise ValueError(
            f"{path} is damaged ({problem}). Copy it again, or load another checkpoint of its "
            "run; --resume without load_from takes the newest undamaged one of the work folder."
        )
    with refusing(path, ADVICE):
        return torch.load(path, map_location=map_location, weights_only=True)


def load_url(url: str, *args: Any, **kwargs: Any) -> dict:
    """Download and load a checkpoint; MMEngine calls this in place of torch's function.

    Raises:
        ValueError: The file cannot be downloaded, or see :func:`load_from_local`.
    """
    try:
        with refusing(url, ADVICE):
            return _download(url, *args, **kwargs, weights_only=True)
    except OSError as error:  # no network, no such page, a full disk
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ValueError(
            f"{url} cannot be downloaded ({error}). Download it on a machine with a network and "
            f"copy it into {folder}, where it is found, or give a local file in place of the URL."
        ) from error


class TensorsOnly:
    """Replace the module ``torch`` in MMEngine's loaders, with a ``load`` that executes nothing.

    The loaders of open-mmlab://, s3://, petrel:// and pavi:// call ``torch.load`` with its default.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a file as torch does, but raise a ValueError if it holds more than tensors."""
        with refusing(file if isinstance(file, str | os.PathLike) else "the checkpoint", ADVICE):
            return torch.load(file, *args, **{**kwargs, "weights_only": True})


checkpoint.load_url = load_url
checkpoint.torch = TensorsOnly()
# onedl-mmengine 0.10.12 reads with a function that allows getattr in a file, and that unpickles
# everything (weights_only=False) where torch refuses to.
checkpoint._safe_torch_load = TensorsOnly.load
