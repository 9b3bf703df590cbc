"""Test my_target by hand, and by the checks of xtra_toolkit."""

import my_target
import torch

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.testing import check_target

BLOCKS = dict(type="xtra_toolkit.BlockCausal", block_size=2)


def test_it_keeps_its_contract():
    check_target(dict(type="xtra_toolkit.MyTarget"), BLOCKS)


def test_a_mean_by_hand():
    images = torch.arange(8.0).view(1, 1, 2, 4)  # two tokens of 2×2 px
    values = my_target.MyTarget().values(images, PatchGrid(1, 2, (2, 2), channels=1))
    assert values.tolist() == [[[2.5], [4.5]]]
