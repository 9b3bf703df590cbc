"""Test the reductions and losses of the head by hand."""

import pytest
import torch

from xtra_toolkit.models import PredictionHead
from xtra_toolkit.models import linear as wide
from xtra_toolkit.models.linear import WideLinear

PREDICTION = torch.tensor([[[0.5, 0.5], [3.0, 3.0]], [[2.0, 2.0], [9.0, 9.0]]])
GOAL = torch.zeros(2, 2, 2)


def reduce(loss_mask, **options):
    head = PredictionHead(shapes=[(2, 2)], **options)
    return float(
        head.reduce(PREDICTION, GOAL, None if loss_mask is None else torch.tensor(loss_mask))
    )


@pytest.mark.parametrize(("loss", "value"), [("mse", 0.25), ("l1", 0.5), ("smooth_l1", 0.125)])
def test_losses(loss, value):
    assert reduce([[True, False], [False, False]], loss=loss) == pytest.approx(value)


@pytest.mark.parametrize("tokens", [1, 3])
def test_soft_cross_entropy_is_torchs(tokens):
    """Check each link against torch's own loss, and one-hot targets against class ids."""
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, tokens, 5, generator=g, dtype=torch.float64)
    soft = torch.randn(2, 4, tokens, 5, generator=g, dtype=torch.float64).softmax(-1)
    loss_mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    head = PredictionHead(shapes=[(2, 5 * tokens)], loss="soft_cross_entropy")
    found = head.reduce(logits.flatten(2), soft, loss_mask)
    links = [
        torch.nn.functional.cross_entropy(logits[b, i], soft[b, i])
        for b, i in loss_mask.nonzero().tolist()
    ]
    torch.testing.assert_close(found, torch.stack(links).mean(), rtol=1e-12, atol=0)
    ids = soft.argmax(-1)
    one_hot = torch.nn.functional.one_hot(ids, 5).double()
    hard = PredictionHead(shapes=[(2, 5 * tokens)], loss="cross_entropy")
    for mask in (loss_mask, None):
        one, other = (
            h.reduce(logits.flatten(2), t, mask) for h, t in ((head, one_hot), (hard, ids))
        )
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize("wrong", [2.0, -1.0])
def test_targets_that_are_no_probabilities_are_refused(wrong):
    head = PredictionHead(shapes=[(2, 2)], loss="soft_cross_entropy")
    target = torch.tensor([1.0 - wrong, wrong]) if wrong < 0 else torch.tensor([wrong, 1.0])
    with pytest.raises(RuntimeError, match="no probabilities; each must be 0 or more, and those"):
        head.reduce(torch.zeros(1, 1, 2), target.view(1, 1, 1, 2), None)


def test_batch_counts_over_the_batch_and_image_over_each_image():
    loss_mask = [[True, True], [True, False]]
    assert reduce(loss_mask) == pytest.approx((0.25 + 9 + 4) / 3)
    assert reduce(loss_mask, reduction="image") == pytest.approx(((0.25 + 9) / 2 + 4) / 2)


def test_an_image_without_counted_predictions_gives_no_nan():
    loss_mask = [[True, True], [False, False]]
    assert reduce(loss_mask, reduction="image") == pytest.approx((0.25 + 9) / 2)
    nothing = [[False, False]] * 2
    assert reduce(nothing) == reduce(nothing, reduction="image") == 0


def test_without_a_loss_mask_all_predictions_count():
    assert reduce(None) == pytest.approx((0.25 + 9 + 4 + 81) / 4)


@pytest.mark.parametrize("reduction", ["batch", "image"])
def test_predictions_are_counted_over_all_ranks(reduction, monkeypatch):
    """Check that gradients averaged over ranks are those of one whole batch."""
    from xtra_toolkit.models import prediction_head as module

    head = PredictionHead(shapes=[(4, 2)], reduction=reduction)
    x, goal = torch.randn(6, 5, 4), torch.randn(6, 5, 2)
    loss_mask = torch.rand(6, 5) < torch.tensor([0.9, 0.1, 0.8, 0.2, 0.5, 0.3])[:, None]
    loss_mask[:, 0], loss_mask[1] = True, False  # an image predicts nothing

    def gradient(part, count):
        monkeypatch.setattr(module, "get_world_size", lambda: 6 // len(x[part]))
        monkeypatch.setattr(module, "all_reduce", lambda own: own.fill_(count))
        loss = head.reduce(head.predictors[0](x[part]), goal[part], loss_mask[part])
        return torch.autograd.grad(loss, head.predictors[0].weight)[0]

    count = loss_mask.sum() if reduction == "batch" else loss_mask.any(1).sum()
    whole = gradient(slice(None), count)
    ranks = [gradient(slice(2 * r, 2 * r + 2), count) for r in range(3)]
    torch.testing.assert_close(torch.stack(ranks).mean(0), whole)
    head.eval()  # each for itself
    alone = [gradient(slice(2 * r, 2 * r + 2), count) for r in range(3)]
    assert (torch.stack(alone).mean(0) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("rows", [15, 60])  # fewer than the inputs, and more
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [False, True])
def test_a_wide_linear_is_linear(rows, weights, autocast, monkeypatch):
    """Check the special backward pass for few rows in bfloat16, which rounds the same products.

    In all other cases torch's own runs, with the same bits.
    """
    calls, special = [], rows < 40 and (autocast or weights == torch.bfloat16)
    backward = wide._RowsFirst.backward
    spy = staticmethod(lambda *args: calls.append(1) or backward(*args))
    monkeypatch.setattr(wide._RowsFirst, "backward", spy)
    one = WideLinear(40, 24).to(weights)
    other = torch.nn.Linear(40, 24).to(weights)
    other.load_state_dict(one.state_dict())
    x, grad = torch.randn(3, rows // 3, 40).to(weights), torch.randn(3, rows // 3, 24)
    results = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for linear in (one, other):
            inputs = x.clone().requires_grad_()
            out = linear(inputs)
            out.backward(grad.to(out.dtype))
            results.append([out, inputs.grad, linear.weight.grad, linear.bias.grad])
    assert len(calls) == special
    close = dict(rtol=1e-2, atol=1e-2) if special else dict(rtol=0, atol=0)
    for mine, expected in zip(*results, strict=True):
        assert mine.dtype == expected.dtype
        torch.testing.assert_close(mine, expected, **close)
