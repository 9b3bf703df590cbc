"""Make position embeddings. Tables are as in MMPretrain: tokens without pixels come first."""

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid

KINDS = ("learned", "sincos", "none")


def position_table(kind: str, grid: PatchGrid, width: int) -> nn.Parameter | None:
    """Return a table of position embeddings, (1, extra + N, width), in raster order.

    Args:
        kind: ``'learned'`` (zeros until ``init_weights``), ``'sincos'`` (fixed, no gradient), or
            ``'none'``, for which None is returned.
        grid: The grid of the images.
        width: Width of an embedding.

    Raises:
        ValueError: The kind is unknown, or the width of a 'sincos' table is no multiple of 4.
    """
    if kind not in KINDS:
        raise ValueError(
            f"positions={kind!r} was given; valid: {', '.join(KINDS)}, and 'relative' in an encoder"
        )
    if kind == "none":
        return None
    if kind == "learned":
        return nn.Parameter(torch.zeros(1, grid.extra + grid.tokens, width))
    return nn.Parameter(sincos(grid, width), requires_grad=False)


def sincos(grid: PatchGrid, width: int) -> Tensor:
    """Compute sines and cosines of the column, then of the row; zeros for tokens without pixels.

    This is the order of MAE (facebookresearch/mae at efb2a80) and AIM (apple/ml-aim at bd9e068).
    MMPretrain's MAE puts the row first, which swaps the halves of the channels.
    """
    if width % 4:
        raise ValueError(f"'sincos' positions need a width that is a multiple of 4; given: {width}")
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, col = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.cols), indexing="ij")
    angles = [coordinate.flatten()[:, None] * frequency for coordinate in (col, row)]
    table = torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)
    return torch.cat([table.new_zeros(grid.extra, width), table])[None].float()


def by_token(table: Tensor, grid: PatchGrid) -> Tensor:
    """Return a table in the order of token numbers, with zeros for registers that it lacks."""
    if not grid.extra:
        return table
    patches, others = table[:, -grid.tokens :], table[:, : -grid.tokens]
    lacking = table.new_zeros(1, grid.tokens + grid.extra - table.shape[1], table.shape[-1])
    return torch.cat([patches, others, lacking], 1)


def check_positions(kind: str, rope: object) -> None:
    """Raise a ValueError if nothing would tell the model where a token lies."""
    if kind == "none" and rope is None:
        raise ValueError(
            "positions='none' was given without rope, so nothing would tell where a token lies; "
            "set rope, for instance to 'dinov3', or positions to 'learned' or 'sincos'"
        )
