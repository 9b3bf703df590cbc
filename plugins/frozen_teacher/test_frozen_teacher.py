"""The teacher's features against the model's own, what frozen means, and what is refused."""

import copy
import re
from pathlib import Path

import pytest
import torch
from frozen_teacher import FrozenTeacher
from mmengine.optim import build_optim_wrapper
from mmpretrain import get_model
from mmpretrain.registry import MODELS

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, RandomShown, TokenCausal
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken
from xtra_toolkit.testing import check_target

GRID = PatchGrid(8, 8, (4, 4))
INNER = dict(type="xtra_toolkit.NextBlock", normalise=False)


def readme():
    """Return the model of the README."""
    text = (Path(__file__).parent / "README.md").read_text()
    space = {}
    exec(re.search(r"```python\n(model = .*?)```", text, re.DOTALL)[1], space)
    return space["model"]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes a teacher: a config with a file of weights, and the model itself."""
    folder = tmp_path_factory.mktemp("teachers")

    def make(seed=0, **changes):
        torch.manual_seed(seed)
        config = readme()["target_generator"]["teacher"] | changes
        file = folder / f"{len(list(folder.iterdir()))}.pth"
        model = MODELS.build({k: v for k, v in config.items() if k != "init_cfg"})
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        torch.save(model.state_dict(), file)
        config["init_cfg"] = dict(type="Pretrained", checkpoint=str(file))
        model.eval()
        return config, model

    return make


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(4, 3, 32, 32)


def config_of(teacher, **changes):
    config = readme() | changes
    return config | dict(target_generator=config["target_generator"] | dict(teacher=teacher))


def pretrainer(teacher, **changes):
    torch.manual_seed(0)
    model = MODELS.build(config_of(teacher, **changes))
    model.init_weights()
    return model


def tokens(model, images):
    """A ViT's own features of the patches, behind its class token."""
    model.out_type = "raw"
    return model(images)[-1][:, 1:]


def test_the_values_are_the_models_features(make, images):
    config, model = make()
    target = FrozenTeacher(config, INNER)
    assert torch.equal(target.values(images, GRID), tokens(model, images))
    assert target.width(GRID) == 24
    assert not target.values(images.requires_grad_(), GRID).requires_grad


def test_a_finer_map_is_averaged_over_each_token(make, images):
    config, model = make(patch_size=2)
    values = FrozenTeacher(config, INNER).values(images, GRID)
    fine = tokens(model, images).view(4, 8, 2, 8, 2, 24)
    torch.testing.assert_close(values, fine.mean((2, 4)).flatten(1, 2))


def test_images_are_resized_for_the_teacher(make, images):
    """Patch 7 at 56 px has the tokens of patch 4 at 32 px."""
    config, model = make(patch_size=7, img_size=56)
    values = FrozenTeacher(config, INNER, img_size=56).values(images, GRID)
    large = torch.nn.functional.interpolate(images, (56, 56), mode="bicubic", antialias=True)
    assert torch.equal(values, tokens(model, large))


def test_a_convolutional_teacher(images, tmp_path):
    """32×32 px make 8×8 features after the first stage."""
    config = dict(type="mmpretrain.ResNet", depth=18, out_indices=(0,))
    model = MODELS.build(config)
    torch.save(dict(state_dict=model.state_dict(prefix="backbone.")), tmp_path / "net.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "net.pth"), prefix="backbone")
    target = FrozenTeacher(config | dict(init_cfg=init), INNER)
    expected = model.train(False) or model(images)[0].flatten(2).mT
    torch.testing.assert_close(target.values(images, GRID), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the loss is taken in full precision
        assert model(images)[0].dtype == torch.bfloat16
        assert target.values(images, GRID).dtype == torch.float32


def test_an_encoder_of_our_own(make, images):
    mask = dict(type="xtra_toolkit.BlockCausal", block_size=2)
    config, model = make(type="xtra_toolkit.MaskedViT", mask=mask)
    target = FrozenTeacher(config, INNER)
    assert torch.equal(target.values(images, GRID), model(images)[-1])


def test_a_timm_model(images, tmp_path):
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_vit", img_size=128).eval()
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    config = dict(
        type="mmpretrain.TIMMBackbone",
        model_name="test_vit",
        img_size=128,
        checkpoint_path=str(tmp_path / "vit.pth"),
    )
    target = FrozenTeacher(config, INNER, img_size=128)
    large = torch.nn.functional.interpolate(images, (128, 128), mode="bicubic", antialias=True)
    expected = model.forward_features(large)[:, model.num_prefix_tokens :]
    torch.testing.assert_close(target.values(images, GRID), expected)


def test_a_model_by_its_name_in_mmpretrain(tmp_path):
    name, images = "deit-tiny_4xb256_in1k", torch.randn(1, 3, 224, 224)
    model = get_model(name)
    torch.save(model.state_dict(), tmp_path / "deit.pth")
    target = FrozenTeacher(name, INNER, weights=str(tmp_path / "deit.pth"))
    expected = tokens(model.backbone, images)
    assert torch.equal(target.values(images, PatchGrid(14, 14, (16, 16))), expected)
    with pytest.raises(ValueError, match="MMPretrain has no weights for 'hivit-tiny"):
        FrozenTeacher("hivit-tiny-p16_16xb64_in1k", INNER)
    with pytest.raises(ValueError, match="Failed to find model"):
        FrozenTeacher("clip-huge", INNER)


@pytest.mark.parametrize(
    ("mask", "inner", "groups"),
    [
        (TokenCausal(), NextToken(), 63),
        (BlockCausal(2), NextBlock(), 15),
        (RandomShown(), MaskedPatches(), 48),
    ],
)
def test_any_target_keeps_its_links(mask, inner, groups, make):
    objective = certify_objective(mask, FrozenTeacher(make()[0], inner), GRID)
    assert objective.links[0].target_positions.shape[1] == groups


def test_no_pixel_of_the_next_block_moves_the_prediction_of_its_features(make, images):
    model = pretrainer(make()[0])
    images.requires_grad_()
    plan = model.plan(images)
    out = model.reconstruct(images, plan)[0]
    assert out.shape == (4, 15, 4 * 24)
    (moved,) = torch.autograd.grad(out[0, 6].square().sum(), images)
    moved = model.backbone.grid.patchify(moved)[0].abs().sum(-1) > 0
    assert moved.sum() == 7 * 4 and not moved[plan.groups[0].tokens[0, 6]].any()


@pytest.mark.parametrize("loss", ["cosine", "smooth_l1"])
def test_the_loss_falls_and_the_teacher_stays(make, images, loss):
    model = pretrainer(make()[0], head=readme()["head"] | dict(loss=loss)).train()
    before, losses = model.target_generator.values(images, GRID), []
    optim = dict(type="mmengine.OptimWrapper", optimizer=dict(type="torch.optim.AdamW", lr=5e-3))
    optimizer = build_optim_wrapper(model, optim)
    for _ in range(12):
        losses.append(model.loss(images)["loss"])
        optimizer.update_params(losses[-1])
    assert losses[-1] < 0.8 * losses[0]
    assert torch.equal(model.target_generator.values(images, GRID), before)
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in model.target_generator.frozen.parameters()}


def test_the_teacher_stays_in_evaluation_mode_and_is_no_submodule(make, images):
    model = pretrainer(make(drop_rate=0.5)[0]).train()
    target = model.target_generator
    assert torch.equal(target.values(images, GRID), target.values(images, GRID))
    assert not any(module.training for module in target.frozen.modules())
    assert not list(target.parameters())
    assert [n for n in model.state_dict() if n.startswith("target")] == [
        "target_generator.checksum"
    ]


def test_the_teacher_moves_to_another_dtype_and_is_copied_with_the_target(make, images):
    target = FrozenTeacher(make()[0], INNER)
    values = target.values(images, GRID)
    assert torch.equal(copy.deepcopy(target).values(images, GRID), values)
    doubled = target.double().values(images.double(), GRID)
    assert doubled.dtype == torch.float64
    torch.testing.assert_close(doubled.float(), values)
    assert target.checksum.dtype == torch.long


def test_training_resumes_with_the_teacher_that_it_began_with(make):
    (one, _), (other, _) = make(0), make(1)
    saved = FrozenTeacher(one, INNER).state_dict()
    FrozenTeacher(one, INNER).load_state_dict(saved)
    with pytest.raises(ValueError, match="trained with another teacher than mmpretrain"):
        FrozenTeacher(other, INNER).load_state_dict(saved)


def test_a_model_on_the_meta_device_computes_its_target_values(make):
    """`xtra show` builds a model on the meta device; it needs no file of weights either."""
    teacher, _ = make()
    Path(teacher["init_cfg"]["checkpoint"]).unlink()
    with torch.device("meta"):
        model = MODELS.build(config_of(teacher))
    assert model.loss(torch.empty(2, 3, 32, 32, device="meta"))["loss"].is_meta


def test_a_teacher_with_random_weights_is_refused(make):
    config, _ = make()
    del config["init_cfg"]
    with pytest.raises(ValueError, match="would have random weights; name its weights"):
        FrozenTeacher(config, INNER)


def test_a_checkpoint_that_lacks_the_teachers_weights_is_refused(make):
    """MMEngine would warn, and a random teacher would teach."""
    config, _ = make()
    config["init_cfg"]["prefix"] = "backbone."
    with pytest.raises(ValueError, match=r"30 of the teacher's 30 .* begins with 'cls_token'"):
        FrozenTeacher(config, INNER)
    config["init_cfg"].pop("prefix")
    config["arch"] = config["arch"] | dict(num_layers=3)
    with pytest.raises(ValueError, match=r"12 of the teacher's 42 .* the first is 'layers\.2\."):
        FrozenTeacher(config, INNER)


def test_a_map_that_does_not_fit_the_grid_is_refused_when_the_model_is_built(make):
    with pytest.raises(
        ValueError, match=r"shape \(1, 24, 4, 4\) for images of 32×32 px; a grid of 8"
    ):
        pretrainer(make(patch_size=8)[0])


def test_it_keeps_the_contract_of_a_target(make):
    """A feature follows from the whole image, hence local = False."""
    target = dict(type="xtra_toolkit.FrozenTeacher", teacher=make()[0], target=INNER)
    check_target(target, dict(type="xtra_toolkit.BlockCausal", block_size=2), GRID)


def test_a_teacher_without_its_statistics_is_refused(tmp_path):
    """A frozen BatchNorm reads nothing else, and MMEngine would leave 0 and 1 in their place."""
    config = dict(type="mmpretrain.ResNet", depth=18, stem_channels=8, base_channels=8)
    state = MODELS.build(config).state_dict()
    whole, part = tmp_path / "whole.pth", tmp_path / "part.pth"
    torch.save(state, whole)
    torch.save({n: v for n, v in state.items() if "running_" not in n}, part)
    target = dict(type="xtra_toolkit.NextToken")
    init = dict(type="Pretrained", checkpoint=str(whole))
    FrozenTeacher(config | dict(init_cfg=init), target)
    with pytest.raises(ValueError, match=r"tensors are not in .*the first is 'bn1\.running_mean'"):
        FrozenTeacher(config | dict(init_cfg=init | dict(checkpoint=str(part))), target)
