"""Save the mask of the encoder in its checkpoint, so that it is probed with the right mask.

A record of the encoder is saved with it: its shape, and how images enter it.
"""

import json
from dataclasses import replace

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.models.encoder_record import describe_images, parse_record
from xtra_toolkit.objective.registers import with_registers

# a plain ViT reports this key of the state dict as unexpected, so the name should explain itself
KEY = "xtra_toolkit_attention_mask"


class EncoderMask(nn.Module):
    """Hold the config of a mask factory in a small persistent buffer.

    A buffer is used since MMEngine saves no extra state. Loading a checkpoint whose encoder was
    trained with another mask raises a ValueError.

    Args:
        mask: Config of the mask factory. None: that of the checkpoint is used.
        change: Whether a mask other than that of the checkpoint is intended.
        grid: The grid of the images.
        encoder: Record of the encoder's shape, see ``describe_encoder``.
    """

    def __init__(
        self, mask: dict | None, change: bool, grid: PatchGrid, encoder: dict | None = None
    ):
        super().__init__()
        self.change, self.grid, self.encoder, self.images = change, grid, encoder, None
        self.given_images = None
        self.set(mask)

    def set(self, mask: dict | None) -> None:
        """Set the config of the mask factory; None if it is not known."""
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
        """Record how images enter the encoder, from the data preprocessor in front of it."""
        self.images = describe_images(preprocessor, self.grid.channels)
        self._pack()

    def compare_images(self, preprocessor: nn.Module) -> None:
        """Refuse from now on a checkpoint whose images were normalised in another way."""
        self.given_images = describe_images(preprocessor, self.grid.channels)

    def for_features(self, grid: PatchGrid):  # noqa: ANN201
        """Return the mask of features on a grid.

        Raises:
            ValueError: No mask is known.
        """
        if self.config is None:
            raise ValueError(
                "this encoder knows no mask: its config gives none and no checkpoint that holds "
                "one was loaded; set it, for instance "
                "mask=dict(type='xtra_toolkit.Bidirectional')"
            )
        mask = with_registers(self.factory, grid).for_features(grid)
        return mask.check(grid, type(self.factory).__name__)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:  # noqa: ANN001, ANN002
        stored = unpack(state_dict.get(prefix + "json"))
        if stored is None:
            return
        if self.images is None and stored.get("images"):
            self.images = stored["images"]
            self._pack()
        if self.change or stored["mask"] == self.config:
            return
        check_registered(stored["mask"])
        if self.config is None:
            self.set(stored["mask"])
        elif not self._same(stored):
            raise ValueError(
                f"the encoder of this checkpoint was trained with the mask {stored['mask']}, but "
                f"the config gives {self.config}; leave `mask` unset to use the checkpoint's, or "
                "set change_mask=True to use the other on purpose"
            )

    def _same(self, stored: dict) -> bool:
        """Return whether both masks are equal for features on the grid of the training."""
        rows, cols = stored["grid"]
        grid = replace(self.grid, rows=rows, cols=cols).without_registers()
        try:
            own = self.factory.for_features(grid)
            other = build_mask(stored["mask"]).for_features(grid)
        except ValueError:
            return False
        return torch.equal(own.order, other.order) and torch.equal(
            own.attention_mask(), other.attention_mask()
        )


def pack(
    mask: dict, grid: PatchGrid, encoder: dict | None = None, images: dict | None = None
) -> Tensor:
    """Pack a record as JSON in a uint8 tensor.

    Args:
        mask: Config of the mask.
        grid: The grid that the encoder was trained on.
        encoder: Record of the encoder's shape; None if it is not known.
        images: Record of how images enter the encoder; None if it is not known.
    """
    record = dict(mask=mask, grid=[grid.rows, grid.cols], encoder=encoder, images=images)
    known = {name: value for name, value in record.items() if value is not None}
    text = json.dumps(known, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def unpack(blob: Tensor | None) -> dict | None:
    """Return the record that :func:`pack` packed, with every value checked, or None.

    Raises:
        ValueError: The bytes are no record.
    """
    if blob is None or not blob.numel():
        return None
    return parse_record(bytes(blob.flatten().to(torch.uint8).tolist()))


def _plain(mask: dict) -> dict:
    if not isinstance(mask, dict):
        raise ValueError(
            f"the checkpoint holds the config of the mask, so a mask must be a dict such as "
            f"dict(type='xtra_toolkit.BlockCausal', block_size=4); given: {mask!r}"
        )
    return json.loads(json.dumps(mask))
