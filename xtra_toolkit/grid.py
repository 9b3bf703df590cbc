"""PatchGrid: an image as tokens in raster order.

Shape legend, used throughout the package:
    B images, C channels, N tokens of the grid, V = C * patch height * patch width values of a token
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """One number for both sides, or (height, width)."""
    sides = (value, value) if isinstance(value, int | float) else tuple(value)
    if len(sides) != 2 or any(not isinstance(side, int) for side in sides):
        raise ValueError(f"{value!r} was given; a size is a whole number, or (height, width)")
    return sides


@dataclass(frozen=True)
class PatchGrid:
    """Tokens of an image, numbered in raster order; rectangles are welcome.

    Args:
        rows, cols: tokens along the height and the width.
        patch: height and width of a token in pixels.
        channels: of the image.
        extra: tokens without pixels (a class token); their numbers follow those of the patches.
    """

    rows: int
    cols: int
    patch: tuple[int, int] = (1, 1)
    channels: int = 3
    extra: int = 0

    @classmethod
    def of(
        cls,
        img_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        channels: int = 3,
        extra: int = 0,
    ) -> "PatchGrid":
        """The grid of an image of ``img_size`` pixels; ValueError where the patch does not tile."""
        (height, width), (p, q) = pair(img_size), pair(patch_size)
        if height % p or width % q or not (height and width):
            raise ValueError(
                f"patches of {p}×{q} px do not tile an image of {height}×{width} px; the nearest "
                f"sizes that do: {max(height // p, 1) * p}×{max(width // q, 1) * q}, "
                f"{-(-height // p) * p}×{-(-width // q) * q} px"
            )
        return cls(height // p, width // q, (p, q), channels, extra)

    @property
    def tokens(self) -> int:
        """Tokens that have pixels."""
        return self.rows * self.cols

    @property
    def values(self) -> int:
        """Pixel values of one token."""
        return self.channels * self.patch[0] * self.patch[1]

    def __str__(self) -> str:
        (p, q), (r, c) = self.patch, (self.rows, self.cols)
        size = str(p) if p == q else f"{p}×{q}"
        return f"a grid of {r}×{c} tokens ({r * p}×{c * q} px, patch {size})"

    def name(self, token: int) -> str:
        """A token in image coordinates: 'patch (row, column)'."""
        if token < self.tokens:
            return f"patch {divmod(token, self.cols)}"
        return f"token {token} (no pixels)"

    def patchify(self, images: Tensor) -> Tensor:
        """(B, C, height, width) to (B, N, V), the values of a token as (channel, row, column)."""
        expected = (self.channels, self.rows * self.patch[0], self.cols * self.patch[1])
        if images.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(images.shape[1:])} (channels, height, width) were given; "
                f"{self} with {self.channels} channels needs {expected}"
            )
        p, q = self.patch
        return rearrange(images, "b c (r p) (s q) -> b (r s) (c p q)", p=p, q=q)

    def unpatchify(self, values: Tensor) -> Tensor:
        """(B, N, V) back to (B, C, height, width)."""
        (p, q), rows = self.patch, self.rows
        return rearrange(values, "b (r s) (c p q) -> b c (r p) (s q)", r=rows, p=p, q=q)

    def blocks(self, block_size: int | tuple[int, int], ragged: bool = False) -> list[Tensor]:
        """Token numbers of each block of tokens, (tokens of a block,), all in raster order.

        Args:
            block_size: tokens along each side, or (height, width).
            ragged: where they do not tile the grid, the last of a row or column are smaller.
        """
        height, width = pair(block_size)
        tiles = height > 0 and width > 0 and not (self.rows % height or self.cols % width)
        if not tiles and not (ragged and height > 0 and width > 0):
            raise ValueError(self._no_tiling(height, width))
        raster = torch.arange(self.tokens).view(self.rows, self.cols)
        bands = raster.split(height, 0)
        return [block.flatten() for band in bands for block in band.split(width, 1)]

    def _no_tiling(self, height: int, width: int) -> str:
        sides = [n for n in range(1, self.rows + 1) if not (self.rows % n or self.cols % n)]
        down, up = (
            "×".join(
                str(patch * side * max(1, rounded(tokens / max(side, 1))))
                for tokens, side, patch in zip(
                    (self.rows, self.cols), (height, width), self.patch, strict=True
                )
            )
            for rounded in (math.floor, math.ceil)
        )
        return (
            f"blocks of {height}×{width} tokens do not tile {self}; sides that do: "
            f"{', '.join(map(str, sides))}; image sizes that fit: {down}, {up} px (img_size, and "
            "the crops of the data pipelines); or BlockCausal(..., ragged=True) makes the last "
            "blocks smaller"
        )

    def no_extra(self, mask: str) -> None:
        """Refuse tokens without pixels on behalf of a mask that has no place for them."""
        if self.extra:
            raise ValueError(
                f"{mask} has no place for a token without pixels: one that looks back sees "
                "everything or nothing, and would never be trained; set with_cls_token=False"
            )
