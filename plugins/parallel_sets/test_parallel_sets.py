"""Sets in parallel: the mask by hand, what reaches each prediction, every draw, and the configs."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from parallel_sets import ParallelSets, with_queries
from torch.utils._python_dispatch import TorchDispatchMode

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.hooks import SplitLoss
from xtra_toolkit.masks import BlockCausal, Mask, RandomShown, Reordered, TokenCausal, build_mask
from xtra_toolkit.masks.rng import StepGenerator
from xtra_toolkit.models import MaskTargetPretrainer
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches
from xtra_toolkit.testing import check_mask, check_steps
from xtra_toolkit.testing.gradients import moved_tokens, small_model
from xtra_toolkit.visualization.objectives.view import View, row_of
from xtra_toolkit.visualization.predictions.image_columns import columns
from xtra_toolkit.visualization.predictions.image_panels import reconstruction

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "block_orders"))  # the orders of these tests and configs
import block_orders  # noqa: E402

GRID = PatchGrid(4, 4, (8, 8))
MASKED = dict(type="xtra_toolkit.MaskedPatches")
TOKENS = dict(type="xtra_toolkit.TokenCausal")
BLOCKS = dict(type="xtra_toolkit.BlockCausal", block_size=2)
CASES = {
    "drawn": dict(type="xtra_toolkit.ParallelSets", mask=TOKENS, num_sets=(2, 6)),
    "blocks": dict(type="xtra_toolkit.ParallelSets", mask=BLOCKS),
    "joined blocks": dict(type="xtra_toolkit.ParallelSets", mask=BLOCKS, num_sets=(2, 4)),
    "tokens": dict(type="xtra_toolkit.ParallelSets", mask=TOKENS),
    "prefix": dict(type="xtra_toolkit.ParallelSets", mask=dict(type="xtra_toolkit.PrefixCausal")),
}
for order in ("RandomOrder", "AnnealedOrder"):
    CASES[order] = dict(
        type="xtra_toolkit.ParallelSets",
        num_sets=(3, 12),
        mask=dict(
            type="xtra_toolkit.Reordered",
            mask=TOKENS,
            order=dict(type=f"xtra_toolkit.{order}"),
        ),
    )


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def random_order(rows, cols, batch, generator):
    return torch.rand(batch, rows * cols, generator=generator).argsort(1)


def sets_of(mask):
    """Return the tokens of each set of a mask of one row."""
    visible = mask.visible
    tokens, step = mask.order[visible].tolist(), mask.step[visible].tolist()
    return [[t for t, s in zip(tokens, step, strict=True) if s == k] for k in sorted({*step})]


def test_a_sequence_equals_the_one_written_by_hand():
    made = with_queries(
        Mask(torch.tensor([2, 0, 3, 1]), torch.arange(4)), torch.tensor([0, 1, 1, 2])
    )
    assert made.order.tolist() == [2, 2, 0, 3, 0, 3, 1, 1]
    assert made.step.tolist() == [0, 1, 2, 2, 3, 3, 4, 5]
    assert made.visible.int().tolist() == [1, 0, 0, 0, 1, 1, 0, 1]
    assert made.context.int().tolist() == [1, 1, 0, 0, 1, 1, 0, 1]  # the first set is known


def test_the_sequence_of_randar():
    """Interleave queries and tokens of a random order under a causal mask (arXiv 2412.01827)."""
    order = random_order(4, 4, 3, gen(1))
    mask = ParallelSets(Reordered(TokenCausal(), lambda *_: order))(GRID, 3, gen())
    assert torch.equal(mask.order, torch.stack([order, order], 2).flatten(1))
    assert torch.equal(mask.attention_mask()[0], torch.ones(32, 32).tril().bool())
    assert mask.visible.tolist() == [True, False] + [False, True] * 15  # the first is known


@pytest.mark.parametrize("seed", range(5))
def test_the_set_causal_mask_of_sar(seed):
    """Compare with a dense transcription by tokens (arXiv 2410.10511, generalized causal mask)."""
    inner = Reordered(TokenCausal(), random_order)
    mask = ParallelSets(inner, (2, 9))(GRID, 2, gen(seed))
    for image in range(2):
        row = row_of(mask, image)
        number = torch.empty(16, dtype=torch.long)
        for k, tokens in enumerate(sets_of(row)):
            number[tokens] = k
        query, key = number[:, None], number[None, :]
        rows = {is_token: (row.visible == is_token).nonzero()[:, 0] for is_token in (False, True)}
        at = {k: v[row.order[v].argsort()] for k, v in rows.items()}  # by token
        attends = row.attention_mask()[0]
        first = query == 0  # is known, and comes before its queries
        assert torch.equal(attends[at[True]][:, at[True]], key <= query)
        assert torch.equal(attends[at[False]][:, at[True]], (key < query) | (first & (key == 0)))
        assert torch.equal(attends[at[False]][:, at[False]], key <= query)
        assert torch.equal(attends[at[True]][:, at[False]], (key <= query) & ~first)


def test_every_number_of_sets_and_every_cut_is_drawn():
    mask = ParallelSets(BlockCausal(2), (2, 4))(GRID, 4000, gen())
    numbers = mask.step[:, -1] // 2 + 1
    assert [round((numbers == k).float().mean().item(), 1) for k in (2, 3, 4)] == [0.3] * 3
    two = mask.step[numbers == 2]
    sizes = (two == 0).sum(1).bincount() / len(two)  # 4, 8 or 12 tokens in the first set
    assert sizes.nonzero().flatten().tolist() == [4, 8, 12] and sizes[[4, 8, 12]].min() > 0.28


def test_the_draw_of_an_image_does_not_depend_on_its_batch():
    order = block_orders.RandomOrder()
    mask = ParallelSets(Reordered(TokenCausal(), order), (2, 9))
    together, alone = (
        mask(GRID, len(seeds), StepGenerator(seeds, 7, "cpu")) for seeds in ([3, 4, 5], [5])
    )
    assert torch.equal(together.order[2:], alone.order)
    assert torch.equal(together.step[2:], alone.step)


def cross_model(mask):
    """Build a model whose queries attend to the encoder alone."""
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    return MaskTargetPretrainer(
        mask=mask,
        target_generator=MASKED,
        backbone=dict(type="xtra_toolkit.MaskedViT", arch=arch, img_size=32, patch_size=8),
        neck=dict(type="xtra_toolkit.CrossDecoder", width=24, depth=2, heads=2),
        head=dict(type="xtra_toolkit.PredictionHead"),
    )


@pytest.mark.parametrize("read_out", ["decoder", "encoder", "cross-attention"])
@pytest.mark.parametrize("case", CASES)
def test_a_prediction_depends_on_all_earlier_sets_and_on_nothing_else(case, read_out):
    """Measure by gradients, on models of 2 + 2 layers, what moves each prediction."""
    if read_out == "cross-attention":
        model = cross_model(CASES[case])
    else:
        model = small_model(CASES[case], MASKED, GRID, read_out == "encoder")
    for seed in range(2):
        drawn = model.objective.mask(GRID, 1, gen(seed))
        sets = sets_of(row_of(drawn, 0))
        expected, earlier, found = {}, {*sets[0]}, {}
        for tokens in sets[1:]:
            expected |= {token: {*earlier} for token in tokens}
            earlier |= {*tokens}
        for moved in moved_tokens(model, seed):
            (token,) = moved.targets.tolist()
            found[token] = {*moved.tokens.nonzero().flatten().tolist()}
        assert found == expected


class NoReads(TorchDispatchMode):
    """Refuse to read a number from the device, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", ["drawn", "RandomOrder"])
def test_a_step_copies_nothing_from_the_device_to_the_host(case):
    objective = certify_objective(build_mask(CASES[case]), MaskedPatches(), GRID)
    objective(3, torch.device("cpu"), gen())  # the first keeps what a grid has once
    with NoReads():
        objective(3, torch.device("cpu"), gen(1))


@pytest.mark.parametrize("mask_tokens", [False, True])
def test_the_mask_keeps_the_contract(mask_tokens):
    """Draw a few thousand masks; each is held to the certificate."""
    check_mask(CASES["RandomOrder"], MASKED, GRID, whole=False, mask_tokens=mask_tokens)


def test_a_query_behind_its_token_is_refused():
    """Break the mask on purpose: queries and tokens of a set change places."""

    class Late(ParallelSets):
        def __call__(self, *args):
            made = super().__call__(*args)
            return Mask(made.order, made.step, visible=~made.visible, context=~made.visible)

    with pytest.raises(ValueError, match="can see patch"):
        certify_objective(Late(TokenCausal()), MaskedPatches(), GRID)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(mask=TokenCausal(), num_sets=(1, 4)), r"num_sets=\(1, 4\).*allows 2 to 16 sets"),
        (dict(mask=BlockCausal(2), num_sets=(2, 5)), r"makes 4 steps on .*allows 2 to 4 sets"),
        (dict(mask=RandomShown()), "was given RandomShown, which hides tokens"),
    ],
)
def test_unsupported_settings_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        certify_objective(ParallelSets(**options), MaskedPatches(), GRID)


def test_a_class_token_is_refused():
    with pytest.raises(ValueError, match="set with_cls_token=False"):
        ParallelSets(TokenCausal())(PatchGrid(4, 4, extra=1))


def test_a_picture_shows_the_first_set_and_the_predictions():
    model = small_model(CASES["drawn"], MASKED | dict(normalise=False), GRID)
    images = torch.randn(3, 3, 32, 32)
    mask = model.objective.mask(GRID, 3, None)
    shown, made, _ = reconstruction(model.eval(), images)
    for row in range(3):
        known = {*mask.order[row][mask.step[row] == 0].tolist()}
        seen = ~GRID.patchify(shown.images)[row].isnan().any(-1)
        assert {*seen.nonzero().flatten().tolist()} == known
    assert made.images.isfinite().all() and made.name == "teacher-forced, shown pasted"
    *_, prediction, _, _ = columns(model, images, "random images")  # of ReconstructionHook
    drawn = (prediction.pixels[:, ::8, ::8, 3] > 0).reshape(3, 16).sum(1)
    assert drawn.tolist() == (16 - (mask.step == 1).sum(1)).tolist()


def test_the_view_of_a_mask_knows_the_context():
    mask = with_queries(TokenCausal()(GRID), torch.arange(16) // 4)
    view = View.of(mask, GRID)
    assert view.context.tolist() == [True] * 4 + [False] * 12 and not view.hidden.any()


def test_the_mask_of_the_readme():
    (code,) = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    space = {}
    exec(code, space)
    objective = certify_objective(
        build_mask(space["model"]["mask"]), MaskedPatches(), PatchGrid(14, 14)
    )
    assert "392 of 392 positions computed, 196 in the encoder" in objective.certificate


def test_the_parts_of_the_loss_add_up():
    """Check SplitLoss, which splits the loss by positions of the sequence."""
    model = small_model(CASES["drawn"], MASKED, GRID).double()
    images, samples = torch.randn(3, 3, 32, 32).double(), [DataSample() for _ in range(3)]
    for seed, sample in enumerate(samples):
        sample.set_metainfo(dict(draw_seed=seed, step_seed=7))
    runner = SimpleNamespace(model=model, iter=0, optim_wrapper=SimpleNamespace())
    runner.optim_wrapper.optim_context = lambda model: torch.no_grad()
    model.data_preprocessor = torch.nn.Identity()
    model.data_preprocessor.forward = lambda *_: dict(inputs=images, data_samples=samples)
    hook = SplitLoss()
    hook.before_train(runner)
    found = hook.measure(runner, images)
    loss = model.loss(images, samples)["loss"].item()
    bands = [value for name, value in found.items() if "band" in name]
    assert sum(bands) == pytest.approx(loss, rel=1e-6)
    assert sum("step" in name for name in found) > 8


def small(config):
    """Return the model of a shipped config at a small width, on 4×4 tokens."""
    model = Config.fromfile(config).model
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    model.backbone.update(arch=arch, img_size=32, patch_size=8)
    if model.neck is not None:
        model.neck.update(width=24, depth=2, heads=2)
        if "memory_layers" in model.neck:
            model.neck.memory_layers = [0, 1, 2]
    if model.mask.get("num_sets"):
        model.mask.num_sets = (2, 8)
    return MODELS.build(model)


@pytest.mark.parametrize("config", sorted(HERE.glob("*_vit-b16.py")), ids=lambda p: p.stem)
def test_the_configs_train_for_two_steps(config):
    model = small(config)
    check_steps(model)
    assert "none sees its target" in model.objective.certificate
