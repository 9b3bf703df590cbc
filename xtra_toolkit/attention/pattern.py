"""Pattern: which position may attend to which, in the form that the back ends read."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

KINDS = ("full", "causal", "staircase", "dense")


@dataclass
class Pattern:
    """Hold the attention pattern of Q queries over N positions. Q is N unless ``queries`` is set.

    Args:
        kind: ``'full'``: every query attends to all positions. ``'causal'``: query q attends to the
            first q + 1. ``'staircase'``: query q attends to the first ``kv_lengths[q]``.
            ``'dense'``: ``mask`` tells. The kind is known on the host, so that a back end is chosen
            without a read from the device.
        length: Number of positions, N.
        kv_lengths: (B or 1, Q) integers, for a staircase.
        mask: (B or 1, Q, N) bool, True means *may attend*, for a dense pattern.
        host_kv_lengths: The values of ``kv_lengths`` on the host, if all images and all draws share
            them. A staircase is split into tiles by them without a read from the device.
        queries: Q, if it is less than N; see :meth:`rows`.
        output_positions: Positions for which :meth:`rows` will be called, in ascending order, on
            the host.
        score_bias: (B or 1, heads, Q, N) numbers that are added to the scores before the softmax,
            with gradients (relative positions). The back ends eager and sdpa serve it.
    """

    kind: str
    length: int
    kv_lengths: Tensor | None = None
    mask: Tensor | None = None
    host_kv_lengths: tuple[int, ...] | None = None
    queries: int | None = None
    output_positions: tuple[int, ...] | None = None
    score_bias: Tensor | None = None
    _cache: dict = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind
        assert (self.kv_lengths is not None) or self.kind != "staircase"
        assert (self.mask is not None) == (self.kind == "dense")

    def to(self, device: torch.device | str) -> "Pattern":
        """Return the same pattern on another device."""
        moved = {
            name: value.to(device)
            for name in ("kv_lengths", "mask", "score_bias")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **moved, _cache={})

    def rows(self, positions: Tensor) -> "Pattern":
        """Return the pattern of the queries at some positions, over all positions.

        ``host_kv_lengths`` stays known if the positions are ``output_positions``.

        Args:
            positions: (B or 1, Q) positions of the queries.
        """
        return self._with_bias_rows(self._rows(positions), positions)

    def cached_rows(self, positions: Tensor) -> "Pattern":
        """Return :meth:`rows` of the positions that a last layer computes; the pattern is kept.

        The rows of ``score_bias`` are not, since activation checkpointing has to compute again what
        has a gradient.
        """
        rows = self.cached(("rows",), lambda: self._rows(positions))
        return self._with_bias_rows(rows, positions)

    def _with_bias_rows(self, rows: "Pattern", positions: Tensor) -> "Pattern":
        if self.score_bias is None:
            return rows
        batch, heads = max(len(positions), len(self.score_bias)), self.score_bias.shape[1]
        index = positions[:, None, :, None].expand(batch, heads, -1, self.length)
        bias = self.score_bias.expand(batch, -1, -1, -1).gather(2, index)
        return replace(rows, score_bias=bias)

    def _rows(self, positions: Tensor) -> "Pattern":
        count = positions.shape[1]
        if self.kind == "full":
            return Pattern("full", self.length, queries=count)
        if self.kind == "dense":
            batch = max(len(positions), len(self.mask))
            index = positions[..., None].expand(batch, -1, self.length)
            mask = self.mask.expand(batch, -1, -1).gather(1, index)
            return Pattern("dense", self.length, mask=mask, queries=count)
        if self.kind == "causal":
            kv_lengths = positions + 1
        else:
            batch = max(len(positions), len(self.kv_lengths))
            positions = positions.expand(batch, -1)
            kv_lengths = self.kv_lengths.expand(batch, -1).gather(1, positions)
        host = self._host_rows(count)
        return Pattern("staircase", self.length, kv_lengths, host_kv_lengths=host, queries=count)

    def _host_rows(self, count: int) -> tuple[int, ...] | None:
        """Return the kv lengths of ``output_positions``, if the host knows them."""
        positions, host = self.output_positions or (), self.host_kv_lengths
        if len(positions) != count or (self.kind == "staircase" and host is None):
            return None
        return tuple(p + 1 if self.kind == "causal" else host[p] for p in positions)

    @property
    def shared(self) -> bool:
        """Return whether all images of a batch share the pattern."""
        rows = self.kv_lengths if self.mask is None else self.mask
        return rows is None or len(rows) == 1

    def dense(self, device: torch.device | str) -> Tensor:
        """Return (B or 1, Q, N) bool; it is computed once for each device."""
        return self.cached(("dense", str(device)), lambda: self._dense(torch.device(device)))

    def bias(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """Return (B or 1, 1, Q, N): 0 where :meth:`dense` is True and -inf elsewhere.

        It is computed once. Strides are multiples of 8, as CUDA kernels require.
        """
        return self.cached(("bias", dtype, str(device)), lambda: self._bias(dtype, device))

    def cached(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """Return ``compute()``; the result is kept under ``key`` as long as the pattern lives.

        In a compiled graph it is computed each time, since a cached value would make torch compile
        the graph again.
        """
        if torch.compiler.is_compiling():
            return compute()
        if key not in self._cache:
            with torch.inference_mode(False):  # training may use the value later
                self._cache[key] = compute()
        return self._cache[key]

    def _bias(self, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        mask = self.dense(device)[:, None]
        n = mask.shape[-1]
        padded = torch.zeros(*mask.shape[:-1], -(-n // 8) * 8, dtype=dtype, device=mask.device)
        return padded[..., :n].masked_fill_(~mask, -torch.inf)

    def _dense(self, device: torch.device) -> Tensor:
        if self.kind == "dense":
            return self.mask.to(device)
        positions = torch.arange(self.length, device=device)
        if self.kind == "full":
            shape = 1, self.queries or self.length, self.length
            return torch.ones(shape, dtype=torch.bool, device=device)
        kv_lengths = positions[None] + 1 if self.kind == "causal" else self.kv_lengths.to(device)
        return positions < kv_lengths[..., None]
