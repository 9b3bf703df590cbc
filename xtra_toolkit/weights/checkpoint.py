"""A checkpoint under the names of MaskTargetPretrainer, with the mask of its encoder."""

from dataclasses import dataclass

from torch import Tensor

from xtra_toolkit import __version__
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.models.encoder_mask import KEY, pack, unpack
from xtra_toolkit.models.positions import sincos
from xtra_toolkit.weights.grid import grid_of
from xtra_toolkit.weights.mmpretrain import to_mmpretrain
from xtra_toolkit.weights.record import describe_state
from xtra_toolkit.weights.sources import ENCODER, PATCHES, POSITIONS, prefixed, to_ours
from xtra_toolkit.weights.timm import to_timm

MASK = f"{ENCODER}{KEY}.json"
LAYOUTS = ("pretrainer", "encoder", "classifier", "mmpretrain", "timm")
STOCK = LAYOUTS[3:]
ABSENT = {  # what a layout is nothing without, and what to do where the file has none
    "pretrainer": ("head.predictors.", "holds an encoder and no head; take layout 'encoder'"),
    "classifier": (
        "head.probes.",
        "holds no attentive probe; AIM's is published in a file of its own, name it (--head)",
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """Weights and what masks the features of their encoder.

    Args:
        state: under the names of MaskTargetPretrainer, without the mask.
        mask: config of a mask factory.
        grid: that the encoder was trained on.
        encoder_record: of the encoder's shape; None where the number of heads is not known.
        images: record of how images enter the encoder; None where it is not known.
        note: a sentence on what the conversion left out.
    """

    state: dict[str, Tensor]
    mask: dict
    grid: PatchGrid
    encoder_record: dict | None = None
    images: dict | None = None
    note: str = ""

    @classmethod
    def of(
        cls,
        state: dict[str, Tensor],
        mask: dict | None = None,
        img_size: tuple[int, int] | None = None,
        heads: int | None = None,
        images: dict | None = None,
    ) -> "Checkpoint":
        """From a state dict of a source that is known, or from one of ours.

        Args:
            state: as :func:`xtra_toolkit.weights.read.read_state` returns it.
            mask: config of a mask factory, where the file does not tell or another is meant.
            img_size: height and width of the images in pixels, where the file does not tell.
            heads: of the encoder's attention, where the file does not tell.
            images: how images enter the encoder, where the file does not tell.

        Raises:
            ValueError: nobody's names, no mask is known, or it does not fit the grid.
        """
        state, known, usual, note = to_ours(state)
        stored = unpack(state.pop(MASK, None)) or dict(mask=None, grid=None)
        check_registered(stored["mask"])
        if stored["mask"] and mask and mask != stored["mask"]:
            raise ValueError(
                f"the checkpoint says that its mask is {stored['mask']}, and {mask} was named; "
                "name none, or load it with change_mask=True where another is meant"
            )
        mask = stored["mask"] or mask or known
        if mask is None:
            raise ValueError(
                "the checkpoint does not tell its encoder's mask (an original XTRA's follows from "
                "its head, aim_proj); name it (--mask)"
            )
        grid = grid_of(state, stored["grid"], img_size)
        if POSITIONS not in state:
            state[POSITIONS] = sincos(grid, len(state[PATCHES]))
        build_mask(mask).for_features(grid).check(grid, mask["type"])
        encoder = {n.removeprefix(ENCODER): v for n, v in state.items() if n.startswith(ENCODER)}
        record = stored.get("encoder") or describe_state(encoder, grid, heads)
        images = stored.get("images") or images or usual
        return cls(state, mask, grid, record, images, note)

    @property
    def full(self) -> bool:
        """Does every token of the probed encoder see every other?"""
        return bool(build_mask(self.mask).for_features(self.grid).attention_mask().all())

    @property
    def encoder(self) -> dict[str, Tensor]:
        """The encoder's part of the state, without prefix."""
        own = {n: v for n, v in self.state.items() if n.startswith(ENCODER)}
        return {n.removeprefix(ENCODER): v for n, v in own.items()}

    def layout(self, name: str, full_attention: bool = False) -> dict:
        """What to save: ``dict(state_dict, meta)``.

        Args:
            name: ``'pretrainer'``, everything; ``'encoder'``, a MaskedViT; ``'classifier'``, with
                an attentive probe, which reads layers without the final norm; all with the mask.
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
            state = prefixed(to_mmpretrain(self.encoder))
            if name == "timm":
                state = to_timm(self.encoder)
            meta |= dict(attention="full", normalisation=self.images)
            return dict(state_dict=state, meta=meta)
        part, hint = ABSENT.get(name, (ENCODER, ""))
        if not any(n.startswith(part) for n in self.state):
            raise ValueError(f"the checkpoint {hint}")
        state = prefixed(self.encoder) if name == "encoder" else dict(self.state)
        if name == "classifier":
            state = {n: v for n, v in state.items() if not n.startswith(f"{ENCODER}ln1.")}
        packed = pack(self.mask, self.grid, self.encoder_record, self.images)
        return dict(state_dict={**state, MASK: packed}, meta=meta)

    def _allow_stock(self, name: str, full_attention: bool) -> None:
        if not self.full and not full_attention:
            raise ValueError(
                f"the encoder was trained with the mask {self.mask}, and a stock ViT of {name} "
                "would run it with full attention, without a word; take layout 'encoder', or "
                "say that full attention is meant (--full-attention)"
            )
