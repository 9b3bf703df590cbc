"""2-D rotary positions (RoPE): queries and keys are turned by angles of the row and the column.

The angles belong to tokens, not to places in the sequence, so any order and any part of the tokens
is served. Tokens without pixels (a class token, registers) are not turned.

Shape legend: B images, N positions of a sequence, T tokens of a grid, d width of a head.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from mmpretrain.models.utils import RotaryEmbeddingFast
from torch import Tensor
from torch._guards import detect_fake_mode

from xtra_toolkit.grid import PatchGrid

EVA02_SIDE = 16  # the grid of EVA-02's pretraining; coordinates on other grids are scaled to it


@dataclass(frozen=True)
class Rotation:
    """Hold the rotary positions of a sequence. Call it to turn queries or keys (B, N, heads, d).

    Args:
        cos, sin: (B or 1, N, 1, d).
        halves: Whether channels c and c + d/2 form a pair, else 2c and 2c + 1.
    """

    cos: Tensor
    sin: Tensor
    halves: bool

    def __call__(self, x: Tensor) -> Tensor:
        if self.halves:
            first, second = x.chunk(2, -1)
            turned = torch.cat([-second, first], -1)
        else:
            first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
            turned = torch.stack([-second, first], -1).flatten(-2)
        return (x * self.cos + turned * self.sin).to(x.dtype)

    def rows(self, positions: Tensor | None) -> "Rotation":
        """Return the rotation of some positions (B or 1, R) of the sequence; None: of all."""
        if positions is None:
            return self
        index = positions[..., None, None]
        cos, sin = (torch.take_along_dim(table, index, 1) for table in (self.cos, self.sin))
        return Rotation(cos, sin, self.halves)


@dataclass(frozen=True)
class RotaryPositions:
    """Compute the angles of the tokens of a grid.

    Args:
        type: 'dinov3' (DINOv3), 'eva02' (EVA-02), or 'mmpretrain', which is RotaryEmbeddingFast of
            MMPretrain's EVA-02: it gives the two channels of a pair different angles.
        theta: Base of the geometric series of periods. Default: 100 for 'dinov3', else 10,000.

    Raises:
        ValueError: The type is unknown, or theta is not positive.
    """

    type: str
    theta: float | None = None

    def __post_init__(self) -> None:
        if self.type not in TABLES:
            raise ValueError(f"rope={self.type!r} was given; valid: {', '.join(TABLES)}")
        if self.theta is None:
            object.__setattr__(self, "theta", 100.0 if self.type == "dinov3" else 10000.0)
        if not (isinstance(self.theta, int | float) and 0 < self.theta < math.inf):
            raise ValueError(f"rope: theta={self.theta!r} was given; it must be above 0")

    @classmethod
    def of(cls, rope: "str | Mapping | RotaryPositions | None") -> "RotaryPositions | None":
        """Build from a config: None, a type, or ``dict(type=..., theta=...)``."""
        if rope is None or isinstance(rope, cls):
            return rope
        options = dict(type=rope) if isinstance(rope, str) else dict(rope)
        if "type" not in options or set(options) - {"type", "theta"}:
            raise ValueError(
                f"rope={rope!r} was given; it must be one of {', '.join(TABLES)}, or "
                "dict(type=..., theta=...)"
            )
        return cls(**options)

    def check(self, width: int, heads: int) -> None:
        """Raise a ValueError unless the width of a head is a multiple of 4."""
        if width % heads or width // heads % 4:
            raise ValueError(
                f"rope turns pairs of channels by the row and by the column, so the width of a "
                f"head must be a multiple of 4; the width {width} has {heads} heads"
            )

    def rotate(self, tokens: Tensor, grid: PatchGrid, head: int, dtype: torch.dtype) -> Rotation:
        """Return the rotation of a sequence of tokens (B or 1, N).

        Args:
            tokens: The token at each position.
            grid: The grid of the images.
            head: Width of a head, d.
            dtype: Type of the queries. The tables are in float32 or better.
        """
        dtype = torch.promote_types(dtype, torch.float32)
        # those of a graph or of fake tensors are not kept, since later passes are real
        traced = torch.compiler.is_compiling() or detect_fake_mode() is not None
        tables = _tables if traced else _kept_tables
        made = tables(self, grid, head, dtype, tokens.device)
        cos, sin = (table[tokens][:, :, None] for table in made)
        return Rotation(cos, sin, self.type == "dinov3")


def _tables(
    rope: RotaryPositions, grid: PatchGrid, head: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (T + extra, d) each, by token number."""
    cos, sin = TABLES[rope.type](grid, head, rope.theta, device)
    cos = torch.cat([cos, cos.new_ones(grid.extra, head)])
    sin = torch.cat([sin, sin.new_zeros(grid.extra, head)])
    return cos.to(dtype), sin.to(dtype)


# training may use tables later that were made in inference mode
_kept_tables = lru_cache(maxsize=32)(torch.inference_mode(False)(_tables))


def _dinov3(
    grid: PatchGrid, head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Compute DINOv3's tables: centres of patches from -1 to 1 along each axis, times 2π."""
    coordinates = [(axis + 0.5) / len(axis) * 2 - 1 for axis in _axes(grid, device)]
    angles = 2 * math.pi * _angles(coordinates, head, theta)
    return angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)


def _eva02(grid: PatchGrid, head: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute EVA-02's tables: the row and the column, scaled to a grid of 16×16."""
    coordinates = [axis / len(axis) * EVA02_SIDE for axis in _axes(grid, device)]
    angles = _angles(coordinates, head, theta).repeat_interleave(2, 1)
    return angles.cos(), angles.sin()


def _axes(grid: PatchGrid, device: torch.device) -> list[Tensor]:
    """Return the numbers of the rows, (rows,), and of the columns, (cols,)."""
    return [torch.arange(n, dtype=torch.double, device=device) for n in (grid.rows, grid.cols)]


def _angles(coordinates: list[Tensor], head: int, theta: float) -> Tensor:
    """Return (T, d/2) angles: those of the row, then those of the column."""
    channel = torch.arange(head // 4, dtype=torch.double, device=coordinates[0].device)
    frequency = theta ** -(channel / (head // 4))
    row, col = torch.meshgrid(*coordinates, indexing="ij")
    return torch.cat([axis.flatten()[:, None] * frequency for axis in (row, col)], 1)


@torch.compiler.disable  # a graph cannot build a module on a given device
def _mmpretrain(
    grid: PatchGrid, head: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    with device:
        module = RotaryEmbeddingFast(head, (grid.rows, grid.cols), theta)
    return module.freqs_cos, module.freqs_sin


Tables = Callable[[PatchGrid, int, float, torch.device], tuple[Tensor, Tensor]]
TABLES: dict[str, Tables] = {"dinov3": _dinov3, "eva02": _eva02, "mmpretrain": _mmpretrain}
