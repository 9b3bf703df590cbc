"""audit: leaks of every kind are found in small models, and none is found where there is none."""

import random
from itertools import pairwise

import pytest
import torch
from helpers.builds import MASKS, TARGETS
from mmpretrain.registry import MODELS
from torch import nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import build_mask
from xtra_toolkit.testing import assert_no_leak, audit, small_model

N, WIDTH = 6, 8
NEXT = dict(enumerate(range(1, N)))  # prediction i is of token i + 1
SEQUENCE = torch.zeros(1, N, 3)
CAUSAL = torch.ones(N, N).tril().bool()


class Small(nn.Module):
    """A transformer without positions; ``masks`` has what each layer may attend to."""

    def __init__(self, masks, norm=nn.LayerNorm, activation=nn.GELU, width=WIDTH, heads=2):
        super().__init__()
        self.masks, self.heads = masks, heads
        self.embed, self.out = nn.Linear(3, width), nn.Linear(width, 3)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                dict(
                    norm=norm(width),
                    qkv=nn.Linear(width, 3 * width),
                    mlp=nn.Sequential(
                        nn.Linear(width, 2 * width), activation(), nn.Linear(2 * width, width)
                    ),
                )
            )
            for _ in masks
        )

    def forward(self, x):
        x = self.embed(x)
        for layer, mask in zip(self.layers, self.masks, strict=True):
            qkv = layer.qkv(layer.norm(x)).unflatten(-1, (3, self.heads, -1))
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            x = x + nn.functional.scaled_dot_product_attention(q, k, v, mask).transpose(
                1, 2
            ).flatten(2)
            x = x + layer.mlp(x)
        return self.out(x)


def causal(depth=2, **shape):
    return Small([CAUSAL] * depth, **shape)


class Wrapped(nn.Module):
    """A causal model, and a function that adds a leak to its predictions."""

    def __init__(self, leak):
        super().__init__()
        self.model, self.leak, self.gate = causal(1), leak, nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.model(x) + self.leak(self, x)


def later(x):
    """The next token at each position."""
    return x.roll(-1, 1)


LEAKS = {
    "own token": (causal(), dict(enumerate(range(N)))),
    "a mask that is one too wide": (Small([torch.ones(N, N).tril(1).bool()]), NEXT),
    "an inverted mask": (Small([~CAUSAL | torch.eye(N).bool()]), NEXT),
    "one layer without a mask": (Small([CAUSAL, torch.ones(N, N).bool()]), NEXT),
    "a mask that is one too wide, two layers on": (
        Small([CAUSAL, torch.ones(N, N).tril(1).bool(), CAUSAL]),
        NEXT,
    ),
    "a mean over the sequence": (Wrapped(lambda m, x: x.mean(1, keepdim=True)), NEXT),
    "a gate that begins at zero": (Wrapped(lambda m, x: m.gate * later(x)), NEXT),
    "a ReLU that is dead in half of the draws": (
        Wrapped(lambda m, x: m.gate[:1].relu() * later(x)),
        NEXT,
    ),
    "a sign, which has no gradient": (Wrapped(lambda m, x: later(x).sign()), NEXT),
    "an argmax, which has no gradient": (
        Wrapped(lambda m, x: later(x).argmax(-1, keepdim=True).double()),
        NEXT,
    ),
    "detached": (Wrapped(lambda m, x: 1e-3 * later(x).detach()), NEXT),
    "one part in a million": (Wrapped(lambda m, x: 1e-6 * later(x)), NEXT),
}


@pytest.mark.parametrize("kind", LEAKS)
def test_leaks_are_found(kind):
    model, targets = LEAKS[kind]
    report = audit(model, SEQUENCE, targets | ({} if N - 1 in targets else {N - 1: None}))
    assert report.leaking == list(targets)
    assert f"{len(targets)} of {len(targets)} predictions see" in report.verdict()


def test_one_leak_in_one_prediction_is_named():
    mask = CAUSAL.clone()
    mask[2, 3] = True
    report = audit(Small([mask]), SEQUENCE, NEXT)
    assert report.leaking == [2]
    assert report.verdict() == (
        "1 of 5 predictions see what they are compared with. The first: prediction 2 is compared "
        "with token 3 and sees it."
    )
    assert "\n2 xxx!..\n" in str(report)
    with pytest.raises(AssertionError, match="prediction 2 is compared with token 3"):
        assert_no_leak(Small([mask]), SEQUENCE, NEXT)


def test_a_batch_norm_over_the_sequence_leaks_in_training_only():
    class Norm(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x.transpose(1, 2)).transpose(1, 2)

    model = causal(norm=Norm)
    assert audit(model.train(), SEQUENCE, NEXT).leaking == list(NEXT)
    assert_no_leak(model.eval(), SEQUENCE, NEXT)


def test_an_overlapping_patch_embedding_leaks():
    class Patches(nn.Module):
        def __init__(self, kernel):
            super().__init__()
            self.embed = nn.Conv2d(1, 4, kernel, stride=2, padding=(kernel - 2) // 2)

        def forward(self, images):
            return self.embed(images).flatten(2).transpose(1, 2)

    images = torch.zeros(1, 1, 8, 8)
    shifted = dict(enumerate(range(1, 16)))
    assert audit(Patches(4), images, shifted, patch=2).leaking
    assert_no_leak(Patches(2), images, shifted, patch=2)


def test_fifty_drawn_causal_models_pass():
    """Depths, widths, norms, activations and orders differ; no alarm is false."""
    for seed in range(50):
        torch.manual_seed(seed)
        rng = random.Random(seed)
        order = torch.randperm(N)
        step = torch.zeros(N).scatter(0, order, torch.arange(N).float())
        model = Small(
            [step[None] <= step[:, None]] * rng.randint(1, 3),
            norm=rng.choice([nn.LayerNorm, nn.RMSNorm, nn.Identity]),
            activation=rng.choice([nn.GELU, nn.ReLU, nn.Hardswish, nn.Tanh]),
            heads=rng.choice([1, 2, 4]),
        )
        after = dict(pairwise(order.tolist()))
        report = assert_no_leak(model, SEQUENCE, after, draws=1, seed=seed)
        seen = report.sees[0].sum(1)[order]  # each sees all that comes before its target
        assert seen.tolist() == list(range(1, N + 1))


LOSSES = {
    "mse": lambda p, x: (p[:, :-1] - x[:, 1:]).square().mean(),
    "l1": lambda p, x: (p[:, :-1] - x[:, 1:]).abs().mean(),
    "smooth l1": lambda p, x: nn.functional.smooth_l1_loss(p[:, :-1], x[:, 1:]),
    "cosine": lambda p, x: -nn.functional.cosine_similarity(p[:, :-1], x[:, 1:], -1).mean(),
    "classes": lambda p, x: nn.functional.cross_entropy(
        p[:, :-1].flatten(0, 1), x[:, 1:].argmax(-1).flatten()
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_compared_is_found_from_the_loss(name):
    report = assert_no_leak(causal(), SEQUENCE, loss=LOSSES[name])
    assert torch.equal(report.compared.any(0), torch.eye(N, dtype=torch.bool).roll(1, 1).triu())
    own = audit(causal(), SEQUENCE, loss=lambda p, x: LOSSES[name](p.roll(-1, 1), x))
    assert own.leaking == list(range(1, N))


def test_the_four_ways_to_tell_the_targets_agree():
    model = causal()

    class Trained(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return dict(loss=LOSSES["mse"](self.model(x), x))

    told = [
        audit(model, SEQUENCE, [*range(1, N), None]),
        audit(model, SEQUENCE, loss=LOSSES["mse"]),
        audit(Trained(), SEQUENCE, head="model.out"),
        audit(lambda x: (model(x)[:, :-1], x[:, 1:]), SEQUENCE),
    ]
    for report in told:
        assert torch.equal(report.sees.any(0)[: N - 1], CAUSAL[: N - 1])
        assert torch.equal(report.compared.any(0)[: N - 1].long().argmax(1), torch.arange(1, N))
        assert not report.leaking


class Words(nn.Module):
    """A model of token numbers; with ``shift`` its inputs are moved by a start token, as iGPT's."""

    def __init__(self, shift):
        super().__init__()
        self.shift, self.embed, self.model = shift, nn.Embedding(9, 3), causal()

    def forward(self, words):
        x = self.embed(words)
        x = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1) if self.shift else x
        return self.model(x)


def test_token_numbers_are_audited_by_replacing_them():
    words = torch.arange(N)[None]
    assert_no_leak(Words(True), words, range(N))
    assert audit(Words(False), words, range(N)).leaking == list(range(N))


PAIRS = [("token", "token"), ("block", "block"), ("prefix", "token"), ("shown", "masked")]
GRID = PatchGrid(4, 4, (2, 2))


@pytest.mark.parametrize(("mask", "target"), PAIRS)
def test_our_objectives_pass_and_with_their_masks_off_fail(mask, target):
    model = small_model(MASKS[mask], TARGETS[target], GRID)
    images = torch.zeros(1, 3, 8, 8)
    case = dict(patch=2, head=model.head.predictors[0], draws=1)
    report = assert_no_leak(model.loss, images, **case)
    assert report.random == build_mask(MASKS[mask]).random
    for layer in (*model.backbone.layers, *model.neck.layers):  # attend to all positions
        layer.attn.attention = lambda q, k, v, pattern: v.mean(1, keepdim=True).expand_as(q) + q
    leaks = audit(model.loss, images, **case).leaking
    assert (mask == "shown") != bool(leaks)  # hidden patches are not in MAE's encoder


def mmpretrains_mae():
    """MMPretrain's own MAE, small."""
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    decoder = dict(embed_dim=24, decoder_embed_dim=24, decoder_depth=2, decoder_num_heads=2)
    return MODELS.build(
        dict(
            type="mmpretrain.MAE",
            backbone=dict(type="mmpretrain.MAEViT", arch=arch, img_size=32, patch_size=8),
            neck=dict(
                type="mmpretrain.MAEPretrainDecoder", num_patches=16, patch_size=8, **decoder
            ),
            head=dict(
                type="mmpretrain.MAEPretrainHead",
                norm_pix=True,
                patch_size=8,
                loss=dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2"),
            ),
        )
    )


def test_mmpretrains_mae_passes_and_fails_if_its_loss_counts_what_is_shown():
    model, images = mmpretrains_mae(), torch.zeros(1, 3, 32, 32)
    case = dict(patch=8, head=model.neck.decoder_pred, draws=2)
    report = assert_no_leak(lambda x: model.loss(x, None), images, **case)
    assert report.random
    assert report.compared[0].sum() == 12  # three quarters are hidden; row 0 is the class token
    inverted = model.head.loss
    model.head.loss = lambda pred, target, mask: inverted(pred, target, 1 - mask)
    assert audit(lambda x: model.loss(x, None), images, **case).leaks.sum() >= 4


def test_weights_and_random_state_are_as_before():
    model = causal(norm=lambda width: nn.LayerNorm(width)).float()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    audit(model, SEQUENCE, NEXT, draws=1)
    assert torch.equal(torch.rand(2), expected)
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])


def stateful():
    calls = iter(range(1000))
    return lambda x: x + next(calls)


IMAGES = torch.zeros(1, 3, 8, 8)
REFUSED = {
    "patches are needed": (dict(model=causal(), inputs=IMAGES), "size of a patch in pixels"),
    "patches do not tile": (dict(model=causal(), inputs=IMAGES, patch=3), "do not tile an image"),
    "no targets": (dict(model=causal(), inputs=SEQUENCE), "nothing tells what the predictions are"),
    "too few targets": (dict(model=causal(), inputs=SEQUENCE, targets=[1]), "1 entries .* 6 pred"),
    "no such token": (dict(model=causal(), inputs=SEQUENCE, targets={0: 6}), "tokens 0 to 5"),
    "no such part": (dict(model=causal(), inputs=SEQUENCE, head="x"), "no part of this name"),
    "a state": (dict(model=stateful(), inputs=SEQUENCE, targets=range(N)), "different predictions"),
    "NaN": (dict(model=lambda x: x / 0 * 0, inputs=SEQUENCE, targets=range(N)), "infinite or NaN"),
    "shape": (dict(model=lambda x: x.sum(), inputs=SEQUENCE, targets=range(N)), "of shape \\(\\)"),
    "unrelated": (
        dict(model=causal(), inputs=SEQUENCE, loss=lambda p, x: p.square().sum()),
        "no prediction is compared with a token",
    ),
    "constant loss": (
        dict(model=causal(), inputs=SEQUENCE, loss=lambda p, x: x.sum()),
        "does not depend on the predictions",
    ),
    "modules out of sight": (
        dict(
            model=(lambda hidden: lambda x: hidden[0](x))([causal()]), inputs=SEQUENCE, targets=NEXT
        ),
        "pass modules=",
    ),
    "one word": (dict(model=Words(True), inputs=torch.ones(1, N).long(), targets=range(N)), "is 1"),
    "no draws": (dict(model=causal(), inputs=SEQUENCE, targets=NEXT, draws=0), "1 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_a_sentence(case):
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        audit(**arguments)
