"""Test the check that a whole model trains."""

import pytest
import torch
from helpers.builds import XTRA, pretrainer

from xtra_toolkit.testing import check_steps


def test_a_model_that_trains_passes_and_its_weights_move():
    model, seen = pretrainer(*XTRA), []
    check_steps(model, steps=2, before=seen.append)
    first = model.backbone.patch_embed.projection.weight.detach().clone()
    assert seen == [0, 1]
    check_steps(model, steps=1)
    assert not torch.equal(first, model.backbone.patch_embed.projection.weight)


def test_a_parameter_without_a_gradient_is_named():
    model = pretrainer(*XTRA)
    model.head.unused = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match=r"get no gradient: head\.unused"):
        check_steps(model)


def test_a_loss_that_is_not_finite_fails():
    model = pretrainer(*XTRA)
    with pytest.raises(AssertionError, match="the loss of step 1 is nan"):
        check_steps(
            model, before=lambda step: step and model.backbone.ln1.weight.data.fill_(torch.nan)
        )
