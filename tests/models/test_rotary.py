"""Test 2-D rotary positions: they belong to tokens, whatever the sequence, mask and back end."""

from dataclasses import replace

import pytest
import timm
import torch
from helpers.builds import AIM, MAE, MASKS, XTRA, arch, pretrainer, randomise
from mmpretrain.registry import MODELS
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.rotary import RotaryPositions, _kept_tables
from xtra_toolkit.objective.plan import Features
from xtra_toolkit.visualization.predictions.continuation import Continuation

ROTARY = dict(rope="dinov3", positions="none")
IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
GRID = PatchGrid(4, 6, extra=2)


def built(pair=XTRA, image=(32, 48), decoder=None, **options):
    """Build a pretrainer with rotary positions in both parts and no other."""
    decoder = ROTARY | dict(heads=2, width=32) | (decoder or {})
    return randomise(pretrainer(*pair, image=image, decoder=decoder, **ROTARY | options))


@pytest.mark.parametrize("kind", ["dinov3", "eva02"])
def test_angles_are_those_of_timm(kind):
    rope, (rows, cols) = RotaryPositions(kind), (GRID.rows, GRID.cols)
    if kind == "dinov3":
        theirs = timm.layers.RotaryEmbeddingDinoV3(16, feat_shape=[rows, cols]).get_embed()
    else:
        sizes = dict(in_pixels=False, feat_shape=[rows, cols], ref_feat_shape=[16, 16])
        theirs = timm.layers.RotaryEmbeddingCat(16, **sizes).get_embed()
    x = torch.randn(1, 1, rows * cols, 16)
    half = dict(half=True) if kind == "dinov3" else {}
    expected = timm.layers.apply_rot_embed_cat(x, theirs, **half)
    rotation = rope.rotate(torch.arange(rows * cols)[None], GRID, 16, x.dtype)
    torch.testing.assert_close(rotation(x.transpose(1, 2)).transpose(1, 2), expected)


@pytest.mark.parametrize("kind", ["dinov3", "eva02", "mmpretrain"])
def test_tokens_without_pixels_are_not_turned(kind):
    x, tokens = torch.randn(1, 3, 2, 16), torch.tensor([[24, 23, 25]])
    turned = RotaryPositions(kind).rotate(tokens, GRID, 16, x.dtype)(x)
    assert torch.equal(turned[:, ::2], x[:, ::2]) and not torch.allclose(turned[:, 1], x[:, 1])


@pytest.mark.parametrize("kind", ["dinov3", "eva02"])
def test_scores_depend_on_the_offset_alone(kind):
    """Check that moving both tokens by one row and one column leaves the product of q and k."""
    q, k = torch.randn(2, 1, 1, 1, 16).double()
    rope = RotaryPositions(kind)

    def score(a, b):
        turn_q, turn_k = (
            rope.rotate(torch.tensor([[r * 6 + c]]), GRID, 16, q.dtype) for r, c in (a, b)
        )
        return (turn_q(q) * turn_k(k)).sum()

    torch.testing.assert_close(score((0, 1), (2, 3)), score((1, 2), (3, 4)))
    assert abs(score((0, 1), (2, 3)) - score((0, 1), (3, 2))) > 1e-3


def test_features_of_a_permuted_sequence_are_the_permuted_features():
    """Check full attention, so that the order of the sequence changes nothing but the order."""
    vit = built().backbone.double()
    images = IMAGES.double()
    vit.encoder_mask.set(MASKS["bidirectional"])
    (expected,) = vit(images)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    (key,) = vit._features
    old = vit._features[key]
    vit._features[key] = Features(order[None], old.pattern, order.argsort()[None])
    torch.testing.assert_close(vit(images)[0], expected, rtol=1e-10, atol=1e-10)
    tokens = order[None, :10]  # a part of the tokens, as MAE encodes them, in two orders
    parts = []
    for part in (tokens, tokens.flip(1)):
        x, rotation = vit.embed(images, part, vit.grid), vit.rotation(part, vit.grid)
        pattern = replace(old.pattern, length=10, _cache={})
        parts.append(vit.layers[0](x, pattern, None, rotation))
    torch.testing.assert_close(parts[0], parts[1].flip(1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("pair", "backend"),  # staircase does not know a drawn prefix on the host
    [(XTRA, "sdpa"), (XTRA, "matmul"), (XTRA, "staircase"), (AIM, "sdpa"), (AIM, "matmul")],
)
def test_every_back_end_is_the_dense_one(pair, backend):
    models = [
        built(pair, attention=name, decoder=dict(attention=name)) for name in ("eager", backend)
    ]
    losses = []
    for model in models:
        torch.manual_seed(4)
        losses.append(model.loss(IMAGES)["loss"])
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    qkv = [model.backbone.layers[0].attn.qkv.weight.grad for model in models]
    torch.testing.assert_close(*qkv, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("pair", [XTRA, AIM, MAE, ("block_orders", "block")])
def test_dead_work_and_recomputation_change_nothing(pair):
    """Check the loss and gradients against all positions, in float64, with checkpointing."""
    results = []
    for full in (False, True):
        model = built(pair, with_cp=full, decoder=dict(with_cp=full)).double()
        if full and pair != MAE:
            n, bounds = model.objective.length, model.objective.bounds
            model.objective.bounds = type(bounds)(
                n, n, ("staircase",) * 2, (None, None), bounds.all_in_loss, bounds.spans
            )
            model.objective._plans.clear()
        torch.manual_seed(1)
        loss = model.loss(IMAGES.double())["loss"]
        loss.backward()
        results.append((loss.detach(), [p.grad for p in model.parameters()]))
    (loss, grads), (full_loss, full_grads) = results
    torch.testing.assert_close(loss, full_loss, rtol=1e-10, atol=0)
    for mine, other in zip(grads, full_grads, strict=True):
        assert (mine - other).abs().max() <= 1e-10 * other.abs().max()


def test_queries_of_some_positions_are_turned_by_their_own_tokens():
    """Check MAE's decoder, whose last layer computes hidden positions alone, against all of it."""
    model = built(MAE)
    torch.manual_seed(2)
    plan = model.plan(IMAGES)
    some = model.decode(IMAGES, plan)
    everything = model.decode(IMAGES, replace(plan, output_positions=None))
    assert some.shape[1] == 18 < everything.shape[1] == 24
    torch.testing.assert_close(some, everything[:, plan.output_positions[0]])


def test_a_later_block_changes_no_earlier_feature():
    vit = built().backbone
    changed = IMAGES.clone()
    changed[..., 16:, 32:] += 1  # the last block
    moved = (vit(changed)[0] - vit(IMAGES)[0]).abs().amax((0, 2)).view(4, 6) > 0
    assert moved[2:, 4:].all() and moved.sum() == 4


@pytest.mark.parametrize("pair", [XTRA, AIM, ("token", "token")])
def test_continuation_with_the_cache_equals_whole_passes(pair, one_thread):
    target = dict(type=f"xtra_toolkit.Next{pair[1].title()}", normalise=False)
    task = Continuation(built((pair[0], target)), given=3)
    free = task.free_running(IMAGES)
    torch.testing.assert_close(task.teacher_forced(free), free, rtol=0, atol=1e-5)


def test_another_size_of_the_images_turns_by_its_own_grid():
    vit = built().backbone
    resized = built(image=(64, 32), dynamic_img_size=True).backbone
    vit.dynamic_img_size = True
    resized.load_state_dict(vit.state_dict())
    images = torch.randn(1, 3, 64, 32)
    torch.testing.assert_close(vit(images)[0], resized(images)[0])


def test_tables_of_fake_tensors_are_not_kept():
    model = built(attention="sdpa", decoder=dict(attention="sdpa"))
    expected = model.loss(IMAGES)["loss"]  # the plan is kept, with real tensors
    _kept_tables.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(model.loss(torch.empty(IMAGES.shape))["loss"]).__name__ == "FakeTensor"
    assert torch.equal(model.loss(IMAGES)["loss"], expected)


def test_a_compiled_loss_and_its_gradients_are_equal(one_thread):
    model, results = built(arch=arch(24, 1, 2), decoder=dict(depth=1)), []
    torch._dynamo.reset()
    counters.clear()
    for loss_of in (model.loss, torch.compile(model.loss, backend="aot_eager")):
        _kept_tables.cache_clear()
        model.zero_grad()
        loss = loss_of(IMAGES)["loss"]
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    assert counters["stats"]["unique_graphs"] == 1  # after the plan


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(rope="dino"), "rope='dino' was given; valid: dinov3, eva02, mmpretrain"),
        (dict(rope=dict(theta=3)), "must be one of dinov3"),
        (dict(rope=dict(type="eva02", theta=0)), "theta=0 was given"),
        (dict(rope="eva02", arch=arch(width=30)), "a multiple of 4; the width 30 has 3 heads"),
        (dict(positions="none"), "nothing would tell where a token lies; set rope"),
        (dict(layer_cfgs=dict(ffn_type="glu")), "ffn_type='glu' was given; valid: origin, swiglu"),
        (dict(layer_cfgs=dict(sub_ln=True)), "set ffn_type='swiglu'"),
        (dict(layer_cfgs=[{}] * 3), "3 entries, and there are 2 layers"),
        (dict(layer_cfgs=dict(ffn_type="swiglu"), drop_rate=0.1), "a gated FFN has no dropout"),
        (dict(patch_cfg=dict(stride=4)), r"Conv2d of stride=\(4, 4\); each patch is embedded by"),
        (dict(patch_cfg=dict(padding=1)), r"padding=\(1, 1\)"),
        (dict(patch_cfg=dict(dilation=2)), r"dilation=\(2, 2\)"),
    ],
)
def test_options_that_cannot_be_served(options, sentence):
    base = dict(mask=MASKS["block"], arch=arch(), img_size=64, patch_size=8)
    with pytest.raises(ValueError, match=sentence):
        MODELS.build(dict(type="xtra_toolkit.MaskedViT", **base | options))
