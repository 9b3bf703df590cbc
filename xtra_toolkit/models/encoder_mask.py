"""The encoder's mask travels in its checkpoint, so that no probe reads it with another.

Beside it travels a record of the encoder: its shape, and how images enter it.
"""

import json
from dataclasses import replace

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.models.encoder_record import describe_images, differences, parse_record

# the state dict key ends with this; a stock ViT reports it as unexpected, so the name must speak
KEY = "xtra_toolkit_attention_mask"


class EncoderMask(nn.Module):
    """The config of a mask factory in a small persistent buffer (MMEngine saves no extra state).

    Args:
        mask: config of the mask factory, or None: take what the checkpoint says.
        change: another mask than the checkpoint's is meant.
        grid: on which two masks are compared.
        encoder: record of the encoder's shape, see ``describe_encoder``.

    Raises:
        ValueError: on loading a checkpoint whose encoder was trained with another mask.
    """

    def __init__(
        self, mask: dict | None, change: bool, grid: PatchGrid, encoder: dict | None = None
    ):
        super().__init__()
        self.change, self.grid, self.encoder, self.images = change, grid, encoder, None
        self.set(mask)

    def set(self, mask: dict | None) -> None:
        """Name the mask."""
        self.config = None
        if mask is not None:
            self.config = _plain(mask)
            self.factory = build_mask(self.config)
        self._pack()

    def _pack(self) -> None:
        blob = torch.empty(0, dtype=torch.uint8)
        if self.config is not None:
            blob = pack(self.config, self.grid, self.encoder, self.images)
        self.register_buffer("json", blob)

    def note_images(self, preprocessor: nn.Module) -> None:
        """Record how images enter the encoder, by the data preprocessor in front of it."""
        self.images = describe_images(preprocessor, self.grid.channels)
        self._pack()

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
        if stored is None:
            return
        self._take_record(stored)
        if self.change or stored["mask"] == self.config:
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

    def _take_record(self, stored: dict) -> None:
        """Refuse another encoder of the same names; take over how images enter it."""
        theirs = stored.get("encoder")
        odd = differences(self.encoder, theirs) if self.encoder and theirs else []
        if odd:
            raise ValueError(
                f"the checkpoint's encoder has {'; '.join(odd)}; leave out of the config what the "
                "checkpoint tells, or name the same"
            )
        if self.images is None and stored.get("images"):
            self.images = stored["images"]
            self._pack()

    def _same(self, stored: dict) -> bool:
        """Do both mask the features of the grid alike that the encoder was trained on?"""
        rows, cols = stored["grid"]
        grid = replace(self.grid, rows=rows, cols=cols)
        try:
            mine = self.factory.for_features(grid)
            other = build_mask(stored["mask"]).for_features(grid)
        except ValueError:
            return False
        return torch.equal(mine.order, other.order) and torch.equal(
            mine.attention_mask(), other.attention_mask()
        )


def pack(
    mask: dict, grid: PatchGrid, encoder: dict | None = None, images: dict | None = None
) -> Tensor:
    """A mask config, the grid it was trained on and what is recorded of the encoder, as bytes."""
    record = dict(mask=mask, grid=[grid.rows, grid.cols], encoder=encoder, images=images)
    known = {name: value for name, value in record.items() if value is not None}
    text = json.dumps(known, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def unpack(blob: Tensor | None) -> dict | None:
    """What :func:`pack` packed, every value checked; None for nothing.

    Raises:
        ValueError: the bytes are no record.
    """
    if blob is None or not blob.numel():
        return None
    return parse_record(bytes(blob.flatten().to(torch.uint8).tolist()))


def _plain(mask: dict) -> dict:
    if not isinstance(mask, dict):
        raise ValueError(
            f"a mask travels in the checkpoint by its config, so it must be a dict like "
            f"dict(type='xtra_toolkit.BlockCausal', block_size=4); given: {mask!r}"
        )
    return json.loads(json.dumps(mask))
