"""Test the image part of AIMv2 against the numbers of apple/ml-l3m, in float64."""

import re
from pathlib import Path

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
NAMES = [
    (r"^preprocessor\.pos_embed", "backbone.pos_embed"),
    (r"^preprocessor\.patchifier\.proj\.", "backbone.patch_embed.projection."),
    (r"^preprocessor\.patchifier\.norm\.", "backbone.patch_embed.norm."),
    (r"^encoder\.", "backbone."),
    (r"^projection\.module\.", "neck.projection."),
    (r"^decoder\.", "neck."),
    (r"^head\.linear\.", "head.predictors.0."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm_(\d)\.", r".ln\1."),
    (r"\.post_trunk_norm\.", ".ln1."),
    (r"\.mlp\.fc2\.", ".ffn.w3."),
]


def converted(tensors):
    """Rename tensors, join queries, keys and values, and both halves of the gate."""
    found = {}
    for name, value in tensors.items():
        for old, new in NAMES:
            name = re.sub(old, new, name)
        if "head." in name:  # (row, column, channel) to (channel, row, column)
            value = value.unflatten(0, (8, 8, 3)).movedim(2, 0).flatten(0, 2)
        found[name] = value
    for name in [name for name in found if "q_proj" in name or "mlp.fc1" in name]:
        others = ("q_proj", "k_proj", "v_proj") if "q_proj" in name else ("mlp.fc1", "mlp.fc3")
        parts = [found.pop(name.replace(others[0], part)) for part in others]
        found[name.replace("q_proj", "qkv").replace("mlp.fc1", "ffn.w12")] = torch.cat(parts)
    return found


def test_loss_and_every_gradient_equal_those_of_the_original():
    golden = load_file(ROOT / "tests" / "golden" / "aimv2.safetensors")
    config = Config.fromfile(ROOT / "mmconfigs" / "aimv2_vit-l14.py").model
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=64)
    config.backbone.update(arch=arch, img_size=32, patch_size=8)
    config.neck.update(width=16, depth=2, heads=2)
    config.neck.layer_cfgs.feedforward_channels = 48
    model = MODELS.build(config).double()
    weights, grads = (
        converted({n.removeprefix(part): v for n, v in golden.items() if n.startswith(part)})
        for part in ("weight/", "grad/")
    )
    bias = "head.predictors.0.bias"  # which the original has not
    missing, unexpected = model.load_state_dict(weights | {bias: torch.zeros(192)}, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in model.named_parameters()}

    grid, factory = model.backbone.grid, model.objective.mask
    prefix = factory.mask.with_prefix(grid, golden["prefix"][:, None])
    drawn = factory.with_decoder(prefix, grid)
    plan = model.objective.compile(drawn, torch.device("cpu"))
    encoded = model.backbone.encode(golden["images"], plan)
    reads = encoded.shape[1]
    torch.testing.assert_close(encoded, golden["encoded"][:, :reads], rtol=1e-10, atol=1e-10)
    loss = model._loss(golden["images"], plan)["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=1e-10, atol=0)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name != bias:
            error = (parameter.grad - grads[name]).abs().max()
            assert error <= 1e-10 * grads[name].abs().max(), name
