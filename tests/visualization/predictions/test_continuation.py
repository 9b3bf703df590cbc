"""Test continuations: compare the cache with full passes, and check steps and errors."""

import pytest
import torch
from helpers.builds import MASKS, XTRA, pretrainer, randomise

from xtra_toolkit.masks import Mask
from xtra_toolkit.visualization.predictions.continuation import Continuation
from xtra_toolkit.visualization.predictions.key_value_cache import cached
from xtra_toolkit.visualization.predictions.unit_sequence import refuse_mask

BLOCK = dict(type="xtra_toolkit.NextBlock", normalise=False)
TOKEN = dict(type="xtra_toolkit.NextToken", normalise=False)
RAGGED = dict(type="xtra_toolkit.BlockCausal", block_size=3, ragged=True)
BACKWARDS = dict(type="xtra_toolkit.BlockCausal", block_size=2, order=[*range(15, -1, -1)])
PREFIX = dict(type="xtra_toolkit.WithPrefix", mask=MASKS["block"])
PAIRS = {
    "XTRA": ("block", BLOCK),
    "look-ahead": ("block_orders", BLOCK | dict(look_ahead=2)),
    "ragged blocks": (RAGGED, BLOCK),
    "another order, told": (BACKWARDS, BLOCK | dict(positioned=True)),
    "iGPT's mask": ("token", TOKEN),
    "AIM": ("prefix", TOKEN),
    "a prefix of blocks": (PREFIX, BLOCK),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def built(name, **backbone):
    return randomise(pretrainer(*PAIRS.get(name, XTRA), **backbone))


@pytest.mark.parametrize("name", PAIRS)
def test_the_cache_equals_a_full_pass_over_the_continuation(name, images):
    task = Continuation(built(name), given=3)
    free = task.free_running(images)
    given = ~task.shown(images).isnan()
    assert torch.equal(free[given], images[given]) and not given.all()
    # teacher forcing on the continuation itself must reproduce it
    torch.testing.assert_close(task.teacher_forced(free), free, rtol=0, atol=1e-5)
    assert (task.teacher_forced(images) - free).abs().max() > 0.1


@pytest.mark.parametrize(("name", "size"), [("XTRA", 4), ("iGPT's mask", 1), ("AIM", 1)])
def test_the_cache_equals_full_passes_whatever_stands_in_unknown_units(name, size, images):
    model = built(name)
    task, grid = Continuation(model, given=60 // size), model.backbone.grid
    patches = torch.where((known := grid.patchify(task.shown(images))).isnan(), 9.0, known)
    with torch.no_grad():
        for at in range(60, 64, size):
            predicted = model.reconstruct(grid.unpatchify(patches), task.plan)[0][:, at // size - 1]
            patches[:, task.order[at : at + size]] = predicted.view(2, size, -1)
    free = task.free_running(images)
    torch.testing.assert_close(free, grid.unpatchify(patches), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "steps"),
    [("XTRA", [4] * 15), ("iGPT's mask", [1] * 63), ("AIM", [3] + [1] * 60)],
)
def test_each_step_computes_only_its_new_positions(name, steps, images):
    model, seen = built(name), {}
    for part in ("backbone", "neck"):
        lengths = seen.setdefault(part, [])
        layer = getattr(model, part).layers[-1]
        layer.register_forward_hook(lambda _, args, out, to=lengths: to.append(args[0].shape[1]))
    Continuation(model, given=3).free_running(images)
    assert seen == dict(backbone=steps, neck=steps)


@pytest.mark.parametrize("name", PAIRS)
def test_later_units_do_not_change_earlier_outputs(name, images):
    model = built(name)
    task = Continuation(model, given=3)
    other = torch.where(task.shown(images).isnan(), torch.randn_like(images), images)
    with torch.no_grad():
        before, after = (model.decode(x, task.plan) for x in (images, other))
    known = task.known
    assert torch.equal(before[:, :known], after[:, :known])
    assert not torch.allclose(before[:, known:], after[:, known:])


def test_with_a_start_token_an_image_is_made_from_no_unit(images):
    model = randomise(pretrainer("token", TOKEN, with_cls_token=True))
    task = Continuation(model, given=0)
    free = task.free_running(images)
    assert task.shown(images).isnan().all()
    torch.testing.assert_close(free[0], free[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(task.teacher_forced(free), free, rtol=0, atol=1e-5)


def test_previous_statistics_are_those_of_the_unit_before(images):
    model = built("normalised")
    task, grid = Continuation(model, given=14), model.backbone.grid
    free, truth = task.free_running(images), grid.patchify(images).double()
    with torch.no_grad():
        (raw,) = model.reconstruct(free, task.plan)
    blocks = grid.patchify(free)[:, task.order].unflatten(1, (16, 4)).flatten(2).double()
    assert torch.equal(blocks[:, 13], truth[:, task.order[52:56]].flatten(1))
    for block in (14, 15):
        mean, std = (f(blocks[:, block - 1], -1, keepdim=True) for f in (torch.mean, torch.std))
        expected = raw[:, block - 1] * (std**2 + 1e-6).sqrt() + mean
        torch.testing.assert_close(blocks[:, block], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalise", [False, True])
def test_a_restored_target_is_its_pixels(normalise, images):
    model = pretrainer("block", BLOCK | dict(normalise=normalise))
    task, target = Continuation(model, given=3), model.target_generator
    model.reconstruct = model.target_values  # a perfect predictor
    torch.testing.assert_close(task.teacher_forced(images), images, rtol=0, atol=1e-5)
    values = torch.randn(2, 5, 12)
    torch.testing.assert_close(target.restore(target.normalise(values), values), values)


def test_the_model_is_left_unchanged(images):
    model = built("XTRA")
    own = [layer.attn.attention for layer in model.backbone.layers]
    before = model.loss(images)["loss"]
    Continuation(model).free_running(images)
    with pytest.raises(RuntimeError), cached(model):
        raise RuntimeError
    assert [layer.attn.attention for layer in model.backbone.layers] == own
    assert torch.equal(model.loss(images)["loss"], before)


@pytest.mark.parametrize(
    ("name", "given", "sentence"),
    [
        ("XTRA", 0, "--given 0 units; BlockCausal × NextBlock on a grid of 8×8 tokens"),
        ("XTRA", 16, "has 16 units, and is continued from 1 to 15 of them"),
        ("AIM", 64, "has 64 units, and is continued from 1 to 63 of them"),
        ("a prefix of blocks", -1, "has 16 units, and is continued from 1 to 15 of them"),
    ],
)
def test_units_out_of_range_are_refused(name, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        Continuation(built(name), given)


def test_other_prefixes_than_trained_ones_are_refused():
    mask = dict(type="xtra_toolkit.PrefixCausal", low=8, high=16)
    model = pretrainer(mask, TOKEN)
    with pytest.raises(ValueError, match="was trained on prefixes of 8 to 16 units"):
        Continuation(model, given=7)
    assert Continuation(model, given=8).known == 8


RASTER = torch.arange(4)


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (Mask(RASTER, RASTER, attend=lambda q, k: k <= q), r"a mask with a predicate \(`attend`\)"),
        (Mask(RASTER.expand(2, 4), RASTER), "the order differs from image to image"),
        (Mask(RASTER, RASTER, visible=RASTER < 2), "the mask hides tokens"),
    ],
)
def test_masks_that_are_no_staircase_of_one_order_are_refused(mask, sentence):
    with pytest.raises(ValueError, match=sentence):
        refuse_mask(mask, "A × B")


@pytest.mark.parametrize("name", PAIRS)
def test_a_unit_is_predicted_from_the_one_before_it(name):
    units = Continuation(built(name)).units
    assert all(max(unit.source_positions) == unit.start - 1 for unit in units)
    assert {unit.group for unit in Continuation(built("look-ahead")).units} == {0}
