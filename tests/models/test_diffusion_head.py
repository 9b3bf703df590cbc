"""Test the diffusion head: MAR's numbers, seeds, accumulation, precision and compositions."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.builds import MASKS, arch
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from safetensors.torch import load_file

from xtra_toolkit.hooks.split_loss_hook import SplitLoss
from xtra_toolkit.masks.rng import StepGenerator, head_rng, mask_rng
from xtra_toolkit.models import DiffusionHead
from xtra_toolkit.visualization.predictions.pixels import true_pixels

GOLDEN = Path(__file__).parents[1] / "golden" / "mar_diffloss.safetensors"
HEAD = dict(type="xtra_toolkit.DiffusionHead", width=16, depth=2, repeats=2)
RATIO = dict(low=0.7, high=1.0, mean=1.0, std=0.25)
COMPOSITIONS = {
    "MAR": (
        dict(type="xtra_toolkit.RandomShown", mask_ratio=RATIO),
        dict(type="xtra_toolkit.MaskedPatches", normalise=False),
    ),
    "AIM": (MASKS["prefix"], dict(type="xtra_toolkit.NextToken", normalise=False)),
    "XTRA": (MASKS["block"], dict(type="xtra_toolkit.NextBlock", normalise=False, look_ahead=2)),
}
SEEDS = [dict(draw_seed=seed, step_seed=5) for seed in range(11, 19)]


def model(name, head=HEAD, **changes):
    mask, target = COMPOSITIONS[name]
    hides = dict(with_cls_token=True, mask_tokens=True) if name == "MAR" else {}
    config = dict(
        type="xtra_toolkit.MaskTargetPretrainer",
        mask=mask,
        target_generator=target,
        backbone=dict(
            type="xtra_toolkit.MaskedViT", arch=arch(24, 1, 2), img_size=32, patch_size=8, **hides
        ),
        neck=dict(type="xtra_toolkit.ViTDecoder", width=24, depth=1, heads=2),
        head=head,
    )
    torch.manual_seed(0)
    built = MODELS.build(config | changes)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for n, p in built.named_parameters():
            p.copy_(0.1 * torch.randn(p.shape, generator=g) + (".ln" in n and p.ndim == 1))
    return built


def samples(seeds):
    return [DataSample(metainfo=seed) for seed in seeds]


def images(count=8, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, 32, 32, generator=g, dtype=torch.float64).to(dtype) * 2 - 1


def our_name(name):
    for old, new in (("embed.mlp", "embed"), ("in_ln", "norm"), ("adaLN_modulation", "modulation")):
        name = name.replace(old, new)
    return name


def golden_head(dtype):
    golden = {n: v.to(dtype) if v.is_floating_point() else v for n, v in load_file(GOLDEN).items()}
    head = DiffusionHead(width=16, depth=2, shapes=[(10, 6)]).to(dtype)
    weights = {our_name(n[7:]): v for n, v in golden.items() if n.startswith("weight/")}
    head.predictors[0].load_state_dict(weights)
    return head, golden


def test_loss_and_every_gradient_equal_those_of_mar():
    """The ten tokens of the golden case are five predictions with two draws each."""
    head, golden = golden_head(torch.float64)
    condition = golden["z"].clone().requires_grad_()
    found = torch.stack(
        [
            head.link_losses(
                0,
                condition[i].view(1, 1, 10),
                golden["target"][i].view(1, 1, 6),
                golden["t"][i].view(1, 1, 1),
                golden["noise"][i].view(1, 1, 1, 6),
            )[0, 0]
            for i in range(10)
        ]
    )
    torch.testing.assert_close(found, golden["loss"], rtol=1e-10, atol=0)
    (found / golden["loss"]).mean().backward()
    gradients = {n: p.grad for n, p in head.predictors[0].named_parameters()}
    gradients["z"] = condition.grad
    names = [n[5:] for n in golden if n.startswith("grad/")]
    assert {our_name(n) for n in names} == gradients.keys()
    for name in names:
        grad = golden[f"grad/{name}"]
        error = (gradients[our_name(name)] - grad).abs().max()
        assert error <= 1e-10 * grad.abs().max(), name


def test_links_average_their_draws():
    head, golden = golden_head(torch.float64)
    same = (golden[n][:1].expand(10, -1) for n in ("z", "target"))
    t, noise = golden["t"], golden["noise"]
    condition, target = (rows.reshape(5, 2, -1)[None, :, 0] for rows in same)
    found = head.link_losses(0, condition, target, t.view(1, 5, 2), noise.view(1, 5, 2, 6))
    each = head.link_losses(
        0,
        condition[:, :1].expand(1, 10, -1),
        target[:, :1].expand(1, 10, -1),
        t.view(1, 10, 1),
        noise.view(1, 10, 1, 6),
    )
    torch.testing.assert_close(found, each.view(1, 5, 2).mean(-1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_schedule_equals_mars_in_any_dtype(dtype):
    head = DiffusionHead(width=4, depth=1, shapes=[(4, 2)]).to(dtype)
    table = head.schedule.view(torch.float32)
    torch.testing.assert_close(table, load_file(GOLDEN)["schedule"], rtol=1e-6, atol=0)
    assert not head.state_dict().keys() & {"schedule"}


def test_an_image_draws_from_its_seed_alone():
    """Draw it in another batch, order and step; neither the mask nor other images share it."""
    built = model("MAR")
    torch.manual_seed(1)
    (whole,) = built.plan(images(4), samples(SEEDS[:4])).groups
    torch.manual_seed(2)
    other = [dict(seed, step_seed=9) for seed in (SEEDS[3], SEEDS[1])]
    (part,) = built.plan(images(2), samples(other)).groups
    for drawn, again in zip(whole.draws, part.draws, strict=True):
        assert torch.equal(drawn[[3, 1]], again) and not torch.equal(drawn[0], drawn[1])
    generator = StepGenerator([1, 2], 5, "cpu")
    ours, masks = head_rng(generator).rand(2, 400), mask_rng(generator).rand(2, 400)
    rows = torch.corrcoef(torch.cat([ours, masks]))
    assert (rows - torch.eye(4)).abs().max() < 0.2
    timestep, noise = whole.draws
    assert timestep.shape == (4, 16, 2) and noise.shape == (4, 16, 2, 192)
    assert timestep.min() >= 0 and timestep.max() < 1000


def test_fixed_masks_draw_in_each_step_and_keep_their_plan():
    built = model("XTRA")
    plans = [built.plan(images(2), samples(SEEDS[i : i + 2])) for i in (0, 2, 0)]
    noise = [torch.cat([g.draws[1].flatten(1) for g in plan.groups], 1) for plan in plans]
    assert torch.equal(noise[0], noise[2]) and not torch.equal(noise[0], noise[1])
    assert built.objective(2, torch.device("cpu")).groups[0].draws is None
    first, second = plans[0].groups  # one for each distance
    assert not torch.equal(first.draws[0][:, 0], second.draws[0][:, 0])


def test_each_mask_of_an_image_has_its_own_noise():
    head = DiffusionHead(width=4, depth=1, repeats=1, shapes=[(4, 2)])
    group = SimpleNamespace(tokens=torch.zeros(1, 3, 1))

    def draw(seeds):
        return head.draw(0, group, len(seeds), 2, head_rng(StepGenerator(seeds, 5, "cpu")))[0]

    both, alone = draw([1, 2]), draw([2])
    assert both.shape == (4, 3, 1) and torch.equal(both[1::2], alone)
    assert not torch.equal(alone[0], alone[1])


def gradients(built):
    return {name: p.grad for name, p in built.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_accumulated_gradients_equal_those_of_the_whole_batch(name):
    built = model(name).double().train()
    whole = built.loss(images(), samples(SEEDS))["loss"]
    whole.backward()
    expected = gradients(built)
    assert not [n for n, grad in expected.items() if grad is None]
    built.zero_grad()
    parts, total = [slice(i, i + 2) for i in range(0, 8, 2)], 0
    with built.counting(SEEDS[part] for part in parts):
        for part in parts:
            loss = built.loss(images()[part], samples(SEEDS[part]))["loss"] / 4
            loss.backward()
            total = total + loss.detach()
    torch.testing.assert_close(total, whole.detach(), rtol=1e-10, atol=0)
    for n, grad in gradients(built).items():
        assert (grad - expected[n]).norm() <= 1e-10 * expected[n].norm(), n


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_few_steps_lower_the_loss(name):
    """Train on the same images and draws; new weights predict zeros."""
    built = model(name, HEAD | dict(width=32))
    built.init_weights()
    optimizer, losses = torch.optim.AdamW(built.parameters(), lr=1e-2), []
    for _ in range(10):
        loss = built.loss(images(2, torch.float32), samples(SEEDS[:2]))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_autocast_and_bfloat16_weights(name):
    built = model(name)
    exact = float(built.loss(images(8, torch.float32), samples(SEEDS))["loss"].detach())
    with torch.autocast("cpu", torch.bfloat16):
        loss = built.loss(images(8, torch.float32), samples(SEEDS))["loss"]
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(exact, rel=0.02)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in built.parameters() if p.requires_grad)
    built = built.bfloat16()
    loss = built.loss(images(8, torch.bfloat16), samples(SEEDS))["loss"]
    assert float(loss.detach()) == pytest.approx(exact, rel=0.05)


def test_compiling_changes_nothing():
    """Make the graph and run it as it is, which is exact."""
    built = model("AIM")
    plain = built.loss(images(2, torch.float32), samples(SEEDS[:2]))["loss"]
    torch._dynamo.reset()
    compiled = torch.compile(built.loss, backend="eager")
    found = compiled(images(2, torch.float32), samples(SEEDS[:2]))["loss"]
    assert torch.equal(found, plain)
    found.backward()


def test_validation_draws_the_same_each_time():
    built, losses = model("AIM").eval(), []
    for _ in range(2):
        torch.manual_seed(len(losses))
        with torch.no_grad():
            (sample, *_) = built.predict(images(2, torch.float32))
        losses.append(float(sample.pretrain_loss))
    assert losses[0] == losses[1] > 0


def test_the_head_works_as_a_part_of_a_sum_of_heads():
    _, target = COMPOSITIONS["AIM"]
    both = dict(type="xtra_toolkit.SumOfTargets", targets=[target, target])
    mse = dict(type="xtra_toolkit.PredictionHead")
    heads = dict(type="xtra_toolkit.SumOfHeads", heads=[mse, HEAD], weights=[1.0, 0.5])
    built = model("AIM", heads, target_generator=both).double()
    plan = built.plan(images(2), samples(SEEDS[:2]))
    assert [group.draws is None for group in plan.groups] == [True, False]
    x, values = built.decode(images(2), plan), built.target_values(images(2), plan)
    first, second = (
        head.loss(x, SimpleNamespace(groups=[group]), [value])["loss"]
        for head, group, value in zip(built.head.heads, plan.groups, values, strict=True)
    )
    found = built.loss(images(2), samples(SEEDS[:2]))["loss"]
    torch.testing.assert_close(found, first + 0.5 * second, rtol=1e-12, atol=0)


def test_unsupported_settings_are_refused():
    built = model("AIM")
    with pytest.raises(
        ValueError, match=r"DiffusionHead learns a distribution .* no prediction to"
    ):
        true_pixels(built, images(1, torch.float32))
    hook = SplitLoss()
    hook.before_train(SimpleNamespace(model=built, iter=0))
    assert not hook.works
    with pytest.raises(ValueError, match=r"DiffusionHead\(width=0, .*each is 1 or more"):
        model("AIM", HEAD | dict(width=0))
