"""Mask: an ordered partition of the tokens. The currency of this package."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from xtra_toolkit.grid import PatchGrid


@dataclass(frozen=True)
class Mask:
    """An order of the tokens and a step for each; True means *may attend*, everywhere.

    Position q of the sequence may attend to position k where ``step[k] <= step[q]``. A leading
    dimension B stands where images differ. The fields are design, not history:

    Args:
        order: (N,) or (B, N) token at each position; numbers from ``grid.tokens`` on have no
            pixels. A mask may leave tokens out, or show one twice.
        step: (N,) or (B, N) whole numbers, never decreasing along the sequence.
        unit: (N,) whole numbers, never decreasing: what is predicted together. Default: every
            position alone.
        shown: (N,) or (B, N) bool, whose pixels enter the encoder; equally many in each image.
            Default: all.
        given: (N,) or (B, N) bool. A prediction whose tokens are all given does not count; one that
            is given in part counts whole. Default: none.
        attend: ``(query position, key position) -> bool``, elementwise on broadcast tensors, for
            a mask that is no ordered partition; it replaces the rule of the steps.
        copies: masks of each image over one pass of the encoder, which must see the same in all
            of them (I-JEPA). B is then copies × images, the first mask of all images first.
    """

    order: Tensor
    step: Tensor
    unit: Tensor | None = None
    visible: Tensor | None = None
    context: Tensor | None = None
    attend: Callable[[Tensor, Tensor], Tensor] | None = None
    masks_per_image: int = 1

    def __len__(self) -> int:
        return self.order.shape[-1]

    def to(self, device: torch.device | str) -> "Mask":
        """The same mask on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device)
            for f in fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def attention_mask(self) -> Tensor:
        """(B or 1, N, N) bool in sequence order: may position q (row) attend to k (column)?"""
        if self.attend is not None:
            at = torch.arange(len(self), device=self.order.device)
            return self.attend(at[:, None], at[None, :]).expand(1, len(self), len(self))
        step = torch.atleast_2d(self.step)
        return step[:, None, :] <= step[:, :, None]

    def check(self, grid: PatchGrid, name: str = "the mask") -> "Mask":
        """Hold the rules above on the host; ValueError names the first that is broken."""
        n, tokens = len(self), grid.tokens + grid.extra
        self._check_types(name)
        for field in ("step", "unit", "visible", "context"):
            value = getattr(self, field)
            if value is not None and value.shape[-1] != n:
                raise ValueError(f"{name}: `{field}` has {value.shape[-1]} positions, `order` {n}")
        if n == 0 or self.order.min() < 0 or self.order.max() >= tokens:
            raise ValueError(
                f"{name}: `order` must hold token numbers 0 to {tokens - 1} of {grid}; "
                f"given: {self.order.flatten().tolist()[:8]}…"
            )
        for field in ("step", "unit"):
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
            if counts.min() != counts.max() or not counts.min():
                raise ValueError(
                    f"{name}: `visible` must hold as many tokens in each image, and at least one; "
                    f"given: {counts.min()} to {counts.max()}"
                )
        if not self.attention_mask().any(-1).all():
            row = int((~self.attention_mask().any(-1)).nonzero()[0, -1])
            raise ValueError(
                f"{name}: position {row} may attend to nothing, and attention would return "
                "zeros for it without a word; let it see itself"
            )
        return self

    def _check_types(self, name: str) -> None:
        kinds = dict(order="whole", step="whole", unit="whole", visible="bool", context="bool")
        given = {f: getattr(self, f) for f in kinds if getattr(self, f) is not None}
        for field, value in given.items():
            if _kind_of(value) != kinds[field]:
                wanted = "bool" if kinds[field] == "bool" else "whole numbers"
                raise ValueError(f"{name}: `{field}` must hold {wanted}, not {value.dtype}")
        batches = {len(value) for value in given.values() if value.ndim == 2}
        if len(batches) > 1 or any(value.ndim not in (1, 2) for value in given.values()):
            shapes = {field: tuple(value.shape) for field, value in given.items()}
            raise ValueError(f"{name}: fields must be (N,) or (B, N) of one batch; given: {shapes}")
        if any(batch % self.masks_per_image for batch in batches):
            raise ValueError(
                f"{name}: masks_per_image={self.masks_per_image} masks an image need (copies × images, N) fields; "
                f"given: {batches.pop()} rows"
            )


def _kind_of(value: Tensor) -> str:
    if value.dtype == torch.bool:
        return "bool"
    return "whole" if not value.dtype.is_floating_point else "float"
