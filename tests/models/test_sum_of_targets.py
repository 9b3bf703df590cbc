"""Test a weighted sum of targets against its parts, each trained alone with the same weights."""

from types import SimpleNamespace

import pytest
import torch
from helpers.builds import MASKS, arch
from mmpretrain.registry import MODELS

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.hooks import split_loss_hook
from xtra_toolkit.hooks.split_loss_hook import SplitLoss
from xtra_toolkit.masks import BlockCausal
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches, SumOfTargets
from xtra_toolkit.visualization.predictions.image_panels import panels
from xtra_toolkit.weights.checkpoint import Checkpoint

PIXELS = dict(type="xtra_toolkit.NextBlock", look_ahead=2)
HISTOGRAMS = dict(
    type="xtra_toolkit.HOG", cell=4, window=0, target=dict(type="xtra_toolkit.NextBlock")
)
HEAD = dict(type="xtra_toolkit.PredictionHead")
HEADS = [HEAD | dict(hidden=32, loss="mse"), HEAD | dict(loss="cosine")]


def build(target, head, mask="block"):
    return MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=MASKS[mask],
            target_generator=target,
            backbone=dict(
                type="xtra_toolkit.MaskedViT", arch=arch(24, 1, 2), img_size=32, patch_size=8
            ),
            neck=dict(type="xtra_toolkit.ViTDecoder", width=24, depth=1, heads=2),
            head=head,
        )
    ).double()


def summed(targets=(PIXELS, HISTOGRAMS), heads=HEADS, mask="block", **options):
    target = dict(type="xtra_toolkit.SumOfTargets", targets=list(targets))
    head = dict(type="xtra_toolkit.SumOfHeads", heads=list(heads), **options)
    return build(target, head, mask)


def load(model, other, part):
    """Copy the weights of a sum into the model of one of its parts."""
    mine = {
        name.replace(f"head.heads.{part}.", "head."): value
        for name, value in other.state_dict().items()
        if f"heads.{1 - part}." not in name and "target_generator" not in name
    }
    model.load_state_dict(mine)


@pytest.mark.parametrize("weights", [None, [1.0, 0.4]])
def test_the_loss_and_the_gradients_are_the_weighted_sum_of_the_parts(weights):
    torch.manual_seed(0)
    model, images = summed(weights=weights), torch.randn(2, 3, 32, 32).double()
    model.init_weights()
    loss = model.loss(images)["loss"]
    loss.backward()
    expected, gradients = 0, {}
    for part, (target, head) in enumerate(zip((PIXELS, HISTOGRAMS), HEADS, strict=True)):
        alone = build(target, head)
        load(alone, model, part)
        own = (weights or [1.0, 1.0])[part] * alone.loss(images)["loss"]
        own.backward()
        expected = expected + own
        for name, p in alone.named_parameters():
            name = name.replace("head.", f"head.heads.{part}.")
            gradients[name] = gradients.get(name, 0) + p.grad
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found = {name: p.grad for name, p in model.named_parameters()}
    assert found.keys() == gradients.keys()
    for name, grad in gradients.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-14)
    assert len(model.objective.links) == 3 and "in 3 groups" in model.objective.certificate


def test_a_sum_is_not_drawn():
    with pytest.raises(ValueError, match="SumOfTargets adds up 2 targets, and a picture is of one"):
        panels(summed(), torch.randn(1, 3, 32, 32).double())


def test_the_checkpoint_of_a_sum_is_converted():
    model = summed()
    checkpoint = Checkpoint.of(model.state_dict())
    summed().load_state_dict(checkpoint.layout("pretrainer")["state_dict"])
    encoder = checkpoint.layout("encoder")["state_dict"]
    assert all(name.startswith("backbone.") for name in encoder)
    for name in ("mmpretrain", "timm"):
        stock = checkpoint.layout(name, full_attention=True)["state_dict"]
        assert not any("head" in key or "neck" in key for key in stock)
    with pytest.raises(ValueError, match="holds no attentive probe"):
        checkpoint.layout("classifier")


def test_losses_are_counted_by_the_reduction_of_each_head():
    """Check a mask under which predictions count or not, over micro-batches of a step."""
    heads = [HEAD, HEAD | dict(reduction="image")]
    targets = [
        dict(type="xtra_toolkit.NextToken"),
        dict(type="xtra_toolkit.NextToken", look_ahead=2),
    ]
    model = summed(targets, heads, "prefix")
    samples = [[dict(draw_seed=i, step_seed=1) for i in (0, 1)], [dict(draw_seed=2, step_seed=1)]]
    with model.counting(samples):
        predictions, *images = [float(count) for count in model._counts]
        plans = [model.plan(torch.empty(len(s)), s) for s in samples]
    counted = sum(int(plan.groups[0].loss_mask.sum()) for plan in plans)
    assert predictions == counted / 2 > 2  # the mean over micro-batches
    assert images == [1.5, 1.5]


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"has 2 targets, and the head has 1; set head=dict\(type"):
        build(dict(type="xtra_toolkit.SumOfTargets", targets=[PIXELS, HISTOGRAMS]), HEAD)
    with pytest.raises(ValueError, match="has 2 targets, and the head has 3"):
        summed(heads=[*HEADS, HEAD])
    with pytest.raises(ValueError, match="one target, and the head has a list of heads"):
        build(PIXELS, dict(type="xtra_toolkit.SumOfHeads", heads=[HEAD]))
    with pytest.raises(ValueError, match="3 weights were given for 2 heads"):
        summed(weights=[1, 2, 3])
    with pytest.raises(ValueError, match=r"reads=\[0, 1\] was given, .* returns 1 output"):
        summed(reads=[0, 1])
    with pytest.raises(ValueError, match="each must be finite and above 0"):
        summed(weights=[1, float("nan")])
    with pytest.raises(ValueError, match=r"HOG gives values, but .*to 'mse'"):
        summed(heads=[HEAD, HEAD | dict(loss="cross_entropy")])
    with pytest.raises(ValueError, match="1 targets were given; a sum needs two"):
        SumOfTargets([PIXELS])
    with pytest.raises(ValueError, match="none of them may be a sum"):
        SumOfTargets([PIXELS, SumOfTargets([PIXELS, PIXELS])])
    both = SumOfTargets([PIXELS, MaskedPatches()])
    with pytest.raises(ValueError, match="MaskedPatches predicts hidden tokens"):
        certify_objective(BlockCausal(2), both, PatchGrid.of(32, 8))


def test_the_split_loss_skips_a_sum(monkeypatch):
    """The hook splits one loss by steps or rows; a sum has a loss for each target."""
    hook, lines = SplitLoss(), []
    monkeypatch.setattr(split_loss_hook, "print_log", lambda line, **_: lines.append(line))
    for model, works in ((summed(), False), (build(PIXELS, HEAD), True)):
        hook.before_train(SimpleNamespace(model=model, iter=0))
        assert hook.works == works
    assert len(lines) == 1 and "SumOfTargets has a loss for each of its targets" in lines[0]
