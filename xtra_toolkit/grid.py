"""Define PatchGrid, the tokens of an image in raster order.

Shape legend, used throughout the package: B images, C channels, N tokens of the grid,
V = C * patch height * patch width values of a token.
"""

import math
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a size that is given as one integer or as a pair.

    Raises:
        ValueError: The size is neither an integer nor a pair of integers.
    """
    sides = (value, value) if isinstance(value, int | float) else tuple(value)
    if len(sides) != 2 or any(not isinstance(side, int) for side in sides):
        raise ValueError(f"{value!r} was given; a size is a whole number or (height, width)")
    return sides


@dataclass(frozen=True)
class PatchGrid:
    """Divide an image, which may be a rectangle, into tokens numbered in raster order.

    Args:
        rows, cols: Number of tokens along the height and along the width.
        patch: Height and width of a token in pixels.
        channels: Number of channels of the image.
        extra: Number of tokens without pixels: a class token and registers. Their numbers follow
            those of the patches.
        registers: How many of these are registers, which have the last numbers. Masks know nothing
            of them, see :mod:`xtra_toolkit.objective.registers`.
    """

    rows: int
    cols: int
    patch: tuple[int, int] = (1, 1)
    channels: int = 3
    extra: int = 0
    registers: int = 0

    @classmethod
    def of(
        cls,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        channels: int = 3,
        extra: int = 0,
        registers: int = 0,
    ) -> "PatchGrid":
        """Build the grid of an image from its size in pixels.

        Raises:
            ValueError: A size is not positive, or the patches do not tile the image.
        """
        (height, width), (p, q) = pair(img_size), pair(patch_size)
        if min(p, q) < 1 or min(height, width) < 1:
            raise ValueError(
                f"img_size={img_size} and patch_size={patch_size} were given; both are sizes in "
                "pixels and must be 1 or more"
            )
        if height % p or width % q:
            raise ValueError(
                f"patches of {p}×{q} px do not tile an image of {height}×{width} px; the nearest "
                f"sizes that do: {max(height // p, 1) * p}×{max(width // q, 1) * q}, "
                f"{-(-height // p) * p}×{-(-width // q) * q} px"
            )
        return cls(height // p, width // q, (p, q), channels, extra, registers)

    @property
    def tokens(self) -> int:
        """Return the number of tokens that have pixels."""
        return self.rows * self.cols

    @property
    def values(self) -> int:
        """Return the number of pixel values of one token."""
        return self.channels * self.patch[0] * self.patch[1]

    @property
    def placed(self) -> int:
        """Return the number of tokens without pixels to which a mask gives a place."""
        return self.extra - self.registers

    def without_registers(self) -> "PatchGrid":
        """Return the same grid without registers."""
        return replace(self, extra=self.placed, registers=0)

    @property
    def img_size(self) -> tuple[int, int]:
        """Return height and width of the image in pixels."""
        return self.rows * self.patch[0], self.cols * self.patch[1]

    def __str__(self) -> str:
        (p, q), (height, width) = self.patch, self.img_size
        size = str(p) if p == q else f"{p}×{q}"
        return f"a grid of {self.rows}×{self.cols} tokens ({height}×{width} px, patch {size})"

    def name(self, token: int) -> str:
        """Return a token in image coordinates: 'patch (row, column)'."""
        if token < self.tokens:
            return f"patch {divmod(token, self.cols)}"
        first = self.tokens + self.placed
        return f"register {token - first}" if token >= first else f"token {token} (no pixels)"

    def patchify(self, images: Tensor) -> Tensor:
        """Cut images (B, C, height, width) into tokens (B, N, V).

        The values of a token are in the order (channel, row, column).

        Raises:
            ValueError: The images do not have the size of the grid.
        """
        expected = (self.channels, *self.img_size)
        if images.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(images.shape[1:])} (channels, height, width) were given; "
                f"{self} with {self.channels} channels needs {expected}"
            )
        p, q = self.patch
        return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=p, q=q)

    def unpatchify(self, values: Tensor) -> Tensor:
        """Put tokens (B, N, V) together to images (B, C, height, width)."""
        (p, q), rows = self.patch, self.rows
        return rearrange(values, "b (r s) (c p q) -> b c (r p) (s q)", r=rows, p=p, q=q)

    def blocks(self, block_size: int | tuple[int, int], ragged: bool = False) -> list[Tensor]:
        """Divide the grid into blocks of tokens.

        Args:
            block_size: Number of tokens along each side of a block, or (height, width).
            ragged: Whether the last blocks of a row or column may be smaller if the blocks do not
                tile the grid.

        Returns:
            Blocks in raster order; each holds its token numbers (tokens of the block,) in raster
            order.

        Raises:
            ValueError: A side is not positive, or the blocks do not tile the grid and ``ragged``
                is not set.
        """
        height, width = pair(block_size)
        if min(height, width) < 1:
            raise ValueError(
                f"block_size={block_size} was given; a block has 1 token or more along each side"
            )
        if not (ragged or self.rows % height == self.cols % width == 0):
            raise ValueError(self._tiling_error(height, width))
        raster = torch.arange(self.tokens).view(self.rows, self.cols)
        bands = raster.split(height, 0)
        return [block.flatten() for band in bands for block in band.split(width, 1)]

    def _tiling_error(self, height: int, width: int) -> str:
        sides = [n for n in range(1, self.rows + 1) if not (self.rows % n or self.cols % n)]
        axes = zip((self.rows, self.cols), (height, width), self.patch, strict=True)
        smaller, larger = zip(
            *(
                [str(patch * side * max(1, r(n / side))) for r in (math.floor, math.ceil)]
                for n, side, patch in axes
            ),
            strict=True,
        )
        return (
            f"blocks of {height}×{width} tokens do not tile {self}; sides that do: "
            f"{', '.join(map(str, sides))}; image sizes that fit: {'×'.join(smaller)}, "
            f"{'×'.join(larger)} px (set img_size and the crops of the data pipelines); "
            "BlockCausal(..., ragged=True) makes the last blocks smaller instead"
        )

    def no_extra(self, mask: str) -> None:
        """Raise a ValueError if the grid has tokens without pixels.

        Args:
            mask: Name of the mask that has no place for such tokens.
        """
        if self.extra:
            raise ValueError(
                f"{mask} has no place for a token without pixels: under this mask it would attend "
                "to everything or to nothing, and would never be trained; set with_cls_token=False"
            )
