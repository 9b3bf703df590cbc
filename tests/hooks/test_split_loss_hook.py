"""Test that the parts of SplitLoss add up to the loss, and that it does not change the training."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.fft
import torch
from helpers.builds import AIM, MAE, XTRA, pretrainer, randomise
from helpers.processes import on_two
from helpers.tiny_runs import flat, run
from helpers.watching import DDP, HALF, SAFE, Generators, curves, logged_lines
from mmpretrain.structures import DataSample

from xtra_toolkit.evaluation import loss_parts as parts
from xtra_toolkit.evaluation.loss_parts import Bands, Ranges, dct, link_weights
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.hooks import SplitLoss

ORDERS = ("block_orders", "block")
LOOK_AHEAD = ("block", dict(type="xtra_toolkit.NextBlock", look_ahead=2, normalise=False))


class Wrapper:
    """Run without autocast."""

    def optim_context(self, model):
        return torch.no_grad()


class Stub:
    iter = 0

    def __init__(self, model):
        self.model, self.optim_wrapper = model, Wrapper()


def measured(model, images):
    """Return the parts by name, and the ranges."""
    samples = [DataSample(metainfo=dict(draw_seed=s, step_seed=5)) for s in range(8)]
    model.data_preprocessor = Both(samples[: len(images)])
    hook = SplitLoss()
    hook.before_train(Stub(model))
    return hook.measure(Stub(model), images), hook


class Both(torch.nn.Module):
    def __init__(self, samples):
        super().__init__()
        self.samples = samples

    def forward(self, images, training=False):
        return dict(inputs=images, data_samples=self.samples)


def weights_of(model, hook, images):
    """Return each range's share of the loss, found by counting links."""
    plan = model.plan(images, model.data_preprocessor(images)["data_samples"])
    shares = torch.zeros(len(hook.ranges.names), dtype=torch.float64)
    for number, group in enumerate(plan.groups):
        shape = (len(images) * plan.masks_per_image, group.tokens.shape[1])
        loss_mask = torch.ones(shape) if group.loss_mask is None else group.loss_mask.expand(shape)
        index = hook.ranges.of(group, number).expand(shape)
        for i, g in loss_mask.nonzero().tolist():
            count = (
                loss_mask.sum()
                if model.head.reduction == "batch"
                else loss_mask[i].sum() * shape[0]
            )
            shares[index[i, g]] += 1 / count / len(plan.groups)
    return shares


PAIRS = dict(XTRA=XTRA, AIM=AIM, MAE=MAE, orders=ORDERS, ahead=LOOK_AHEAD)
CASES = [(pair, loss, "batch") for pair in PAIRS for loss in ("mse", "l1")]
CASES += [("AIM", "mse", "image"), ("XTRA", "cosine", "batch")]
CASES += [(pair, "mse", "batch") for pair in ("rotary", "relative", "mask tokens")]
ROTARY = dict(rope="dinov3", positions="none")
PARTS = {
    "rotary": (XTRA, dict(ROTARY, decoder=ROTARY)),
    "relative": (AIM, dict(positions="relative")),
    "mask tokens": (MAE, dict(mask_tokens=True, positions="relative")),
}


@pytest.mark.parametrize(("pair", "loss", "reduction"), CASES)
def test_steps_average_to_the_loss_and_bands_add_up_to_the_squares(pair, loss, reduction):
    head = dict(hidden=64, loss=loss, reduction=reduction)
    pair, parts = PARTS[pair] if pair in PARTS else (PAIRS[pair], {})
    model = randomise(pretrainer(*pair, head=head, **parts)).double()
    images = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    found, hook = measured(model, images)
    plan = model.plan(images, model.data_preprocessor(images)["data_samples"])
    target_values, made = model.target_values(images, plan), model.reconstruct(images, plan)
    groups = list(zip(made, target_values, plan.groups, strict=True))
    whole = sum(model.head.reduce(m, g, group.loss_mask) for m, g, group in groups) / len(groups)
    shares = weights_of(model, hook, images)
    assert shares.sum() == pytest.approx(1, rel=1e-6)
    ranges = {name: share for name, share in zip(hook.ranges.names, shares, strict=True) if share}
    assert set(ranges) == {name for name in found if "band" not in name}
    mean = sum(found[name] * float(share) for name, share in ranges.items())
    assert mean == pytest.approx(float(whole), rel=1e-6)

    model.head.distance = torch.nn.functional.mse_loss
    squares = sum(model.head.reduce(m, g, group.loss_mask) for m, g, group in groups) / len(groups)
    bands = [value for name, value in found.items() if "band" in name]
    assert len(bands) > 5 and sum(bands) == pytest.approx(float(squares), rel=1e-6)
    if loss == "mse":
        assert sum(bands) == pytest.approx(float(whole), rel=1e-6)
    assert len(set(found.values())) == len(found)  # all parts differ


def names(pair, **options):
    return Ranges(pretrainer(*pair, **options).objective).names


def test_ranges_are_named_by_steps_or_rows():
    assert names(XTRA)[:2] == ["loss_step/000", "loss_step/001"] and len(names(XTRA)) == 16
    tokens = names(AIM)  # 64 tokens
    assert tokens[:2] == ["loss_step/000-003", "loss_step/004-007"]
    assert tokens[-1] == "loss_step/060-063" and len(tokens) == 16
    assert names(MAE) == [f"loss_row/{row:03d}" for row in range(8)]
    many = names(MAE, image=160)  # 20 rows
    assert many[0] == "loss_row/000-001" and len(many) == 16 and many[-1] == "loss_row/019"


def test_a_step_or_row_with_a_large_loss_is_found():
    """The fourth block (rows 0 and 1, columns 6 and 7) or the fifth row of the images is noise."""
    for pair, hard in ((XTRA, "loss_step/003"), (MAE, "loss_row/004")):
        target = dict(pretrainer_target(pair), normalise=False)
        model = randomise(pretrainer(pair[0], target), scale=0.01)
        images = torch.zeros(4, 3, 64, 64)
        place = (slice(0, 16), slice(48, 64)) if pair == XTRA else (slice(32, 40), slice(None))
        images[:, :, place[0], place[1]] = torch.randn(4, 3, 64, 64)[:, :, place[0], place[1]]
        found, _ = measured(model, images)
        assert (
            found[hard]
            > 0.9
            > 0.1
            > max(v for k, v in found.items() if k != hard and "band" not in k)
        )


def pretrainer_target(pair):
    return dict(type=f"xtra_toolkit.{'NextBlock' if pair == XTRA else 'MaskedPatches'}")


def test_a_wave_is_counted_in_its_band():
    """A cosine of u half waves over a patch of 8 has u/16 cycles per pixel: band u."""
    bands = Bands(PatchGrid(2, 2, (8, 8)))
    assert bands.names == [f"loss_band/{b}" for b in range(8)]
    for u in range(8):
        wave = torch.cos(torch.pi * u * (torch.arange(8).double() + 0.5) / 8)
        patch = wave.expand(3, 8, 8).reshape(1, 1, -1)
        expected = torch.zeros(8).double()
        expected[u] = patch.square().mean()
        torch.testing.assert_close(bands.of(patch, torch.ones(1, 1).double()), expected)
    assert Bands(PatchGrid(2, 2, (2, 2))).names == ["loss_band/0", "loss_band/4", "loss_band/5"]


@pytest.mark.parametrize("reduction", ["batch", "image"])
def test_link_weights_of_two_processes_equal_those_of_the_joint_batch(reduction, monkeypatch):
    loss_mask = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 1]]).bool()
    weights = link_weights(loss_mask, (4, 3), reduction, loss_mask)
    count = loss_mask.sum() if reduction == "batch" else loss_mask.any(1).sum()
    monkeypatch.setattr(parts, "all_reduce", lambda own, op: own.fill_(count / 2))
    halves = [link_weights(half, (2, 3), reduction, half) for half in loss_mask.split(2)]
    torch.testing.assert_close(torch.cat(halves) / 2, weights)


def test_the_dct_equals_that_of_scipy():
    values = np.random.default_rng(0).normal(size=(5, 14))
    mine = values @ dct(14).T.numpy()
    np.testing.assert_allclose(mine, scipy.fft.dct(values, norm="ortho"), atol=1e-12)


@pytest.mark.parametrize(
    ("pair", "changes"), [("AIM", {}), ("MAE", dict(optim_wrapper=HALF))], ids=["fp32", "bf16"]
)
def test_weights_and_losses_are_bit_identical_with_and_without(pair, changes, tmp_path):
    """Train 15 steps with drop path, random crops and masks, and accumulation."""
    watches, split = (Generators(), Generators()), dict(type="xtra_toolkit.SplitLoss", interval=2)
    hooks = [[SAFE, watches[0]], [SAFE, split, watches[1]]]
    (plain, one), (watched, other) = (
        run(tmp_path / str(i), pair, custom_hooks=own, **changes) for i, own in enumerate(hooks)
    )
    assert len(one.losses) == 15 and one.losses == other.losses
    for part in ("model", "optim_wrapper"):
        first, second = (flat(getattr(r, part).state_dict()) for r in (plain, watched))
        assert len(first) > 30 and first == second
    assert watches[0].states == watches[1].states
    assert len(curves(tmp_path / "1", "loss_band/0")[0]) == 7
    assert "loss_band" not in logged_lines(tmp_path / "1")
    (file,) = (tmp_path / "1").glob("*/vis_data/scalars.json")
    lines = [line for line in map(json.loads, file.open()) if "loss_band/0" in line]
    assert all(line["iter"] == line["step"] for line in lines)  # what W&B draws over


def picture(folder):
    (file,) = Path(folder).glob("*/vis_data/vis_image/loss_split_15.png")
    return cv2.imread(str(file))


def test_the_parts_of_a_step_add_up_to_its_logged_loss_and_are_drawn(tmp_path):
    """Train without drop path and accumulation; a resumed run draws the whole curve."""
    options = dict(drop_path=0.0, batch_size=8)
    options["custom_hooks"] = [SAFE, dict(type="xtra_toolkit.SplitLoss", interval=1)]
    _, seen = run(tmp_path / "whole", "XTRA", **options)
    bands = curves(tmp_path / "whole", *(f"loss_band/{b}" for b in (0, 2, 4, 6, 7)))
    several = curves(tmp_path / "whole", "loss_band/3", "loss_band/5")
    total = np.sum([line for line in bands + several if line], 0)
    np.testing.assert_allclose(total, list(seen.losses.values()), rtol=1e-5)
    rows = curves(tmp_path / "whole", *(f"loss_step/00{i}" for i in range(1, 4)))
    np.testing.assert_allclose(np.mean(rows, 0), total, rtol=1e-5)
    drawn = picture(tmp_path / "whole")
    assert drawn.shape[1] > 1000 and drawn.std() > 10
    kept = str(tmp_path / "whole" / "iter_7.pth")
    run(tmp_path / "rest", "XTRA", load_from=kept, resume=True, **options)
    assert np.array_equal(picture(tmp_path / "rest"), drawn)


def test_a_measurement_changes_no_state_and_has_no_drop_path():
    """This includes masks from torch's own generator, which samples without seeds need."""
    model, hook = randomise(pretrainer(*MAE, drop_path_rate=0.5)).train(), SplitLoss()
    model.data_preprocessor = Both(None)
    hook.before_train(Stub(model))
    images, before = torch.randn(4, 3, 64, 64), torch.get_rng_state()
    first, second = (hook.measure(Stub(model), images) for _ in range(2))
    assert first == second and torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert hook.measure(Stub(model.eval()), images) == first


def test_class_targets_have_steps_and_no_bands(tmp_path):
    np.save(tmp_path / "colours.npy", np.random.default_rng(0).uniform(-1, 1, (7, 3)))
    target = dict(type="xtra_toolkit.NextColour", clusters=str(tmp_path / "colours.npy"))
    head = dict(loss="cross_entropy")
    model = randomise(pretrainer("token", target, image=6, patch=1, head=head))
    found, _ = measured(model, torch.randn(2, 3, 6, 6))
    assert len(found) == 16 and all(name.startswith("loss_step/") for name in found)


def test_other_models_are_left_alone(build, tmp_path):
    """The default hooks may run with a probe, for instance."""
    kinds = ("SplitLoss", "OnlineProbe")
    hooks = [dict(type=f"xtra_toolkit.{kind}", interval=1) for kind in kinds]
    build(epochs=1, custom_hooks=[SAFE, *hooks]).train()
    assert curves(tmp_path, "loss")[0] and "probe/" not in logged_lines(tmp_path)
    with pytest.raises(ValueError, match=r"interval=0\) was given"):
        SplitLoss(interval=0)


def _split(rank, folder):
    hooks = [SAFE, dict(type="xtra_toolkit.SplitLoss", interval=3)]
    run(folder / "two", "AIM", drop_path=0.0, custom_hooks=hooks, **DDP)
    (file,) = (folder / "two").glob("*/vis_data/scalars.json") if rank == 0 else (None,)
    return file and file.read_text()


@pytest.mark.slow
def test_the_parts_of_two_processes_equal_those_of_the_joint_batch(tmp_path):
    on_two(_split, tmp_path)
    hooks = [SAFE, dict(type="xtra_toolkit.SplitLoss", interval=3)]
    run(tmp_path / "one", "AIM", drop_path=0.0, batch_size=8, custom_hooks=hooks)
    parts = ("loss_step/008", "loss_step/015", "loss_band/0", "loss_band/4")
    two, one = (curves(tmp_path / name, *parts) for name in ("two", "one"))
    np.testing.assert_allclose(two, one, rtol=1e-4)
    assert np.shape(one) == (4, 5)
