"""Pattern: which position may attend to which, as the back ends read it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

KINDS = ("full", "causal", "staircase", "dense")


@dataclass
class Pattern:
    """An attention pattern of Q queries over ``length`` positions; Q is N unless said.

    Args:
        kind: ``'full'``; ``'causal'``, position q reads the first q + 1; ``'staircase'``,
            position q reads the first ``sees[q]``; ``'dense'``, as ``mask`` says. Known on the
            host, so that a back end is picked without asking the device.
        length: positions, N.
        sees: (B or 1, Q) whole numbers, for a staircase.
        mask: (B or 1, Q, N) bool, True means *may attend*, for a dense pattern.
        stairs: what ``sees`` holds, on the host, where all images and all draws share it. What
            splits a staircase into parts without asking the device.
        queries: Q, where fewer rows ask than there are positions, see :meth:`rows`.
        read: the positions that :meth:`rows` will be asked for, in rising order, on the host.
    """

    kind: str
    length: int
    kv_lengths: Tensor | None = None
    mask: Tensor | None = None
    host_kv_lengths: tuple[int, ...] | None = None
    queries: int | None = None
    read: tuple[int, ...] | None = None
    _made: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert (self.kv_lengths is not None) or self.kind != "staircase"
        assert (self.mask is not None) == (self.kind == "dense")

    def to(self, device: torch.device | str) -> "Pattern":
        """The same pattern on another device."""
        moved = {
            name: value.to(device)
            for name in ("kv_lengths", "mask")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved, _made={})

    def rows(self, queries: Tensor) -> "Pattern":
        """The pattern of some positions' queries, (B or 1, Q), over all positions.

        Where they are those of ``read``, its stairs are known on the host again.
        """
        count, at = queries.shape[1], queries
        if self.kind == "full":
            return Pattern("full", self.length, queries=count)
        if self.kind == "dense":
            batch = max(len(at), len(self.mask))
            index = at[..., None].expand(batch, -1, self.length)
            mask = self.mask.expand(batch, -1, -1).gather(1, index)
            return Pattern("dense", self.length, mask=mask, queries=count)
        if self.kind == "causal":
            return Pattern(
                "staircase", self.length, at + 1, host_kv_lengths=self._stairs(count), queries=count
            )
        batch = max(len(at), len(self.kv_lengths))
        kv_lengths = self.kv_lengths.expand(batch, -1).gather(1, at.expand(batch, -1))
        return Pattern(
            "staircase", self.length, kv_lengths, host_kv_lengths=self._stairs(count), queries=count
        )

    def _stairs(self, count: int) -> tuple[int, ...] | None:
        """How far the positions of ``read`` read, where the host knows."""
        if len(self.read or ()) != count or (
            self.kind == "staircase" and self.host_kv_lengths is None
        ):
            return None
        return tuple(
            at + 1 if self.kind == "causal" else self.host_kv_lengths[at] for at in self.read
        )

    @property
    def shared(self) -> bool:
        """Do the images of a batch share the pattern?"""
        own = self.kv_lengths if self.mask is None else self.mask
        return own is None or len(own) == 1

    def dense(self, device: torch.device | str) -> Tensor:
        """(B or 1, Q, N) bool, made once a pattern and device."""
        return self.once(("dense", str(device)), lambda: self._dense(torch.device(device)))

    def bias(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """(B or 1, 1, Q, N), 0 where :meth:`dense` allows and -inf elsewhere, made once.

        Strides are multiples of 8, as kernels on CUDA want them.
        """
        return self.once(("bias", dtype, str(device)), lambda: self._bias(dtype, device))

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What ``make`` returns, remembered under ``key`` for the life of the pattern.

        In a compiled graph it is made anew: the graph would be compiled again once it is there.
        """
        if torch.compiler.is_compiling():
            return make()
        if key not in self._made:
            with torch.inference_mode(False):  # it is kept, and training may follow
                self._made[key] = make()
        return self._made[key]

    def _bias(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        mask = self.dense(device)[:, None]
        n = mask.shape[-1]
        padded = torch.zeros(*mask.shape[:-1], -(-n // 8) * 8, dtype=dtype, device=mask.device)
        return padded[..., :n].masked_fill_(~mask, -torch.inf)

    def _dense(self, device: torch.device) -> Tensor:
        if self.kind == "dense":
            return self.mask.to(device)
        at = torch.arange(self.length, device=device)
        if self.kind == "full":
            shape = 1, self.queries or self.length, self.length
            return torch.ones(shape, dtype=torch.bool, device=device)
        kv_lengths = at[None] + 1 if self.kind == "causal" else self.kv_lengths.to(device)
        return at < kv_lengths[..., None]
