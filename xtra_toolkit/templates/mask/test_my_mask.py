"""Test my_mask by hand, and by the checks of xtra_toolkit."""

import my_mask
import pytest

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.testing import check_mask

NEXT_BLOCK = dict(type="xtra_toolkit.NextBlock")


@pytest.mark.parametrize("width", [1, 2])
def test_it_keeps_its_contract(width):
    check_mask(dict(type="xtra_toolkit.MyMask", width=width), NEXT_BLOCK)


def test_the_order_by_hand():
    mask = my_mask.MyMask(width=1)(PatchGrid(2, 3))
    assert mask.order.tolist() == [0, 3, 1, 4, 2, 5]
    assert mask.step.tolist() == [0, 0, 1, 1, 2, 2]


def test_no_width():
    with pytest.raises(ValueError, match="width=0 was given"):
        my_mask.MyMask(0)
