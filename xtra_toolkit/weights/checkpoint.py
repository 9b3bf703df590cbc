"""A checkpoint under the names of MaskTargetPretrainer, with the mask of its encoder."""

import math
from dataclasses import dataclass

from torch import Tensor

from xtra_toolkit import __version__
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.models.encoder_mask import KEY, pack, unpack
from xtra_toolkit.weights import original
from xtra_toolkit.weights.stock import to_timm

ENCODER = "backbone."
MASK = f"{ENCODER}{KEY}.json"
POSITIONS, PATCHES = f"{ENCODER}pos_embed", f"{ENCODER}patch_embed.projection.weight"
LAYOUTS = ("pretrainer", "encoder", "mmpretrain", "timm")
STOCK = LAYOUTS[2:]


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what masks the features of their encoder.

    Args:
        state: under the names of MaskTargetPretrainer, without the mask.
        mask: config of a mask factory.
        grid: that the encoder was trained on.
    """

    state: dict[str, Tensor]
    mask: dict
    grid: PatchGrid

    @classmethod
    def of(cls, state: dict[str, Tensor], mask: dict | None = None) -> "Checkpoint":
        """From an original XTRA's state dict, or from one of ours.

        Args:
            state: as :func:`xtra_toolkit.weights.read.read_state` returns it.
            mask: config of a mask factory, where the file does not tell or another is meant.

        Raises:
            ValueError: the names are neither, no mask is known, or it does not fit the grid.
        """
        if {"enc.pos_embed", "enc.patch_embed.proj.weight"} <= state.keys():
            mask = mask or original.mask_of(state)
            state = original.from_original(state)
        elif PATCHES.removeprefix(ENCODER) in state:
            state = {ENCODER + name: value for name, value in state.items()}
        if not {POSITIONS, PATCHES} <= state.keys():
            raise ValueError(
                "no encoder was found: an original XTRA has names like 'enc.pos_embed', ours "
                f"like 'backbone.pos_embed'; the first given: {next(iter(state), None)!r}"
            )
        state = dict(state)
        stored = unpack(state.pop(MASK, None)) or dict(mask=None, grid=None)
        check_registered(stored["mask"])
        if stored["mask"] and mask and mask != stored["mask"]:
            raise ValueError(
                f"the checkpoint says that its mask is {stored['mask']}, and {mask} was named; "
                "name none, or load it with change_mask=True where another is meant"
            )
        mask = stored["mask"] or mask
        if mask is None:
            raise ValueError("the checkpoint does not tell its encoder's mask; name it (--mask)")
        grid = _grid(state, stored["grid"])
        build_mask(mask).for_features(grid).check(grid, mask["type"])
        return cls(state, mask, grid)

    @property
    def full(self) -> bool:
        """Does every token of the probed encoder see every other?"""
        return bool(build_mask(self.mask).for_features(self.grid).visible().all())

    @property
    def encoder(self) -> dict[str, Tensor]:
        """The encoder's part of the state, without prefix."""
        own = {n: v for n, v in self.state.items() if n.startswith(ENCODER)}
        return {n.removeprefix(ENCODER): v for n, v in own.items()}

    def layout(self, name: str, full_attention: bool = False) -> dict:
        """What to save: ``dict(state_dict, meta)``.

        Args:
            name: ``'pretrainer'``, everything; ``'encoder'``, a MaskedViT; both with the mask.
                ``'mmpretrain'`` and ``'timm'``, a stock ViT, which knows no mask.
            full_attention: a stock ViT is meant to run this encoder with full attention, though
                it was trained with another mask.

        Raises:
            ValueError: an unknown layout, a missing part, or a stock ViT would read the encoder
                with another mask than its own.
        """
        if name not in LAYOUTS:
            raise ValueError(f"layout {name!r} was asked for; valid: {', '.join(LAYOUTS)}")
        meta = dict(xtra_toolkit_version=__version__, layout=name, encoder_mask=self.mask)
        if name in STOCK:
            self._allow_stock(name, full_attention)
            state = to_timm(self.encoder) if name == "timm" else _prefixed(self.encoder)
            return dict(state_dict=state, meta=dict(meta, attention="full"))
        if name == "pretrainer" and not any(n.startswith("head.") for n in self.state):
            raise ValueError("the checkpoint holds an encoder and no head; take layout 'encoder'")
        state = self.state if name == "pretrainer" else _prefixed(self.encoder)
        return dict(state_dict={**state, MASK: pack(self.mask, self.grid)}, meta=meta)

    def _allow_stock(self, name: str, full_attention: bool) -> None:
        if not self.full and not full_attention:
            raise ValueError(
                f"the encoder was trained with the mask {self.mask}, and a stock ViT of {name} "
                "would run it with full attention, without a word; take layout 'encoder', or "
                "say that full attention is meant (--full-attention)"
            )


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {ENCODER + name: value for name, value in state.items()}


def _grid(state: dict[str, Tensor], stored: list[int] | None) -> PatchGrid:
    tokens, extra = state[POSITIONS].shape[1], int(f"{ENCODER}cls_token" in state)
    rows, cols = stored or [math.isqrt(tokens - extra)] * 2
    if rows * cols != tokens - extra:
        raise ValueError(
            f"the position table has {tokens - extra} tokens, which make no square; only a "
            "checkpoint that names its grid, as ours do, can have another shape"
        )
    _, channels, *patch = state[PATCHES].shape
    return PatchGrid(rows, cols, tuple(patch), channels, extra)
