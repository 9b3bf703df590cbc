"""The reductions and losses of the head, by hand."""

import pytest
import torch

from xtra_toolkit.models import PredictionHead

PREDICTION = torch.tensor([[[0.5, 0.5], [3.0, 3.0]], [[2.0, 2.0], [9.0, 9.0]]])
GOAL = torch.zeros(2, 2, 2)


def reduce(live, **options):
    head = PredictionHead(shapes=[(2, 2)], **options)
    return float(head.reduce(PREDICTION, GOAL, None if live is None else torch.tensor(live)))


@pytest.mark.parametrize(("loss", "value"), [("mse", 0.25), ("l1", 0.5), ("smooth_l1", 0.125)])
def test_losses(loss, value):
    assert reduce([[True, False], [False, False]], loss=loss) == pytest.approx(value)


def test_batch_counts_over_the_batch_and_image_over_each_image():
    live = [[True, True], [True, False]]
    assert reduce(live) == pytest.approx((0.25 + 9 + 4) / 3)
    assert reduce(live, reduction="image") == pytest.approx(((0.25 + 9) / 2 + 4) / 2)


def test_an_image_in_which_nothing_counts_is_no_nan():
    live = [[True, True], [False, False]]
    assert reduce(live, reduction="image") == pytest.approx((0.25 + 9) / 2)
    nothing = [[False, False]] * 2
    assert reduce(nothing) == reduce(nothing, reduction="image") == 0


def test_without_live_all_count():
    assert reduce(None) == pytest.approx((0.25 + 9 + 4 + 81) / 4)
