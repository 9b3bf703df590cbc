"""Test the tokens of grids of any shape, and the messages about invalid ones."""

import pytest
import torch

from xtra_toolkit.grid import PatchGrid


def test_unpatchify_inverts_patchify_on_a_rectangle():
    grid = PatchGrid.of((6, 8), (3, 2), channels=5)
    images = torch.randn(2, 5, 6, 8)
    patches = grid.patchify(images)
    assert patches.shape == (2, 2 * 4, 5 * 3 * 2)
    # token 5 is at row 1, column 1; its values are (channel, row, column)
    assert torch.equal(patches[0, 5], images[0, :, 3:6, 2:4].flatten())
    assert torch.equal(grid.unpatchify(patches), images)


def test_blocks_of_two_divide_a_grid_of_four_by_four():
    order = [block.tolist() for block in PatchGrid(4, 4).blocks(2)]
    assert order == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_blocks_may_be_rectangles():
    blocks = [block.tolist() for block in PatchGrid(2, 6).blocks((2, 3))]
    assert blocks == [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]]


def test_ragged_blocks_are_smaller_at_the_edges():
    blocks = [block.tolist() for block in PatchGrid(3, 3).blocks(2, ragged=True)]
    assert blocks == [[0, 1, 3, 4], [2, 5], [6, 7], [8]]


def test_a_block_that_does_not_tile_is_refused_with_alternatives():
    with pytest.raises(ValueError, match=r"3×3 tokens do not tile a grid of 16×16 tokens"):
        PatchGrid.of(256, 16).blocks(3)
    with pytest.raises(ValueError, match=r"sides that do: 1, 2, 4, 8, 16"):
        PatchGrid.of(256, 16).blocks(3)
    with pytest.raises(ValueError, match=r"fit: 192×192, 256×256 px .*ragged=True"):
        PatchGrid.of(224, 16).blocks(4)
    with pytest.raises(ValueError, match="block_size=0 was given"):
        PatchGrid.of(256, 16).blocks(0, ragged=True)


def test_a_patch_that_does_not_tile_the_image_is_refused():
    with pytest.raises(ValueError, match=r"16×16 px do not tile an image of 250×256 px"):
        PatchGrid.of((250, 256), 16)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 64, 64\).*needs \(3, 64, 64\)"):
        PatchGrid.of(64, 8).patchify(torch.zeros(1, 1, 64, 64))
