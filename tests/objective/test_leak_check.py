"""Test the certificate against measured gradients, its refusals, and that no work is wasted."""

import itertools
from dataclasses import replace

import pytest
import torch
from helpers.builds import AIM, MAE, MASKS, TARGETS, XTRA, pretrainer, randomise

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import (
    BlockCausal,
    Mask,
    MaskFactory,
    PrefixCausal,
    RandomShown,
    TokenCausal,
)
from xtra_toolkit.models.prediction_head import gather_outputs
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.objective.links import Links
from xtra_toolkit.objective.reach import closure
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken, PixelTarget, WrappedTarget
from xtra_toolkit.testing import moved_tokens, small_model

REFUSED = {
    ("token", "masked"): "shows every token",
    ("block", "masked"): "shows every token",
    ("block_orders", "masked"): "shows every token",
    ("bidirectional", "masked"): "shows every token",
    ("prefix", "masked"): "shows every token",
    ("block", "token"): r"prediction of patch \(0, 1\) from position 0 can see patch \(0, 1\)",
    ("block_orders", "token"): "can see patch",
    ("bidirectional", "token"): "can see patch",
    ("bidirectional", "block"): "can see patch",
    ("shown", "token"): "nothing tells the model where its target lies",
    ("shown", "block"): "nothing tells the model where its target lies",
}
PAIRS = list(itertools.product(MASKS, TARGETS))


def seen_by_hand(mask, sources):
    """Return the tokens that reach a prediction, by following the dense mask layer by layer."""
    n = len(mask)
    dense = mask.attention_mask()[0] | torch.eye(n, dtype=torch.bool)
    visible = torch.ones(n, dtype=torch.bool) if mask.visible is None else mask.visible
    reach = torch.zeros(n, dtype=torch.bool)
    reach[sources] = True
    for _ in range(2):  # decoder layers
        reach = dense[reach].any(0)
    reach &= visible
    for _ in range(2):  # encoder layers, among the shown
        reach = (dense & visible[None, :])[reach].any(0)
    order = torch.atleast_2d(mask.order)[0]
    tokens = torch.zeros(n, dtype=torch.bool)
    tokens[order[reach]] = True
    return tokens


@pytest.mark.parametrize(("mask", "target"), PAIRS)
def test_every_pair_is_refused_or_agrees_with_gradients(mask, target):
    """Check that exactly the allowed tokens move a prediction, and its targets do not."""
    if (mask, target) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[mask, target]):
            pretrainer(mask, target)
        return
    model = small_model(MASKS[mask], TARGETS[target], PatchGrid.of(32, 8))
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        drawn = model.objective.mask(model.backbone.grid, 1, generator)
        for moved in moved_tokens(model, seed):
            assert not moved.tokens[moved.targets].any()
            assert torch.equal(moved.tokens, seen_by_hand(drawn, moved.source_positions))


@pytest.mark.parametrize("pair", [XTRA, AIM, ("token", "token"), ("block_orders", "block")])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_dead_work_changes_nothing(pair, dtype, tol):
    """With and without it, loss and gradients agree; the first linear layer sees fewer rows."""
    results = []
    for full in (False, True):
        model = randomise(pretrainer(*pair)).to(dtype)
        if full:
            n = model.objective.length
            bounds = model.objective.bounds
            model.objective.bounds = type(bounds)(
                n, n, ("staircase",) * 2, (None, None), bounds.all_in_loss, bounds.spans
            )
            model.objective._plans.clear()
        rows = []
        model.backbone.layers[0].attn.qkv.register_forward_hook(
            lambda _, x, y, rows=rows: rows.append(x[0].shape[1])
        )
        torch.manual_seed(1)
        images = torch.randn(3, 3, 64, 64, dtype=torch.float64).to(dtype)
        loss = model.loss(images)["loss"]
        loss.backward()
        results.append((rows, loss.detach(), {n: p.grad for n, p in model.named_parameters()}))
    (few, loss, grads), (all_, full_loss, full_grads) = results
    block = 4 if "block" in pair[0] else 1
    assert few == [64 - block] and all_ == [64]
    torch.testing.assert_close(loss, full_loss, rtol=tol, atol=0)
    for name, grad in grads.items():
        scale = full_grads[name].abs().max()
        assert (grad - full_grads[name]).abs().max() <= tol * scale, name


def test_xtra_b_computes_240_of_256_positions():
    objective = certify_objective(BlockCausal(4), NextBlock(), PatchGrid.of(256, 16), (12, 8))
    assert objective(1, torch.device("cpu")).num_computed == 240
    assert "240 of 256 positions computed" in objective.certificate


def test_a_random_draw_that_leaves_its_bounds_fails_in_the_step():
    """Check a mask that is certified on short prefixes and then draws another kind of mask."""
    factory = PrefixCausal(1, 3)
    objective = certify_objective(factory, NextToken(), PatchGrid(4, 4))
    drawn = factory(PatchGrid(4, 4), 2)
    leaky = replace(drawn, step=torch.zeros_like(drawn.step))
    objective.mask = lambda *_: leaky
    with pytest.raises(RuntimeError, match="leaks"):
        objective(2, torch.device("cpu"), torch.Generator())


class Blurred(PixelTarget):
    """A target that predicts what it sees, and declares it or not."""

    def __init__(self, honest):
        super().__init__()
        self.honest = honest

    def pairs(self, mask, grid):
        at = torch.arange(len(mask)).view(1, -1, 1)
        return [Links(at, at, sees_target=self.honest)]


def test_a_target_that_sees_what_it_predicts_says_so():
    grid = PatchGrid(4, 4)
    with pytest.raises(ValueError, match=r"prediction of patch \(0, 0\) from position 0 can see"):
        certify_objective(TokenCausal(), Blurred(False), grid)
    assert "may see its target" in certify_objective(TokenCausal(), Blurred(True), grid).certificate


class NextShade(NextToken):
    """A target of the next token minus the mean of the image."""

    local = False

    def values(self, images, grid):
        return super().values(images - images.mean((1, 2, 3), keepdim=True), grid)


@pytest.mark.parametrize("wrap", [lambda target: target, WrappedTarget])
def test_values_that_depend_on_other_tokens_are_in_the_certificate(wrap):
    sentence = "none sees its target; the values of a target depend on pixels of other tokens, whi"
    grid = PatchGrid(4, 4)
    assert sentence in certify_objective(TokenCausal(), wrap(NextShade()), grid).certificate
    assert (
        "depend on pixels"
        not in certify_objective(TokenCausal(), wrap(NextToken()), grid).certificate
    )


class Twice(MaskFactory):
    """Check a sequence with token 0 at its start and again at its end."""

    random = False

    def __call__(self, grid, batch=1, generator=None):
        order = torch.cat([torch.arange(grid.tokens), torch.zeros(1, dtype=torch.long)])
        return Mask(order, torch.arange(len(order)))


def test_a_leak_is_found_by_token_not_by_position():
    with pytest.raises(ValueError, match=r"patch \(0, 0\) from position 15.*through position 0"):
        certify_objective(Twice(), NextToken(), PatchGrid(4, 4))


class Window(MaskFactory):
    """A sliding window, which is no ordered partition."""

    random = False

    def __init__(self, width, ahead=0):
        self.width, self.ahead = width, ahead

    def __call__(self, grid, batch=1, generator=None):
        raster = torch.arange(grid.tokens)
        return Mask(
            raster,
            raster,
            attend=lambda q, k: (k <= q + self.ahead) & (k > q - self.width),
        )


@pytest.mark.parametrize("depth", [(1, 1), (2, 3), (0, 2)])
def test_a_predicate_is_followed_exactly_as_deep_as_the_layers(depth):
    """Unit i+1 two ahead leaks through two layers that look one ahead each, not through one."""
    grid = PatchGrid(4, 4)
    assert "15 of 16" in certify_objective(Window(3), NextToken(), grid, depth).certificate
    far = NextToken(look_ahead=2)
    reach = sum(depth)
    far.pairs = lambda mask, grid: [
        Links(torch.arange(10).view(1, -1, 1), torch.arange(10).view(1, -1, 1) + reach)
    ]
    with pytest.raises(ValueError, match="reaches it through the layers"):
        certify_objective(Window(3, ahead=1), far, grid, depth)
    far.pairs = lambda mask, grid: [
        Links(torch.arange(9).view(1, -1, 1), torch.arange(9).view(1, -1, 1) + reach + 1)
    ]
    certify_objective(Window(3, ahead=1), far, grid, depth)


def test_closure_by_hand():
    chain = torch.ones(4, 4, dtype=torch.bool).triu(1) & ~torch.ones(4, 4, dtype=torch.bool).triu(2)
    assert closure(chain, 2).sum(-1).tolist() == [3, 3, 2, 1]


@pytest.mark.parametrize(
    ("mask", "target", "sentence"),
    [
        (BlockCausal(4), NextBlock(), "makes 1 unit"),
        (TokenCausal(), MaskedPatches(), "shows every token"),
    ],
)
def test_targets_that_no_position_can_serve(mask, target, sentence):
    with pytest.raises(ValueError, match=sentence):
        certify_objective(mask, target, PatchGrid(4, 4, (2, 2)))


def test_a_unit_of_one_value_has_no_variance():
    grid = PatchGrid(4, 4, (1, 1), channels=1)
    with pytest.raises(ValueError, match="one value has no variance"):
        certify_objective(TokenCausal(), NextToken(), grid)
    certify_objective(TokenCausal(), NextToken(normalise=False), grid)


class AllGiven(TokenCausal):
    def __call__(self, grid, batch=1, generator=None):
        mask = super().__call__(grid)
        return Mask(mask.order, mask.step, context=torch.ones_like(mask.order, dtype=torch.bool))


def test_nothing_predicted_is_refused():
    with pytest.raises(ValueError, match="nothing is predicted"):
        certify_objective(AllGiven(), NextToken(), PatchGrid(4, 4))


@pytest.mark.parametrize("pair", [XTRA, AIM, MAE])
def test_rectangles_and_any_number_of_channels(pair):
    extra = dict(with_cls_token=True) if pair == MAE else {}
    model = randomise(pretrainer(*pair, image=(32, 48), patch=(8, 4), in_channels=5, **extra))
    images = torch.randn(2, 5, 32, 48)
    model.loss(images)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    (features,) = model.extract_feat(images)
    assert features.shape == (2, 4 * 12 + bool(extra), 48)


def test_the_prefix_is_never_scored_and_its_last_output_is_the_first_that_is():
    objective = certify_objective(PrefixCausal(5, 5), NextToken(), PatchGrid(4, 4))
    (group,) = objective(1, torch.device("cpu"), torch.Generator()).groups
    assert group.loss_mask[0].tolist() == [i >= 4 for i in range(15)]


class Drawn(MaskFactory):
    """A random mask that is made by a function of (grid, generator)."""

    random = True

    def __init__(self, draw):
        self.draw = draw

    def __call__(self, grid, batch=1, generator=None):
        return self.draw(grid, generator)


def test_a_random_predicate_is_refused():
    def window(grid, generator):
        raster = torch.arange(grid.tokens)
        return Mask(raster, raster, attend=lambda q, k: k <= q)

    with pytest.raises(ValueError, match="so it must be fixed"):
        certify_objective(Drawn(window), NextToken(), PatchGrid(4, 4))


def test_a_mask_that_draws_what_is_hidden_is_refused():
    """Check tokens hidden in raster order, as in BEiT: the links would fit the first draw alone."""

    def hide(grid, generator):
        visible = torch.zeros(grid.tokens, dtype=torch.bool)
        visible[torch.randperm(grid.tokens, generator=generator)[:4]] = True
        raster = torch.arange(grid.tokens)
        return Mask(raster, torch.zeros_like(raster), visible=visible, context=visible)

    with pytest.raises(ValueError, match="`visible` differs from draw to draw"):
        certify_objective(Drawn(hide), MaskedPatches(), PatchGrid(4, 4))


BASE = TokenCausal()(PatchGrid(4, 4))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (dict(step=torch.zeros(16, dtype=torch.long)), "leaks"),
        (dict(context=torch.arange(16) == 5), "makes context of what others predict"),
        (dict(step=torch.arange(16) * 2), None),
    ],
)
def test_a_draw_that_breaks_what_was_certified_fails_in_the_step(changed, sentence):
    objective = certify_objective(Drawn(lambda grid, g: BASE), NextToken(), PatchGrid(4, 4))
    broken = replace(BASE, **changed)
    objective.mask = lambda *_: broken
    if sentence is None:
        objective(2, torch.device("cpu"), torch.Generator())
        return
    with pytest.raises(RuntimeError, match=sentence):
        objective(2, torch.device("cpu"), torch.Generator())


def hide_some(grid, generator, count=4):
    """A mask in raster order that hides different tokens in each image, never the first."""
    hidden = 1 + torch.rand(2, grid.tokens - 1, generator=generator).argsort(1)[:, :count]
    raster = torch.arange(grid.tokens)
    return Mask(
        raster, raster, visible=torch.ones(2, grid.tokens, dtype=bool).scatter(1, hidden, 0)
    )


@pytest.mark.parametrize("count", [3, 5])
def test_an_image_that_shows_another_number_of_tokens_fails_in_the_step(count):
    """Check a draw with one visible token fewer: a hidden one would enter the encoder instead."""
    grid = PatchGrid(4, 4)
    objective = certify_objective(Drawn(hide_some), NextToken(), grid)
    g = torch.Generator().manual_seed(100)
    objective(2, torch.device("cpu"), g)
    good, bad = hide_some(grid, g), hide_some(grid, g, count)
    mixed = replace(good, visible=torch.stack([good.visible[0], bad.visible[1]]))
    objective.mask = lambda *_: mixed
    with pytest.raises(RuntimeError, match="shows more or fewer tokens of an image than were cert"):
        objective(2, torch.device("cpu"), g)


@pytest.mark.parametrize("token", [-1, 16])
def test_a_draw_of_a_token_that_does_not_exist_fails_in_the_step(token):
    objective = certify_objective(Drawn(lambda grid, g: BASE), NextToken(), PatchGrid(4, 4))
    order = BASE.order.clone()
    order[3] = token
    objective.mask = lambda *_: replace(BASE, order=order)
    with pytest.raises(
        RuntimeError, match="a token that does not exist; `order` must hold 0 to 15"
    ):
        objective(2, torch.device("cpu"), torch.Generator())


def test_a_draw_of_another_kind_or_structure_fails_in_the_step():
    cpu, grid = torch.device("cpu"), PatchGrid(4, 4)
    objective = certify_objective(RandomShown(), MaskedPatches(), grid)
    good = objective.mask(grid, 2)
    at = torch.arange(16)
    for changed, error, sentence in (
        (dict(step=at), RuntimeError, "not bidirectional"),
        (dict(visible=at >= 12), RuntimeError, "changes `visible`"),
        (dict(visible=None), ValueError, "another `visible`"),
    ):
        objective.mask = lambda *_, c=changed: replace(good, **c)
        with pytest.raises(error, match=sentence):
            objective(2, cpu, torch.Generator())


@pytest.mark.parametrize("given", [8, 12])
def test_what_a_fixed_mask_gives_is_dropped_with_what_only_it_reads(given):
    class Tail(TokenCausal):
        def __call__(self, grid, batch=1, generator=None):
            mask = super().__call__(grid)
            return replace(mask, context=mask.order >= given)

    objective = certify_objective(Tail(), NextToken(), PatchGrid(4, 4))
    plan = objective(1, torch.device("cpu"))
    (group,) = plan.groups
    assert plan.num_computed == given - 1 and group.loss_mask is None
    assert group.tokens.flatten().tolist() == list(range(1, given))


def test_a_row_of_a_predicate_that_sees_only_hidden_tokens_is_refused():
    class Blind(MaskFactory):
        random = False

        def __call__(self, grid, batch=1, generator=None):
            at = torch.arange(grid.tokens)
            return Mask(at, at, visible=at < 8, attend=lambda q, k: (k >= 8) | (q >= 8))

    with pytest.raises(ValueError, match="encoder, row 0 of the predicate may attend to nothing"):
        certify_objective(Blind(), MaskedPatches(), PatchGrid(4, 4))


def test_the_certificate_says_where_the_model_is_not_told_the_order():
    grid = PatchGrid(4, 4)
    random = certify_objective(BlockCausal(2, order="random"), NextBlock(), grid).certificate
    assert "the model is not told which" in random
    assert "not told" not in certify_objective(RandomShown(), MaskedPatches(), grid).certificate


class Fixed(MaskFactory):
    """A factory that returns a given mask."""

    random = False

    def __init__(self, mask):
        self.mask = mask

    def __call__(self, grid, batch=1, generator=None):
        return self.mask


class Given(PixelTarget):
    """A target with given links."""

    def __init__(self, links):
        super().__init__()
        self.drawn = links

    def pairs(self, mask, grid):
        return self.drawn


def draw_pair(g, grid):
    """Return a random mask and random links of the same length."""

    def number(low, high):
        return int(torch.randint(low, high, (1,), generator=g))

    n = number(4, 11)
    tokens = torch.randint if number(0, 2) else None
    order = (
        tokens(grid.tokens, (n,), generator=g)
        if tokens
        else torch.randperm(grid.tokens, generator=g)[:n]
    )
    n = len(order)
    step = torch.randint(number(2, 7), (n,), generator=g).sort().values
    visible = torch.randperm(n, generator=g) < number(1, n + 1) if number(0, 2) else None
    given = torch.rand(n, generator=g) < 0.3 if number(0, 2) else None
    attend = None
    if number(0, 3) == 0:
        kv_lengths = (torch.rand(n, n, generator=g) < 0.3) | torch.eye(n, dtype=torch.bool)

        def attend(q, k):
            return kv_lengths[q, k]

    sizes = number(1, 4), number(1, 3), number(1, 3)
    sides = [torch.randint(n, (1, sizes[0], s), generator=g) for s in sizes[1:]]
    return Mask(order, step, None, visible, given, attend), [Links(*sides)]


def test_drawn_masks_and_links_are_refused_or_agree_with_gradients():
    """Check 300 random pairs: accepted ones leak nothing and compute all that is read."""
    accepted = 0
    model = pretrainer("shown", "masked", image=12, patch=4)
    randomise(model, scale=0.4)
    grid = model.backbone.grid
    for seed in range(300):
        mask, links = draw_pair(torch.Generator().manual_seed(seed), grid)
        hides = mask.visible is not None
        try:
            objective = certify_objective(Fixed(mask), Given(links), grid, (2, 2))
        except ValueError:
            continue
        accepted += 1
        plan = objective(1, torch.device("cpu"))
        token = model.neck.mask_token
        if not hides:
            model.neck.mask_token = None
        images = torch.randn(1, 3, 12, 12, requires_grad=True)
        x = model.neck(model.backbone.encode(images, plan), plan)
        model.neck.mask_token = token
        for group in plan.groups:
            outputs = gather_outputs(x, group)
            for i in range(outputs.shape[1]):
                (grad,) = torch.autograd.grad(
                    outputs[0, i].square().sum(), images, retain_graph=True
                )
                moved = grid.patchify(grad)[0].abs().sum(-1) != 0
                assert grad.isfinite().all(), seed
                assert not moved[group.tokens[0, i]].any(), seed
    assert accepted > 15
