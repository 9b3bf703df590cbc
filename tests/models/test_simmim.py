"""Test parity with lightly's SimMIM on a ViT: outputs, loss and every gradient, in float64."""

import re
from pathlib import Path

import torch
from einops import rearrange
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks.random_shown import visible_first

ROOT = Path(__file__).parents[2]
NAMES = [
    (r"^decoder\.", "head.predictors.0."),
    (r"^backbone\.vit\.", "backbone."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.norm\.", ".ln1."),
    (r"mlp\.fc1", "ffn.layers.0.0"),
    (r"mlp\.fc2", "ffn.layers.1"),
]


def our_name(name):
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def token_major(name, value):
    """Reorder lightly's pixels (row, column, channel) to (channel, row, column)."""
    if name.startswith(("decoder", "predictions")):
        dim = -1 if name == "predictions" else 0
        value = rearrange(value.movedim(dim, 0), "(p q c) ... -> (c p q) ...", p=8, q=8)
        return value.movedim(0, dim)
    return value


def test_lightlys_numbers():
    golden = load_file(ROOT / "tests" / "golden" / "simmim.safetensors")
    config = Config.fromfile(ROOT / "mmconfigs" / "simmim_vit-b16.py").model
    arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
    small = dict(arch=arch, img_size=32, patch_size=8, layer_scale_init_value=0.0)
    config.backbone.update(small)
    config.mask.block_size = 1
    model = MODELS.build(config).double().eval()
    weights = {n.removeprefix("weight/"): v for n, v in golden.items() if "weight/" in n}
    state = {our_name(n): token_major(n, v) for n, v in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in model.named_parameters()}

    grid = PatchGrid(4, 4, (8, 8), extra=1)
    hidden = golden["idx_mask"] - 1  # their class token is index 0
    visible = [[t for t in range(16) if t not in row] for row in hidden.tolist()]
    order = torch.cat([torch.tensor(visible), hidden], 1)
    model.objective.mask = lambda *_: visible_first(grid, order, 6)
    images = golden["images"]
    plan = model.plan(images)
    (predictions,) = model.reconstruct(images, plan)
    expected = token_major("predictions", golden["predictions"])
    torch.testing.assert_close(predictions, expected, rtol=1e-10, atol=1e-10)
    loss = model.loss(images)["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=1e-10, atol=0)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for name in weights:
        grad = token_major(name, golden[f"grad/{name}"])
        error = (gradients[our_name(name)] - grad).abs().max()
        assert error <= 1e-10 * grad.abs().max(), name
