"""Mask: an order of the tokens and a step for each; and the contract of a mask factory."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid


@dataclass(frozen=True)
class Mask:
    """Hold an order of the tokens and a step for each. True means *may attend*, everywhere.

    Position q of the sequence may attend to position k where ``step[k] <= step[q]``. A field has a
    leading dimension B where images differ, of size 1 where those of a batch share what is drawn. N
    is the number of positions.

    Args:
        order: (N,) or (B, N) token at each position. Numbers from ``grid.tokens`` on are tokens
            without pixels. A mask may leave tokens out, or hold one twice.
        step: (N,) or (B, N) integers, never decreasing along the sequence.
        unit: (N,) integers, never decreasing: the tokens of a unit are predicted together.
            Default: each position is a unit.
        visible: (N,) or (B, N) bool, tokens whose pixels enter the encoder. The others are hidden.
            They are left out of the encoder, and then equally many must be visible in each image,
            or mask tokens stand for them, ``MaskedViT(mask_tokens=True)``. Default: all.
        context: (N,) or (B, N) bool, tokens that are never predicted. A prediction is left out of
            the loss where all its tokens are context, unless its target declares that it predicts
            what it sees (``Links.sees_target``). Default: none.
        attend: ``(query position, key position) -> bool`` on broadcast tensors, for a mask that is
            no ordered partition. It replaces the rule of the steps.
        decoder_step: (N,) or (B, N) integers, never decreasing along the sequence: the steps that
            the decoder follows. Default: it follows ``step`` and ``attend``.
        decoder_attend: A predicate that the decoder follows, in place of ``decoder_step``.
        masks_per_image: Number of masks that share one pass of the encoder over an image (I-JEPA);
            they must have the same visible tokens. B is then ``masks_per_image`` times the number
            of images, the first mask of all images first.
    """

    order: Tensor
    step: Tensor
    unit: Tensor | None = None
    visible: Tensor | None = None
    context: Tensor | None = None
    attend: Callable[[Tensor, Tensor], Tensor] | None = None
    masks_per_image: int = 1
    decoder_step: Tensor | None = None
    decoder_attend: Callable[[Tensor, Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return self.order.shape[-1]

    def to(self, device: torch.device | str) -> "Mask":
        """Return the same mask on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def attention_mask(self) -> Tensor:
        """Return (B or 1, N, N) bool: whether position q (row) may attend to k (column)."""
        if self.attend is not None:
            at = torch.arange(len(self), device=self.order.device)
            return self.attend(at[:, None], at[None, :]).expand(1, len(self), len(self))
        step = torch.atleast_2d(self.step)
        return step[:, None, :] <= step[:, :, None]

    @property
    def own_decoder(self) -> bool:
        """Return whether the decoder has a mask of its own."""
        return self.decoder_step is not None or self.decoder_attend is not None

    @property
    def has_predicate(self) -> bool:
        """Return whether encoder or decoder follow a predicate."""
        return self.attend is not None or self.decoder_attend is not None

    def of_decoder(self) -> "Mask":
        """Return the mask that the decoder follows."""
        if not self.own_decoder:
            return self
        step = self.step if self.decoder_step is None else self.decoder_step
        own = dict(step=step, attend=self.decoder_attend)
        return replace(self, **own, decoder_step=None, decoder_attend=None)

    def visible_or_all(self) -> Tensor:
        """Return (N,) or (B, N) bool, ``visible`` or all True."""
        if self.visible is None:
            return torch.ones(len(self), dtype=torch.bool, device=self.order.device)
        return self.visible

    def of_image(self, image: int) -> "Mask":
        """Return the masks of one image of the batch, (masks_per_image, N) where fields differ."""
        rows = {
            f.name: value[
                image % (len(value) // self.masks_per_image) :: len(value) // self.masks_per_image
            ]
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor) and value.ndim == 2
        }
        return replace(self, **rows)

    def check(self, grid: PatchGrid, name: str = "the mask", mask_tokens: bool = False) -> "Mask":
        """Check the rules above on the host; raise a ValueError that names the first broken one.

        Args:
            grid: The grid of the images.
            name: Name of the mask for the message.
            mask_tokens: Whether mask tokens stand for the hidden tokens in the encoder.
        """
        n, tokens = len(self), grid.tokens + grid.extra
        self._check_types(name)
        for field in ("step", "unit", "visible", "context", "decoder_step"):
            value = getattr(self, field)
            if value is not None and value.shape[-1] != n:
                raise ValueError(f"{name}: `{field}` has {value.shape[-1]} positions, `order` {n}")
        if n == 0 or self.order.min() < 0 or self.order.max() >= tokens:
            raise ValueError(
                f"{name}: `order` must hold token numbers 0 to {tokens - 1} of {grid}; "
                f"given: {self.order.flatten().tolist()[:8]}…"
            )
        for field in ("step", "unit", "decoder_step"):
            value = getattr(self, field)
            if value is not None and (value.diff(dim=-1) < 0).any():
                at = int((torch.atleast_2d(value).diff(dim=-1) < 0).nonzero()[0, -1])
                raise ValueError(
                    f"{name}: `{field}` decreases from position {at} to {at + 1}; sort the "
                    f"sequence by `{field}`, it must never decrease"
                )
        if self.unit is not None and self.unit.ndim != 1:
            raise ValueError(f"{name}: `unit` must be shared by the batch, of shape ({n},)")
        if self.visible is not None:
            counts = torch.atleast_2d(self.visible).sum(-1)
            if not counts.min() or (counts.min() != counts.max() and not mask_tokens):
                raise ValueError(
                    f"{name}: `visible` must hold as many tokens in each image, and at least one; "
                    f"given: {counts.min()} to {counts.max()}; an encoder with mask tokens "
                    "(backbone.mask_tokens=True) allows other numbers"
                )
        for mask, where in ((self, ""), (self.of_decoder(), " in the decoder")):
            blind = ~mask.attention_mask().any(-1)
            if blind.any():
                raise ValueError(
                    f"{name}: position {int(blind.nonzero()[0, -1])} may attend to nothing{where}, "
                    "and attention would return zeros for it without a warning; let it see itself"
                )
        return self

    def _check_types(self, name: str) -> None:
        kinds = dict(order="whole", step="whole", unit="whole", decoder_step="whole")
        kinds |= dict(visible="bool", context="bool")
        given = {f: getattr(self, f) for f in kinds if getattr(self, f) is not None}
        for field, value in given.items():
            if _kind_of(value) != kinds[field]:
                wanted = "bool" if kinds[field] == "bool" else "whole numbers"
                raise ValueError(f"{name}: `{field}` must hold {wanted}, not {value.dtype}")
        batches = {len(value) for value in given.values() if value.ndim == 2}
        batches = batches - {1} or batches  # the images of a batch may share a draw
        if len(batches) > 1 or any(value.ndim not in (1, 2) for value in given.values()):
            shapes = {field: tuple(value.shape) for field, value in given.items()}
            raise ValueError(f"{name}: fields must be (N,) or (B, N) of one batch; given: {shapes}")
        if any(batch % self.masks_per_image for batch in batches):
            raise ValueError(
                f"{name}: masks_per_image={self.masks_per_image} needs fields of shape "
                f"(masks_per_image × images, N); given: {batches.pop()} rows"
            )


def _kind_of(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "bool"
    return "whole" if not value.dtype.is_floating_point else "float"


class MaskFactory:
    """Declare every member of a mask that the toolkit uses, as the base class of all masks.

    A subclass implements :meth:`__call__` and :meth:`for_features`. Register it in
    ``xtra_toolkit.registry.MASKS``.
    """

    random: bool = True
    """Set this to False if the mask never draws: it is then compiled once, and its ``for_features``
    and order are kept."""

    weighted: bool = False
    """Set this to True if the mask draws by numbers that the target computes of the images. Its
    ``__call__`` then takes them as a fourth argument, ``weights`` (batch, tokens), which is None
    where there are no images; see ``Target.weights``. How many links count must not depend on
    them, since these are counted without images."""

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        """Make the mask of a batch. Called in each step if the mask is random.

        Args:
            grid: The grid of the images.
            batch: Number of images.
            generator: What to draw from, through :func:`xtra_toolkit.masks.mask_rng`, on the device
                where the mask is needed. None: the draw of evaluation, always the same.
        """
        raise NotImplementedError

    def for_features(self, grid: PatchGrid) -> Mask:
        """Make the mask under which the encoder is probed. It must name every token once."""
        raise NotImplementedError

    def extremes(self, grid: PatchGrid) -> list[Mask]:
        """Return draws at the ends of the distribution. They are certified besides sampled ones."""
        return []

    def with_context(self, grid: PatchGrid, units: int) -> Mask:
        """Make the mask whose first ``units`` units are context. Continuation calls this.

        The default is evaluation's draw: a mask without a prefix is continued from any unit.

        Raises:
            ValueError: The mask was not trained with so many.
        """
        return self(grid, 1, None)
