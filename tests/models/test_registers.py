"""Test registers: what they see and let through, what is refused, and what is saved."""

from dataclasses import replace

import pytest
import torch
from helpers.builds import MASKS, TARGETS, arch, pretrainer, randomise
from helpers.folders import PREPROCESSOR
from mmpretrain.registry import MODELS

import xtra_toolkit
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, HiddenBlocks, Mask, PrefixCausal, TokenCausal
from xtra_toolkit.objective import compiler, registers
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.objective.registers import (
    WithRegisters,
    add_registers,
    remove_registers,
    with_registers,
)
from xtra_toolkit.registry import MASKS as REGISTRY
from xtra_toolkit.targets import NextBlock, NextToken
from xtra_toolkit.testing import moved_tokens, small_model
from xtra_toolkit.visualization.predictions.continuation import Continuation
from xtra_toolkit.weights.checkpoint import Checkpoint

GRID = PatchGrid.of(32, 8, extra=2, registers=2)
BLOCKS = dict(type="xtra_toolkit.HiddenBlocks", num_hidden=6, min_block=2)
PAIRS = {
    "token": (MASKS["token"], TARGETS["token"]),
    "block": (MASKS["block"], TARGETS["block"]),
    "block_orders": (MASKS["block_orders"], TARGETS["block"]),
    "prefix": (MASKS["prefix"], TARGETS["token"]),
    "shown": (MASKS["shown"], TARGETS["masked"]),
    "hidden_blocks": (BLOCKS, TARGETS["masked"]),
}


def dense_reach(drawn, encoder, decoder):
    """Return (N, N) bool: what each position sees through 2 + 2 layers, by the dense mask."""
    allowed, n = drawn.attention_mask()[0], len(drawn)
    reach = torch.eye(n, dtype=torch.bool)
    for keys in (decoder, decoder, encoder, encoder):
        reach |= (reach.float() @ (allowed & keys).float()) > 0
        reach &= keys | torch.eye(n, dtype=torch.bool)
    return reach & encoder


@pytest.mark.parametrize("mask_tokens", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_prediction_depends_on_exactly_the_allowed_tokens(pair, mask_tokens):
    """Compare measured gradients with the dense mask; none comes from a target."""
    mask, target = PAIRS[pair]
    if mask_tokens and pair not in ("shown", "hidden_blocks"):
        pytest.skip("the mask hides nothing")
    model = small_model(mask, target, GRID, mask_tokens)
    assert "registers: 2, which see what position 0 sees" in model.objective.certificate
    for seed in range(2):
        factory = with_registers(model.objective.mask, GRID)
        drawn = factory(GRID, 1, torch.Generator().manual_seed(seed))
        order, visible = (torch.atleast_2d(x)[0] for x in (drawn.order, drawn.visible_or_all()))
        assert order[:2].tolist() == [16, 17]
        for moved in moved_tokens(model, seed):
            reach = dense_reach(drawn, visible, torch.ones_like(visible))
            seen = torch.zeros(18, dtype=torch.bool)
            seen[order[reach[moved.source_positions].any(0)]] = True
            assert torch.equal(moved.tokens, seen[:16])
            assert not moved.tokens[moved.targets].any()
            assert (moved.source_positions >= 2).all()


class Window(TokenCausal):
    """Let each token attend to itself and to the two before it: a mask with a predicate."""

    def __call__(self, grid, batch=1, generator=None):
        near = lambda q, k: (k <= q) & (q - k <= 2)  # noqa: E731
        return replace(super().__call__(grid), attend=near)


def test_a_predicate_is_followed_through_the_registers():
    """Position 0 reaches all by them, which is 4 layers × 2 tokens and the registers away."""
    REGISTRY.register_module(module=Window)
    try:
        model = small_model(dict(type="Window"), TARGETS["token"], GRID)
    finally:
        REGISTRY.module_dict.pop("Window")
    for moved in moved_tokens(model, 0):
        target = int(moved.targets)
        expected = {0, *range(max(0, target - 9), target)}
        assert moved.tokens.nonzero().flatten().tolist() == sorted(expected)


@pytest.mark.parametrize("pair", ["token", "block", "prefix"])
def test_continuation_with_the_cache_equals_whole_passes(pair):
    mask, target = PAIRS[pair]
    model = randomise(pretrainer(mask, dict(target, normalise=False), registers=3))
    task, images = Continuation(model, given=3), torch.randn(2, 3, 64, 64)
    free = task.free_running(images)
    torch.testing.assert_close(task.teacher_forced(free), free, rtol=0, atol=1e-5)


def rows(mask):
    """Return what each position may attend to, as lists of positions."""
    return [row.nonzero().flatten().tolist() for row in mask.attention_mask()[0]]


def test_registers_see_what_the_first_position_sees():
    grid = PatchGrid(2, 4, extra=2, registers=2)
    blocks = rows(with_registers(BlockCausal(2), grid)(grid))
    assert blocks[:6] == [list(range(6))] * 6 and blocks[6:] == [list(range(10))] * 4
    tokens = rows(with_registers(TokenCausal(), grid)(grid))
    assert tokens[:3] == [[0, 1, 2]] * 3 and tokens[3:] == [list(range(n)) for n in range(4, 11)]
    prefix = with_registers(PrefixCausal(), grid).with_context(grid, 3)
    assert rows(prefix)[:2] == [list(range(5))] * 2 and prefix.context[..., :2].all()
    window = Mask(torch.arange(8), torch.zeros(8).long(), attend=lambda q, k: (q - k).abs() <= 1)
    window = add_registers(window, grid)
    assert rows(window)[:4] == [[0, 1, 2, 3]] * 3 + [[0, 1, 2, 3, 4]]
    assert rows(window)[-1] == [0, 1, 8, 9]


def test_removing_registers_gives_the_mask_back():
    window = Mask(torch.arange(16), torch.zeros(16).long(), attend=lambda q, k: k <= q)
    bare = GRID.without_registers()
    for mask in (BlockCausal(2)(bare), HiddenBlocks(6, 2)(bare, 3), window):
        back = remove_registers(add_registers(mask, GRID), GRID)
        assert torch.equal(back.order, mask.order) and torch.equal(back.step, mask.step)
        assert torch.equal(back.attention_mask(), mask.attention_mask())


@pytest.mark.parametrize(("mask", "target"), [(TokenCausal(), NextToken()), (BlockCausal(2), None)])
def test_registers_that_see_the_whole_image_are_refused(mask, target, monkeypatch):
    """Break the rule on purpose: the registers see all, and all see the registers."""

    def see_all(inner, grid):
        mask, count = add_registers(inner, grid), grid.registers
        step = mask.step
        attend = lambda q, k: (q < count) | (k < count) | (step[k] <= step[q])  # noqa: E731
        return replace(mask, attend=attend)

    monkeypatch.setattr(registers, "add_registers", see_all)
    with pytest.raises(ValueError, match=r"can see patch .*which reaches it through the layers"):
        certify_objective(mask, target or NextBlock(), GRID, (2, 2))


def test_links_of_a_target_leave_registers_out():
    """Without the shift, a register would predict patch (0, 0), which it sees."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "shift_links", lambda links, grid: links)
        with pytest.raises(ValueError, match="register 1 is a target, but it has no pixels"):
            certify_objective(TokenCausal(), NextToken(), GRID)
    objective = certify_objective(TokenCausal(), NextToken(), GRID)
    (links,) = objective.links
    assert links.source_positions.flatten().tolist() == list(range(2, 17))


def build(pair="block", **options):
    mask, target = PAIRS[pair]
    return randomise(pretrainer(mask, target, data_preprocessor=PREPROCESSOR, **options))


@pytest.mark.parametrize(("pair", "cls"), [("block", False), ("shown", True)])
def test_a_checkpoint_gives_the_features_of_the_patches(pair, cls, tmp_path):
    """``load`` reads the number of registers; means and maps leave the registers out."""
    model = build(pair, registers=3, with_cls_token=cls)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "x.pth")
    images = torch.randn(2, 3, 64, 64)
    (raw,) = model.extract_feat(images)
    assert raw.shape == (2, 64 + 3 + cls, 48)
    for output, expected in (
        ("tokens", raw[:, 3 + cls :]),
        ("mean", raw[:, 3 + cls :].mean(1)),
        ("map", raw[:, 3 + cls :].transpose(1, 2).unflatten(2, (8, 8))),
    ):
        encoder, _ = xtra_toolkit.load(tmp_path / "x.pth", output)
        torch.testing.assert_close(encoder(images), expected)
    if cls:
        encoder, _ = xtra_toolkit.load(tmp_path / "x.pth", "class_token")
        torch.testing.assert_close(encoder(images), raw[:, 0])
    pretrained = dict(type="Pretrained", checkpoint=str(tmp_path / "x.pth"), prefix="backbone.")
    probed = MODELS.build(dict(type="xtra_toolkit.MaskedViT", init_cfg=pretrained))
    probed.init_weights()
    torch.testing.assert_close(probed.eval()(images)[0], raw)


def test_registers_under_block_causal_carry_nothing_from_later_blocks():
    vit = build(registers=3).backbone
    images = torch.randn(1, 3, 64, 64)
    changed = images.clone()
    changed[..., 16:] += 1  # outside the first block of 16×16 px
    before, after = (vit(x)[0] for x in (images, changed))
    first_block = [3, 4, 11, 12]
    assert torch.equal(before[:, [0, 1, 2, *first_block]], after[:, [0, 1, 2, *first_block]])


def test_another_number_of_registers_is_refused():
    state = build(registers=3).state_dict()
    with pytest.raises(ValueError, match=r"model\.backbone\.registers is 2 in the config and 3"):
        build(registers=2).load_state_dict(state)
    with pytest.raises(ValueError, match="registers is None in the config and 3"):
        build().load_state_dict(state)
    state.pop("backbone.xtra_toolkit_attention_mask.json")
    with pytest.raises(ValueError, match=r"'register_tokens'. registers is another in this config"):
        build().load_state_dict(state)
    for number in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"registers=.* was given; it is a number of tokens"):
            build(registers=number)


def test_conversion_of_registers():
    """timm's ViT takes them; MMPretrain's has none and is refused."""
    options = dict(registers=3, with_cls_token=True, positions="learned")
    checkpoint = Checkpoint.of(build("shown", **options).state_dict())
    for known in (checkpoint, replace(checkpoint, encoder_record=None)):
        with pytest.raises(ValueError, match=r"parts that a plain .*registers|has no registers"):
            known.layout("mmpretrain")
    state = checkpoint.layout("timm")["state_dict"]
    again = Checkpoint.of(state, img_size=(64, 64), heads=3)
    assert again.encoder_record["parts"] == dict(registers=3)


def test_registers_are_initialised_frozen_and_at_depth_0():
    vit = MODELS.build(
        dict(
            type="xtra_toolkit.MaskedViT",
            mask=MASKS["bidirectional"],
            arch=arch(),
            registers=4,
            frozen_stages=1,
        )
    )
    vit.init_weights()
    vit.train()
    assert 0.01 < vit.register_tokens.std() < 0.03 and not vit.register_tokens.requires_grad
    assert vit.get_layer_depth("backbone.register_tokens", "backbone.") == (0, 4)
    other = dict(type="xtra_toolkit.MaskedViT", arch=arch(), registers=4, positions="relative")
    vit = randomise(MODELS.build(other | dict(mask=MASKS["bidirectional"], out_type="raw")))
    assert vit(torch.randn(1, 3, 224, 224))[0].shape == (1, 200, 48)


def test_a_model_keeps_the_mask_as_it_was_given_for_hooks_that_change_it():
    objective = pretrainer("token", "token", registers=2).objective
    assert type(objective.mask) is TokenCausal and isinstance(objective.factory, WithRegisters)
