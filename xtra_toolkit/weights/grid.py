"""Find the grid of tokens that an encoder's weights were trained on."""

import math

from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.weights.sources import ENCODER, PATCHES, POSITIONS

AIM_SIZE = (224, 224)


def grid_of(
    state: dict[str, Tensor], stored: list[int] | None, img_size: tuple[int, int] | None
) -> PatchGrid:
    """Return the grid that the file records, or else the grid of the given size of the images.

    If neither is known, the position table is taken to be of a square grid.

    Args:
        state: The weights under our names. Weights without positions are AIM's, of 224×224 px.
        stored: Rows and columns that the file records; files of this toolkit do.
        img_size: Height and width of the images in pixels, if the user named them.

    Raises:
        ValueError: These do not agree, or the table is of no square and no size was named.
    """
    _, channels, *patch = state[PATCHES].shape
    placed, positions = int(f"{ENCODER}cls_token" in state), state.get(POSITIONS)
    table = state.get(f"{ENCODER}register_tokens")
    registers = 0 if table is None else table.shape[1]
    patch_args = tuple(patch), channels, placed + registers, registers
    tokens = None if positions is None else positions.shape[1] - placed
    given = PatchGrid.of(img_size, *patch_args) if img_size else None
    if stored:
        grid = PatchGrid(*stored, *patch_args)
    elif tokens is None:
        grid = given or PatchGrid.of(AIM_SIZE, *patch_args)
    else:
        grid = given or PatchGrid(*[math.isqrt(tokens)] * 2, *patch_args)
    if given not in (None, grid):
        raise ValueError(
            f"the checkpoint says that its encoder has {grid}; --img-size names {given}"
        )
    if tokens not in (None, grid.tokens):
        raise ValueError(
            f"the position table has {tokens} tokens, which do not make {grid}; name the size of "
            "the images with --img-size: only checkpoints of this toolkit tell it"
        )
    return grid
