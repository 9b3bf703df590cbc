"""What MMEngine loads, ``load_from``, ``--resume`` and ``init_cfg``: tensors, nothing executed.

MMEngine 0.10.7 leaves it to torch's default whether a local file is executed, which an environment
variable turns (``load_from_local``), and what it downloads it unpickles whatever it holds
(``load_from_http``: ``load_state_dict_from_url`` of torch 2.14 has ``weights_only=False``). This
module puts its own readers in their place when it is imported, as it is by every registry.
"""

import os
from pathlib import Path
from typing import Any

import torch
from mmengine.runner import CheckpointLoader, checkpoint

from xtra_toolkit.weights.read import damage, read_safetensors, refusing

ADVICE = "xtra convert takes the weights out of a file of other objects"
_download = checkpoint.load_url


@CheckpointLoader.register_scheme(prefixes="", force=True)
def load_from_local(filename: str, map_location: Any) -> dict:
    """A checkpoint, or the tensors of a .safetensors file.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it is damaged, holds more than tensors and plain values, or is none.
    """
    path = Path(os.path.expanduser(filename))
    if not path.is_file():
        raise FileNotFoundError(f"{filename} can not be found.")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if problem := damage(path):
        raise ValueError(
            f"{path} is damaged ({problem}). Copy it anew, or load another checkpoint of its run; "
            "--resume without load_from takes the newest whole one of the work folder."
        )
    with refusing(path, ADVICE):
        return torch.load(path, map_location=map_location, weights_only=True)


def load_url(url: str, *args: Any, **kwargs: Any) -> dict:
    """As torch's, which MMEngine calls for all that it downloads; ValueError as above."""
    with refusing(url, ADVICE):
        return _download(url, *args, **kwargs, weights_only=True)


class TensorsOnly:
    """torch, as MMEngine's module of loaders sees it: ``load`` executes nothing.

    Its loaders of open-mmlab://, s3://, petrel:// and pavi:// call ``torch.load`` with the default.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def load(file: Any, *args: Any, **kwargs: Any) -> Any:
        """As torch's, of a file or its name; ValueError as above."""
        with refusing(file if isinstance(file, str | os.PathLike) else "the checkpoint", ADVICE):
            return torch.load(file, *args, **{**kwargs, "weights_only": True})


checkpoint.load_url = load_url
checkpoint.torch = TensorsOnly()
