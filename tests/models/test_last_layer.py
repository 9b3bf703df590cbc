"""Test that a last layer of few positions gives the loss and gradients of all positions."""

from dataclasses import replace

import pytest
import torch
from helpers.builds import AIM, MAE, XTRA, pretrainer, randomise

from xtra_toolkit.targets import NextBlock
from xtra_toolkit.visualization.predictions.unit_sequence import step_plan


def both(mask, target, **options):
    """Return a model twice in float64, once without output positions."""
    models = [randomise(pretrainer(mask, target, **options)).double() for _ in range(2)]
    objective = models[1].objective
    objective.bounds = replace(
        objective.bounds, output_positions=None, spans=(None,) * len(objective.bounds.spans)
    )
    return models


@pytest.mark.parametrize(
    ("mask", "rows"),
    [("shown", 48), (dict(type="xtra_toolkit.RandomShown", mask_ratio=0.5), 32)],
)
def test_mae(mask, rows):
    images, results = torch.randn(3, 3, 64, 64, dtype=torch.float64), []
    for model in both(mask, "masked"):
        seen = []
        model.neck.layers[-1].ln1.register_forward_hook(
            lambda _, x, y, s=seen: s.append(y.shape[1])
        )
        model.neck.layers[-1].ffn.register_forward_hook(
            lambda _, x, y, s=seen: s.append(y.shape[1])
        )
        model.neck.ln1.register_forward_hook(lambda _, x, y, s=seen: s.append(y.shape[1]))
        plan = model.objective(3, images.device, torch.Generator().manual_seed(4))
        loss = model._loss(images, plan)["loss"]
        loss.backward()
        results.append((seen, loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (few, loss, grads), (all_, full, full_grads) = results
    assert few == [64, rows, rows] and all_ == [64, 64, 64]
    torch.testing.assert_close(loss, full, rtol=1e-12, atol=0)
    for name, grad in grads.items():
        error = (grad - full_grads[name]).abs().max()
        assert error <= 1e-12 * full_grads[name].abs().max(), name


@pytest.mark.parametrize("pair", [XTRA, AIM, ("token", "token")])
def test_where_all_are_read_nothing_changes(pair):
    model = pretrainer(*pair)
    plan = model.objective(2, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert plan.output_positions is None and all(
        group.output_index is None for group in plan.groups
    )


@pytest.mark.parametrize("pair", [XTRA, ("token", "token"), MAE])
def test_an_encoder_without_a_decoder_computes_what_is_read(pair):
    model = randomise(pretrainer(*pair)).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    plan, output_positions = model.plan(images), torch.tensor([[3, 5, 14]])
    some, every = (model.backbone.encode(images, plan, r) for r in (output_positions, None))
    torch.testing.assert_close(some, every[:, output_positions[0]], rtol=1e-12, atol=1e-12)


def test_sources_stay_positions_and_rows_are_their_places():
    objective = pretrainer(*MAE).objective
    plan = objective(2, torch.device("cpu"), torch.Generator().manual_seed(0))
    (group,) = plan.groups
    assert plan.output_positions.tolist() == [list(range(16, 64))] and group.span == (0, 48)
    assert torch.equal(plan.output_positions[0, group.output_index], group.source_positions)
    assert step_plan(plan, 0, 4).output_positions is None


class LateBlocks(NextBlock):
    """A target whose first blocks predict nothing, so that the last layer need not compute them."""

    def pairs(self, mask, grid):
        return [
            replace(
                link,
                source_positions=link.source_positions[:, 5:],
                target_positions=link.target_positions[:, 5:],
            )
            for link in super().pairs(mask, grid)
        ]


@pytest.mark.parametrize("mask", ["block", "block_orders", "token"])
def test_the_staircase_by_name_trains_a_last_layer_of_some_rows(mask):
    images, results = torch.randn(2, 3, 64, 64, dtype=torch.float64), []
    for backend in ("eager", "staircase"):
        decoder = dict(attention=backend)
        model = pretrainer(mask, dict(type=LateBlocks), decoder=decoder, attention=backend)
        model = randomise(model).double()
        plan = model.objective(2, images.device, torch.Generator().manual_seed(4))
        assert (
            plan.output_positions is not None
            and plan.output_positions.shape[1] < plan.decoder.length
        )
        loss = model._loss(images, plan)["loss"]
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (loss, grads), (other, others) = results
    torch.testing.assert_close(loss, other, rtol=1e-12, atol=0)
    for name, grad in grads.items():
        torch.testing.assert_close(others[name], grad, rtol=1e-9, atol=1e-12, msg=name)
