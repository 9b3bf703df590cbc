"""data2vec with mask tokens in the student: stable-pretraining's numbers, and its config."""

import re
from pathlib import Path
from types import SimpleNamespace

import latent_targets
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.random_shown import visible_first

HERE = Path(__file__).parent
NAMES = [
    (r"^mask_token", "backbone.mask_token"),
    (r"^regressor\.", "head.predictors.0."),
    (r"^encoder\.student\.", "backbone."),
    (r"^encoder\.teacher\.", "target_generator.teacher.module."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"(^|\.)blocks\.", r"\1layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.norm\.", ".ln1."),
    (r"mlp\.fc1", "ffn.layers.0.0"),
    (r"mlp\.fc2", "ffn.layers.1"),
]


def our_name(name):
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def build(layers, mask, depth=3, **backbone):
    """Build the model of the shipped config at a small width, on 4×4 tokens."""
    config = Config.fromfile(HERE / "data2vec_vit-b16.py").model
    arch = dict(embed_dims=24, num_layers=depth, num_heads=2, feedforward_channels=48)
    config.backbone.update(arch=arch, img_size=32, patch_size=8, drop_path_rate=0.0, **backbone)
    config.target_generator.layers = layers
    config.mask = mask
    return MODELS.build(config)


def test_the_loss_and_gradients_equal_those_of_stable_pretraining():
    file = HERE.parents[1] / "tests" / "golden" / "data2vec.safetensors"
    if not file.exists():
        pytest.skip("the golden numbers lie in the repository of xtra_toolkit")
    golden = load_file(file)
    mask = dict(type="xtra_toolkit.RandomShown", mask_ratio=0.6)
    model = build(2, mask, layer_scale_init_value=0.0).double()
    weights = {n.removeprefix("weight/"): v for n, v in golden.items() if "weight/" in n}
    state = {our_name(n): v for n, v in weights.items()}
    # the teacher is a copy of the encoder, with a mask token that it never uses
    state["target_generator.teacher.module.mask_token"] = weights["mask_token"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    own = {n for n, _ in model.named_parameters()}
    assert not unexpected and not set(missing) & own

    order = golden["mask"].byte().argsort(dim=1, stable=True)  # visible tokens first
    grid = PatchGrid(4, 4, (8, 8), extra=1)
    model.objective.mask = lambda *_: visible_first(grid, order, 6)
    images = golden["images"]
    values = model.target_generator.values(images, model.backbone.grid)
    torch.testing.assert_close(values, golden["target"], rtol=1e-10, atol=1e-10)
    loss = model.loss(images)["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=1e-10, atol=0)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    expected = {n.removeprefix("grad/"): v for n, v in golden.items() if "grad/" in n}
    assert {our_name(n) for n in expected} == {n for n in own if not n.startswith("target")}
    for name, grad in expected.items():
        error = (gradients[our_name(name)] - grad).abs().max()
        assert error <= 1e-10 * grad.abs().max(), name


def test_two_steps_of_the_config():
    model = build(2, dict(type="xtra_toolkit.HiddenBlocks", num_hidden=9, min_block=2))
    model.init_weights()
    hook, optimizer = latent_targets.UpdateTeacher(), torch.optim.AdamW(model.parameters())
    runner = SimpleNamespace(model=model, iter=0, max_iters=2)
    hook.before_train(runner)
    for runner.iter in range(2):
        optimizer.zero_grad()
        loss = model.loss(torch.randn(2, 3, 32, 32))["loss"]
        loss.backward()
        assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        optimizer.step()
        hook.after_train_iter(runner, runner.iter)
    assert loss.isfinite() and "as mask tokens" in model.objective.certificate
