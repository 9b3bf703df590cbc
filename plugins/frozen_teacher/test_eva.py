"""EVA: parity with MMPretrain's, with a drawn CLIP as the teacher, in float64; and its config."""

from pathlib import Path

import frozen_teacher  # noqa: F401, registers
import pytest
import torch
from mmengine.config import Config
from mmpretrain.models.utils.clip_generator_helper import CLIP
from mmpretrain.registry import MODELS

from xtra_toolkit.testing import check_steps

CONFIG = Path(__file__).parent / "eva_vit-b16.py"
ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)
SIZE = dict(img_size=64, patch_size=16)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Write a file with the weights of a small CLIP of 16 features."""
    file = tmp_path_factory.mktemp("clip") / "clip.pth"
    torch.manual_seed(0)
    torch.save(CLIP(16, 64, 2, 64, 16, 4, 10, 64, 1, 1).state_dict(), file)
    return dict(type="mmpretrain.CLIPGenerator", tokenizer_path=str(file))


def our_model(clip):
    """Build the model of the shipped config at a small width."""
    config = Config.fromfile(CONFIG).model
    config.target_generator.teacher = clip
    config.backbone.update(arch=ARCH, **SIZE)
    config.neck.update(width=32, depth=2, heads=2)
    return MODELS.build(config)


def mmpretrains(clip):
    decoder = dict(embed_dim=48, decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=2)
    loss = dict(type="mmpretrain.CosineSimilarityLoss", shift_factor=2.0, scale_factor=2.0)
    model = dict(
        type="mmpretrain.EVA",
        data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
        backbone=dict(type="mmpretrain.MAEViT", arch=ARCH, **SIZE),
        neck=dict(
            type="mmpretrain.MAEPretrainDecoder",
            num_patches=16,
            patch_size=16,
            predict_feature_dim=16,
            **decoder,
        ),
        head=dict(type="mmpretrain.MIMHead", loss=loss),
        target_generator=clip,
    )
    return MODELS.build(model)


def our_name(name):
    for old, new in (
        ("neck.decoder_embed.", "neck.projection."),
        ("neck.decoder_pos_embed", "neck.pos_embed"),
        ("neck.decoder_blocks.", "neck.layers."),
        ("neck.decoder_pred.", "head.predictors.0."),
    ):
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_every_gradient(seed, clip):
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
    state = {our_name(name): p.detach() for name, p in trained.items()}
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=g)
    torch.manual_seed(seed)  # both shuffle by the same numbers
    loss = theirs.loss(images, None)["loss"]
    loss.backward()
    plan = ours.objective(2, images.device, torch.Generator().manual_seed(seed))
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=0)
    gradients = {n: p.grad for n, p in ours.named_parameters()}
    for name, parameter in trained.items():
        if parameter.requires_grad:  # their position tables are fixed
            error = (gradients[our_name(name)] - parameter.grad).abs().max()
            assert error <= 1e-10 * parameter.grad.abs().max(), name


def test_two_steps_of_the_config(clip):
    model = our_model(clip)
    check_steps(model)
    assert "none sees its target" in model.objective.certificate


def test_it_is_shown_without_memory(clip):
    """`xtra show` builds the model on the meta device."""
    with torch.device("meta"):
        model = our_model(clip)
    assert model.loss(torch.empty(2, 3, 64, 64, device="meta"))["loss"].is_meta
