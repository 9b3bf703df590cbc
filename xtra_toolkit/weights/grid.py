"""The grid of tokens that an encoder's weights were trained on."""

import math

from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.weights.sources import ENCODER, PATCHES, POSITIONS

AIM_SIZE = (224, 224)


def grid_of(
    state: dict[str, Tensor], stored: list[int] | None, img_size: tuple[int, int] | None
) -> PatchGrid:
    """What the file says; else that of the images' size; else a square of its position table.

    Args:
        state: under our names; one without positions is AIM's.
        stored: rows and columns that the file names, as ours do.
        img_size: height and width of the images in pixels, if they were named.

    Raises:
        ValueError: these do not agree, or the table makes no square and no size was named.
    """
    extra, (_, channels, *patch) = int(f"{ENCODER}cls_token" in state), state[PATCHES].shape
    rest, table = (tuple(patch), channels, extra), state.get(POSITIONS)
    tokens = None if table is None else table.shape[1] - extra
    given = PatchGrid.of(img_size, *rest) if img_size else None
    if stored:
        grid = PatchGrid(*stored, *rest)
    elif tokens is None:
        grid = given or PatchGrid.of(AIM_SIZE, *rest)
    else:
        grid = given or PatchGrid(*[math.isqrt(tokens)] * 2, *rest)
    if given not in (None, grid):
        raise ValueError(
            f"the checkpoint says that its encoder has {grid}; --img-size names {given}"
        )
    if tokens not in (None, grid.tokens):
        raise ValueError(
            f"the position table has {tokens} tokens, which do not make {grid}; name the size of "
            "the images (--img-size), which checkpoints other than ours do not tell"
        )
    return grid
