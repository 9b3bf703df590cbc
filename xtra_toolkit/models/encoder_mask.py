"""The encoder's mask travels in its checkpoint, so that no probe reads it with another."""

import json
from dataclasses import replace

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.build import check_registered

# the state dict key ends with this; a stock ViT reports it as unexpected, so the name must speak
KEY = "xtra_toolkit_attention_mask"


class EncoderMask(nn.Module):
    """The config of a mask factory in a small persistent buffer (MMEngine saves no extra state).

    Args:
        mask: config of the mask factory, or None: take what the checkpoint says.
        change: another mask than the checkpoint's is meant.
        grid: on which two masks are compared.

    Raises:
        ValueError: on loading a checkpoint whose encoder was trained with another mask.
    """

    def __init__(self, mask: dict | None, change: bool, grid: PatchGrid):
        super().__init__()
        self.change, self.grid = change, grid
        self.set(mask)

    def set(self, mask: dict | None) -> None:
        """Name the mask."""
        self.config = None
        blob = torch.empty(0, dtype=torch.uint8)
        if mask is not None:
            self.config = _plain(mask)
            self.factory = build_mask(self.config)
            blob = pack(self.config, self.grid)
        self.register_buffer("json", blob)

    def for_features(self, grid: PatchGrid):  # noqa: ANN201
        """The mask of features on a grid; ValueError where no mask is known."""
        if self.config is None:
            raise ValueError(
                "this encoder knows no mask: its config names none and no checkpoint that holds "
                "one was loaded; name it, for instance "
                "mask=dict(type='xtra_toolkit.Bidirectional')"
            )
        return self.factory.for_features(grid).check(grid, type(self.factory).__name__)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:  # noqa: ANN001, ANN002
        stored = unpack(state_dict.get(prefix + "json"))
        if stored is None or self.change or stored["mask"] == self.config:
            return
        check_registered(stored["mask"])
        if self.config is None:
            self.set(stored["mask"])
        elif not self._same(stored):
            raise ValueError(
                f"the encoder of this checkpoint was trained with the mask {stored['mask']}, and "
                f"the config names {self.config}; leave `mask` unset to take the checkpoint's, "
                "or set change_mask=True if the other is meant"
            )

    def _same(self, stored: dict) -> bool:
        """Do both mask the features of the grid alike that the encoder was trained on?"""
        rows, cols = stored["grid"]
        grid = replace(self.grid, rows=rows, cols=cols)
        try:
            mine = self.factory.for_features(grid)
            other = build_mask(stored["mask"]).for_features(grid)
        except ValueError:
            return False
        return torch.equal(mine.order, other.order) and torch.equal(mine.visible(), other.visible())


def pack(mask: dict, grid: PatchGrid) -> Tensor:
    """A mask config and the grid it was trained on, as bytes."""
    text = json.dumps({"mask": mask, "grid": [grid.rows, grid.cols]}, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def unpack(blob: Tensor | None) -> dict | None:
    """What :func:`pack` packed; None for nothing."""
    return json.loads(bytes(blob.tolist())) if blob is not None and len(blob) else None


def _plain(mask: dict) -> dict:
    if not isinstance(mask, dict):
        raise ValueError(
            f"a mask travels in the checkpoint by its config, so it must be a dict like "
            f"dict(type='xtra_toolkit.BlockCausal', block_size=4); given: {mask!r}"
        )
    return json.loads(json.dumps(mask))
