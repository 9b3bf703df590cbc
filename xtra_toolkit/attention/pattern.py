"""Pattern: which position may attend to which, as the back ends read it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

KINDS = ("full", "causal", "staircase", "dense")


@dataclass
class Pattern:
    """An attention pattern over ``length`` positions.

    Args:
        kind: ``'full'``; ``'causal'``, position q reads the first q + 1; ``'staircase'``,
            position q reads the first ``sees[q]``; ``'dense'``, as ``mask`` says. Known on the
            host, so that a back end is picked without asking the device.
        length: positions, N.
        sees: (B or 1, N) whole numbers, for a staircase.
        mask: (B or 1, N, N) bool, True means *may attend*, for a dense pattern.
    """

    kind: str
    length: int
    sees: Tensor | None = None
    mask: Tensor | None = None
    _made: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert (self.sees is not None) or self.kind != "staircase"
        assert (self.mask is not None) == (self.kind == "dense")

    def to(self, device: torch.device | str) -> "Pattern":
        """The same pattern on another device."""
        moved = {
            name: value.to(device)
            for name in ("sees", "mask")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved, _made={})

    @property
    def shared(self) -> bool:
        """Do the images of a batch share the pattern?"""
        own = self.sees if self.mask is None else self.mask
        return own is None or len(own) == 1

    def dense(self, device: torch.device | str) -> Tensor:
        """(B or 1, N, N) bool, made once a pattern and device."""
        return self.once(("dense", str(device)), lambda: self._dense(torch.device(device)))

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, remembered under ``key`` for the life of the pattern."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def _dense(self, device: torch.device) -> Tensor:
        if self.kind == "dense":
            return self.mask.to(device)
        at = torch.arange(self.length, device=device)
        if self.kind == "full":
            return torch.ones(1, self.length, self.length, dtype=torch.bool, device=device)
        sees = at[None] + 1 if self.kind == "causal" else self.sees.to(device)
        return at < sees[..., None]
