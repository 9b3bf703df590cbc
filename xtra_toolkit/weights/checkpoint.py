"""Hold a checkpoint under the names of MaskTargetPretrainer, with the mask of its encoder."""

from dataclasses import dataclass

from torch import Tensor

from xtra_toolkit import __version__
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.models.encoder_mask import pack, unpack
from xtra_toolkit.models.positions import sincos
from xtra_toolkit.objective.registers import with_registers
from xtra_toolkit.weights.grid import grid_of
from xtra_toolkit.weights.mmpretrain import to_mmpretrain
from xtra_toolkit.weights.record import describe_state
from xtra_toolkit.weights.sources import (
    ENCODER,
    PATCHES,
    POSITIONS,
    RECORD,
    to_ours,
    with_prefix,
    without_prefix,
)
from xtra_toolkit.weights.timm import to_timm

MASK = RECORD
LAYOUTS = ("pretrainer", "encoder", "classifier", "mmpretrain", "timm")
STOCK = LAYOUTS[3:]
REQUIRED_PARTS = {  # the parameters that a layout requires, and what to do if there are none
    "pretrainer": (
        ("head.predictors.", "head.heads."),  # of one target, and of a sum
        "holds an encoder and no head; take layout 'encoder'",
    ),
    "classifier": (
        ("head.probes.",),
        "holds no attentive probe; AIM's is published in a separate file, name it with --head",
    ),
}


@dataclass(frozen=True)
class Checkpoint:
    """Hold weights, and the mask under which their encoder gives features.

    Args:
        state: The weights under the names of MaskTargetPretrainer, without the mask.
        mask: Config of a mask factory.
        grid: The grid that the encoder was trained on.
        encoder_record: Record of the encoder's shape; None if the number of heads is not known.
        images: Record of how images enter the encoder; None if it is not known.
        note: A sentence on what the conversion left out.
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
        """Build a checkpoint from a state dict of a known source or of this toolkit.

        Args:
            state: The state dict as :func:`xtra_toolkit.weights.read.read_state` returns it.
            mask: Config of a mask factory, if the file does not tell it.
            img_size: Height and width of the images in pixels, if the file does not tell them.
            heads: Number of heads of the encoder's attention, if the file does not tell it.
            images: Record of how images enter the encoder, if the file does not tell it.

        Raises:
            ValueError: The names are of no known source, no mask is known or two are named, or
                the mask does not fit the grid.
        """
        state, source_mask, source_images, note = to_ours(state)
        stored = unpack(state.pop(MASK, None)) or dict(mask=None, grid=None)
        check_registered(stored["mask"])
        if stored["mask"] and mask and mask != stored["mask"]:
            raise ValueError(
                f"the checkpoint says that its mask is {stored['mask']}, and {mask} was given; "
                "give no mask, or load the checkpoint with change_mask=True to use another"
            )
        mask = stored["mask"] or mask or source_mask
        if mask is None:
            raise ValueError(
                "the checkpoint does not tell its encoder's mask (that of an original XTRA follows "
                "from its head, aim_proj); name it with --mask"
            )
        grid = grid_of(state, stored["grid"], img_size)
        if POSITIONS not in state and (stored.get("encoder") or {}).get("positions") not in (
            "none",
            "relative",
        ):
            state[POSITIONS] = sincos(grid.without_registers(), len(state[PATCHES]))
        with_registers(build_mask(mask), grid).for_features(grid).check(grid, mask["type"])
        record = stored.get("encoder") or describe_state(without_prefix(state), grid, heads)
        images = stored.get("images") or images or source_images
        return cls(state, mask, grid, record, images, note)

    @property
    def full(self) -> bool:
        """Return whether every token attends to every other when the encoder gives features."""
        mask = build_mask(self.mask).for_features(self.grid.without_registers())
        return bool(mask.attention_mask().all())

    @property
    def encoder(self) -> dict[str, Tensor]:
        """Return the parameters of the encoder, without prefix."""
        return without_prefix(self.state)

    def layout(self, name: str, full_attention: bool = False) -> dict:
        """Return what to save, ``dict(state_dict=..., meta=...)``.

        Args:
            name: ``'pretrainer'`` saves everything; ``'encoder'`` saves a MaskedViT;
                ``'classifier'`` saves an encoder with an attentive probe, which takes the layers'
                outputs without the final norm. These three hold the mask. ``'mmpretrain'`` and
                ``'timm'`` save a stock ViT, which has no mask.
            full_attention: Allow a stock ViT, which has full attention, for an encoder that was
                trained with another mask.

        Raises:
            ValueError: The layout is unknown, the checkpoint lacks a part that it requires, or a
                stock ViT would run the encoder with another mask than its own.
        """
        if name not in LAYOUTS:
            raise ValueError(f"unknown layout {name!r}; valid layouts: {', '.join(LAYOUTS)}")
        meta = dict(xtra_toolkit_version=__version__, layout=name, encoder_mask=self.mask)
        if name in STOCK:
            self._allow_stock(name, full_attention)
            timm = name == "timm"
            state = to_timm(self.encoder) if timm else with_prefix(to_mmpretrain(self.encoder))
            meta |= dict(attention="full", normalisation=self.images)
            return dict(state_dict=state, meta=meta)
        parts, hint = REQUIRED_PARTS.get(name, ((ENCODER,), ""))
        if not any(n.startswith(parts) for n in self.state):
            raise ValueError(f"the checkpoint {hint}")
        state = with_prefix(self.encoder) if name == "encoder" else dict(self.state)
        if name == "classifier":
            state = {n: v for n, v in state.items() if not n.startswith(f"{ENCODER}ln1.")}
        packed = pack(self.mask, self.grid, self.encoder_record, self.images)
        return dict(state_dict={**state, MASK: packed}, meta=meta)

    def _allow_stock(self, name: str, full_attention: bool) -> None:
        record = self.encoder_record or {}
        if names := record.get("unrecorded"):
            raise ValueError(
                f"the encoder was built with options that its checkpoint does not record "
                f"({', '.join(names)}), so a plain ViT of {name} may give other features; take "
                "layout 'encoder'"
            )
        if record.get("positions") == "relative":
            raise ValueError(
                f"the encoder has relative positions, which a plain ViT of {name} lacks; take "
                "layout 'encoder'"
            )
        parts = dict(record.get("parts", {}))
        if name == "timm":  # its ViT has registers
            parts.pop("registers", None)
        if parts:
            raise ValueError(
                f"the encoder has parts that a plain ViT of {name} lacks ({', '.join(parts)}), so "
                "its features would be others; take layout 'encoder'"
            )
        if not self.full and not full_attention:
            raise ValueError(
                f"the encoder was trained with the mask {self.mask}, and a stock ViT of {name} "
                "would run it with full attention and give other features; take layout "
                "'encoder', or allow full attention with --full-attention"
            )
