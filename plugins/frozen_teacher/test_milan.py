"""MILAN: parity with MMPretrain's, with a drawn CLIP as the teacher, in float64; and its mask."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import frozen_teacher
import pytest
import torch
from mmengine.config import Config
from mmpretrain.models.utils.clip_generator_helper import CLIP
from mmpretrain.registry import MODELS

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import RandomShown, mask_rng
from xtra_toolkit.masks.random_shown import visible_first
from xtra_toolkit.registry import MASKS
from xtra_toolkit.targets import SumOfTargets, WrappedTarget
from xtra_toolkit.testing import check_mask

CONFIG = Path(__file__).parent / "milan_vit-b16.py"
ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)
SIZE = dict(img_size=64, patch_size=16)
GRID = PatchGrid(4, 4, (16, 16))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Write a file with the weights of a small CLIP of 16 features."""
    file = tmp_path_factory.mktemp("clip") / "clip.pth"
    torch.manual_seed(0)
    torch.save(CLIP(16, 64, 2, 64, 16, 4, 10, 64, 1, 1).state_dict(), file)
    return dict(type="mmpretrain.CLIPGenerator", tokenizer_path=str(file))


def our_model(clip, target=None, **backbone):
    """Build the model of the shipped config at a small width."""
    config = Config.fromfile(CONFIG).model
    config.target_generator.teacher = clip
    config.backbone.update(arch=ARCH, **SIZE | backbone)
    config.neck.update(width=32, depth=2, heads=2)
    config.target_generator = target or config.target_generator
    return MODELS.build(config)


def mmpretrains(clip):
    decoder = dict(embed_dim=48, decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2)
    loss = dict(type="mmpretrain.CosineSimilarityLoss", shift_factor=2.0, scale_factor=2.0)
    model = dict(
        type="mmpretrain.MILAN",
        data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
        backbone=dict(type="mmpretrain.MILANViT", arch=ARCH, **SIZE),
        neck=dict(
            type="mmpretrain.MILANPretrainDecoder",
            num_patches=16,
            patch_size=16,
            predict_feature_dim=16,
            **decoder,
        ),
        head=dict(type="mmpretrain.MIMHead", loss=loss),
        target_generator=clip,
    )
    return MODELS.build(model)


def converted(tensors):
    """Rename tensors, and join queries with keys and values in the decoder."""
    found = {}
    for name, value in tensors.items():
        for old, new in (
            ("neck.decoder_embed.", "neck.projection."),
            ("neck.decoder_pos_embed", "neck.pos_embed"),
            ("neck.decoder_blocks.", "neck.layers."),
            ("neck.decoder_pred.", "head.predictors.0."),
        ):
            name = name.replace(old, new)
        found[name] = value
    for name in [name for name in found if ".attn.q." in name]:
        both = found.pop(name), found.pop(name.replace(".q.", ".kv."))
        found[name.replace(".q.", ".qkv.")] = torch.cat(both)
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_every_gradient_equal_those_of_mmpretrain(seed, clip):
    """CLIP itself runs in float32, since its LayerNorms of MMPretrain know nothing else."""
    theirs, ours = mmpretrains(clip).double(), our_model(clip).double()
    teacher = theirs.target_generator.float()
    theirs.target_generator = None
    trained = dict(theirs.named_parameters())
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trained.values():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    theirs.__dict__["target_generator"] = lambda x: [f.double() for f in teacher(x)]
    ours.target_generator.frozen.float()
    state = converted({name: p.detach() for name, p in trained.items()})
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=g)
    weights = ours.target_generator.weights(images, GRID)
    torch.testing.assert_close(weights, teacher(images)[1][:, 0, 1:])
    torch.manual_seed(seed)
    loss = theirs.loss(images, None)["loss"]
    loss.backward()
    torch.manual_seed(seed)  # the order that they have drawn
    order = torch.multinomial(weights.double(), 16, replacement=False)
    plan = ours.objective.compile(visible_first(ours.backbone.grid, order, 4), images.device)
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=0)
    gradients = converted({n: p.grad for n, p in trained.items() if p.requires_grad})
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            error = (parameter.grad - gradients[name]).abs().max()
            assert error <= 1e-10 * gradients[name].abs().max(), name


def test_patches_are_drawn_as_often_as_by_multinomial():
    """Compare how often each patch is visible, and the first one, over many draws."""
    weights = torch.rand(1, 16, generator=torch.Generator().manual_seed(1)) ** 2
    many = weights.expand(20_000, -1)
    mask = frozen_teacher.AttentionShown()(GRID, 20_000, torch.Generator().manual_seed(0), many)
    torch.manual_seed(0)
    theirs = torch.multinomial(many, 16, replacement=False)
    for drawn in (4, 1):
        ours_, theirs_ = (
            x[:, :drawn].flatten().bincount(minlength=16) for x in (mask.order, theirs)
        )
        assert (ours_ - theirs_).abs().max() < 400  # five standard deviations of 20,000 draws
    assert (
        mask.order[:, 0].bincount(minlength=16) / 20_000 - weights[0] / weights.sum()
    ).abs().max() < 0.02


def test_a_patch_without_attention_comes_last_and_without_images_all_are_equal():
    weights = torch.ones(2, 16)
    weights[:, 3] = 0
    mask = frozen_teacher.AttentionShown()(GRID, 2, torch.Generator().manual_seed(0), weights)
    assert mask.order[:, -1].tolist() == [3, 3]
    plain, other = (
        kind(GRID, 2, torch.Generator().manual_seed(0))
        for kind in (RandomShown(), frozen_teacher.AttentionShown())
    )
    assert torch.equal(plain.order, other.order)


def test_the_config_trains_for_two_steps_and_draws_by_the_attention(clip):
    model = our_model(clip)
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    factory, given = model.objective.mask, []
    model.objective.mask = lambda *args: given.append(args[3]) or factory(*args)
    for _ in range(2):
        optimizer.zero_grad()
        images = torch.randn(2, 3, 64, 64)
        loss = model.loss(images)["loss"]
        loss.backward()
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
        assert torch.equal(given[-1], model.target_generator.weights(images, GRID))
    assert loss.isfinite()
    model.predict(images)
    assert len(given) == 3
    assert "17 predictions" in model.objective.certificate
    assert "may see its target, as the target declares" in model.objective.certificate


def test_the_model_is_built_on_the_meta_device(clip):
    """`xtra show` builds the model on the meta device."""
    with torch.device("meta"):
        model = our_model(clip)
    assert model.loss(torch.empty(2, 3, 64, 64, device="meta"))["loss"].is_meta


def test_registers_are_left_out(clip):
    model = our_model(clip, registers=2)
    images = torch.randn(2, 3, 64, 64)
    plan = model.plan(images)
    assert plan.groups[0].tokens.max() == 16 and model.loss(images)["loss"].isfinite()


def test_unsupported_settings_are_refused(clip):
    with pytest.raises(ValueError, match=r"set backbone.with_cls_token=True"):
        our_model(clip, with_cls_token=False)
    with pytest.raises(ValueError, match="gives none; take a target that gives weights"):
        our_model(clip, target=dict(type="xtra_toolkit.MaskedPatches"))
    with pytest.raises(ValueError, match="has 16 patches, and a grid of 2×2"):
        our_model(clip).target_generator.weights(
            torch.randn(1, 3, 64, 64), PatchGrid(2, 2, (32, 32))
        )


def test_the_conformance_kit_takes_the_mask():
    check_mask(dict(type="xtra_toolkit.AttentionShown"), dict(type=WithWeights))


def test_a_wrapped_target_and_a_sum_hand_the_weights_on():
    images, grid = torch.zeros(3, 3, 16, 16), PatchGrid(4, 4, (4, 4))
    patches = dict(type="xtra_toolkit.MaskedPatches")
    for target in (WrappedTarget(WithWeights()), SumOfTargets([patches, WithWeights()])):
        assert target.gives_weights and target.weights(images, grid).shape == (3, 16)
    assert not WrappedTarget(patches).gives_weights


class Uncounted(frozen_teacher.AttentionShown):
    """All tokens are visible to the loss, and the context of an image is drawn."""

    def __call__(self, grid, batch=1, generator=None, weights=None):
        mask = super().__call__(grid, batch, generator, weights)
        some = mask_rng(generator).rand(batch, len(mask)) < 0.3
        return replace(mask, context=torch.atleast_2d(mask.visible) | some)


def test_a_weighted_mask_whose_number_of_links_varies_is_refused():
    parts = dict(
        backbone=dict(
            type="xtra_toolkit.MaskedViT",
            arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=16),
            img_size=16,
            patch_size=4,
        ),
        neck=dict(type="xtra_toolkit.ViTDecoder", width=16, depth=1, heads=2),
        head=dict(type="xtra_toolkit.PredictionHead"),
    )
    MASKS.register_module(module=Uncounted, force=True)
    for mask, refused in ((Uncounted, True), (frozen_teacher.AttentionShown, False)):
        config = dict(parts, mask=dict(type=mask.__name__), target_generator=dict(type=WithWeights))
        with (
            pytest.raises(ValueError, match="counted without images") if refused else nullcontext()
        ):
            MODELS.build(dict(config, type="xtra_toolkit.MaskTargetPretrainer"))


@MODELS.register_module()
class WithWeights(frozen_teacher.WrappedTarget):
    """Hidden patches, with weights for the mask."""

    gives_weights = True

    def __init__(self):
        super().__init__(dict(type="xtra_toolkit.MaskedPatches"))

    def weights(self, images, grid):
        return torch.ones(len(images), grid.tokens)
