"""Test a mask of the decoder's own: what it reaches, what is refused, and how it is shown."""

from dataclasses import replace

import click
import pytest
import torch
from helpers.builds import MASKS, TARGETS, pretrainer, randomise

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    Bidirectional,
    BlockCausal,
    Mask,
    MaskFactory,
    PrefixCausal,
    RandomShown,
    TokenCausal,
    WithDecoderMask,
)
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.registry import MASKS as REGISTRY
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken
from xtra_toolkit.testing import check_mask
from xtra_toolkit.testing.gradients import moved_tokens, small_model
from xtra_toolkit.visualization.objectives import text
from xtra_toolkit.visualization.objectives.view import BOTH, DECODER, ENCODER, View

GRID = PatchGrid(4, 4, (8, 8))


@REGISTRY.register_module()
class Near(MaskFactory):
    """A predicate: each token sees itself and the two before it."""

    random = False

    def __call__(self, grid, batch=1, generator=None):
        raster = torch.arange(grid.tokens)
        return Mask(raster, raster, attend=lambda q, k: (k <= q) & (k > q - 3))

    for_features = __call__


@REGISTRY.register_module()
class Backwards(MaskFactory):
    """Blocks of 2 in raster order, and the tokens of each in reverse, one after another."""

    random = False

    def __call__(self, grid, batch=1, generator=None):
        order = torch.cat([torch.as_tensor(block).flip(0) for block in grid.blocks(2)])
        return Mask(order, torch.arange(len(order)))

    for_features = __call__


def own(mask, decoder):
    return dict(type="xtra_toolkit.WithDecoderMask", mask=mask, decoder=decoder)


AIMV2 = own(MASKS["prefix"], MASKS["token"])
PAIRS = {
    "AIMv2": (AIMV2, "token"),
    "a decoder in another order": (own(MASKS["block"], dict(type="Backwards")), "block"),
    "a decoder that sees more": (own(MASKS["token"], MASKS["block"]), "block"),
    "a predicate in the decoder": (own(MASKS["token"], dict(type="Near")), "token"),
    "a predicate in the encoder": (own(dict(type="Near"), MASKS["token"]), "token"),
    "random orders": (own(MASKS["shown"], MASKS["bidirectional"]), "masked"),
}


def seen_by_hand(mask, sources):
    """Follow two layers of the decoder and then two of the encoder, in dense masks."""
    n, eye = len(mask), torch.eye(len(mask), dtype=torch.bool)
    visible = torch.ones(n, dtype=torch.bool) if mask.visible is None else mask.visible
    encoder = (mask.attention_mask()[0] & visible) | eye
    step = mask.step if mask.decoder_step is None else mask.decoder_step
    at = torch.arange(n)
    if mask.decoder_attend is not None:
        decoder = mask.decoder_attend(at[:, None], at)
    else:
        step = torch.atleast_2d(step)[0]
        decoder = step[None, :] <= step[:, None]
    reach = torch.zeros(n, dtype=torch.bool)
    reach[sources] = True
    for dense in (decoder | eye, decoder | eye):
        reach = dense[reach].any(0)
    reach &= visible
    for dense in (encoder, encoder):
        reach = dense[reach].any(0)
    tokens = torch.zeros(n, dtype=torch.bool)
    tokens[torch.atleast_2d(mask.order)[0][reach]] = True
    return tokens


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_prediction_depends_on_exactly_the_tokens_that_both_masks_allow(pair, registers):
    """Registers pass on what the first token of the sequence sees, in encoder and decoder."""
    (mask, target), grid = PAIRS[pair], replace(GRID, extra=registers, registers=registers)
    if pair == "a decoder that sees more":
        with pytest.raises(ValueError, match="can see patch"):
            small_model(mask, TARGETS[target], grid)
        return
    model = small_model(mask, TARGETS[target], grid)
    assert "the decoder follows a mask of its own" in model.objective.certificate
    for seed in range(2):
        drawn = model.objective.factory(grid, 1, torch.Generator().manual_seed(seed))
        for moved in moved_tokens(model, seed):
            assert not moved.tokens[moved.targets].any()
            expected = seen_by_hand(drawn, moved.source_positions)[: grid.tokens]
            assert torch.equal(moved.tokens, expected)


def test_the_prefix_is_seen_through_the_encoder_and_more_than_that_is_a_leak():
    """Output q of the decoder attends to q positions, of which the first sees the whole prefix."""
    certify_objective(WithDecoderMask(PrefixCausal(), TokenCausal()), NextToken(), GRID)
    for mask, decoder in ((Bidirectional(), TokenCausal()), (TokenCausal(), Bidirectional())):
        with pytest.raises(ValueError, match=r"can see patch \(0, 1\)"):
            certify_objective(WithDecoderMask(mask, decoder), NextToken(), GRID)
    with pytest.raises(ValueError, match="can see patch"):  # the decoder's rows are wider
        certify_objective(WithDecoderMask(TokenCausal(), BlockCausal(2)), NextBlock(), GRID)


@pytest.mark.parametrize(
    ("mask", "decoder", "target"),
    [("block", "block", "block"), ("shown", "bidirectional", "masked")],
)
def test_the_same_mask_in_the_decoder_changes_nothing(mask, decoder, target):
    results, images = [], torch.randn(2, 3, 64, 64)
    for config in (MASKS[mask], own(MASKS[mask], MASKS[decoder])):
        model = randomise(pretrainer(config, target))
        plan = model.objective(2, images.device, torch.Generator().manual_seed(0))
        loss = model._loss(images, plan)["loss"]
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("pair", ["AIMv2", "a decoder in another order", "random orders"])
def test_the_conformance_kit_takes_them(pair):
    mask, target = PAIRS[pair]
    check_mask(mask, TARGETS[target])


def test_continuation_keeps_the_prefix_that_is_given():
    drawn = WithDecoderMask(PrefixCausal(), TokenCausal()).with_context(GRID, 5)
    assert drawn.context[0].sum() == 5 and torch.equal(drawn.decoder_step, torch.arange(16))


class Short(TokenCausal):
    def __call__(self, *args):
        return Mask(order=torch.arange(15), step=torch.arange(15))


@pytest.mark.parametrize(
    ("mask", "decoder", "message"),
    [
        (TokenCausal(), PrefixCausal(), "PrefixCausal draws at random, but the decoder's own mask"),
        (TokenCausal(), Short(), "Short does not name each token of .* once"),
        (RandomShown(), TokenCausal(), "`decoder_step` decreases from position"),
        (WithDecoderMask(TokenCausal(), Near()), Bidirectional(), "of its own already"),
        (TokenCausal(), WithDecoderMask(TokenCausal(), Near()), "has two masks"),
        (RandomShown(), Near(), r"has a predicate \(`attend`\) and is random"),
    ],
)
def test_masks_that_do_not_fit_a_decoder_are_refused(mask, decoder, message):
    with pytest.raises(ValueError, match=message):
        certify_objective(WithDecoderMask(mask, decoder), MaskedPatches(), GRID)


def test_a_decoder_with_attention_is_needed():
    with pytest.raises(ValueError, match="gives the decoder a mask of its own, and there is no"):
        pretrainer(AIMV2, "token", decoder=dict(heads=None))


def test_a_neck_that_does_not_follow_the_decoders_mask_is_refused():
    hidden = dict(type="xtra_toolkit.HiddenBlocks", num_hidden=4, min_block=1)
    parts = dict(
        mask=own(hidden, dict(type="xtra_toolkit.Bidirectional")),
        target_generator=dict(type="xtra_toolkit.MaskedPatches"),
        backbone=dict(
            type="xtra_toolkit.MaskedViT",
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
            img_size=16,
            patch_size=4,
            with_cls_token=True,
            mask_tokens=True,
            final_norm=False,
        ),
        neck=dict(type="xtra_toolkit.PatchAggregation", memory_layers=[1, 2], depth=1, heads=2),
        head=dict(type="xtra_toolkit.SharedHead", copies=2),
    )
    with pytest.raises(ValueError, match="which PatchAggregation does not follow"):
        MaskTargetPretrainer(**parts)


class Rarely(MaskFactory):
    """Draw steps that decrease where `bad` is set, as a draw that was not sampled may."""

    random, bad = True, False

    def __call__(self, grid, batch=1, generator=None):
        at = torch.arange(5)
        step = torch.tensor([9, 0, 1, 2, 3]) if self.bad else at
        return Mask(at, step.expand(batch, -1), context=at < 2)

    for_features = __call__


def test_a_draw_whose_steps_decrease_is_refused():
    mask = Rarely()
    objective = certify_objective(mask, NextToken(), PatchGrid(1, 5), (2, 2))
    objective(1, torch.device("cpu"), torch.Generator())
    mask.bad = True
    with pytest.raises(RuntimeError, match="`step` of a draw of the mask decreases"):
        objective(1, torch.device("cpu"), torch.Generator())


def test_both_masks_are_shown():
    mask = WithDecoderMask(PrefixCausal(low=4, high=4), TokenCausal())(GRID)
    view = View.of(mask, GRID)
    pairs, upper = view.sequence, torch.ones(4, 4).triu(1).bool()
    assert (pairs[:4, :4][upper] == ENCODER).all() and not (pairs == DECODER).any()
    assert (pairs[4:].tril(4)[:, :4] == BOTH).all()
    first, *lines = [click.unstyle(line) for line in text.attention(view)]
    assert first.split("    ")[0] == "in the encoder" or "in the decoder" in first
    assert any(line[:32] != line[36:] for line in lines)
