"""Test parity with Pixio's own code: loss and every gradient, in float64."""

import re
from pathlib import Path

import torch
from einops import rearrange
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from xtra_toolkit.masks import RandomShown
from xtra_toolkit.masks.random_shown import visible_first

ROOT = Path(__file__).parents[2]
NAMES = [
    (r"^decoder_embed\.", "neck.projection."),
    (r"^decoder_pos_embed", "neck.pos_embed"),
    (r"^mask_token", "neck.mask_token"),
    (r"^decoder_blocks\.", "neck.blocks."),
    (r"^decoder_norm\.", "neck.norm."),
    (r"^decoder_pred\.", "head.predictors.0."),
    (r"^(?!neck|head)", "backbone."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.norm\.", ".ln1."),
    (r"mlp\.fc1", "ffn.layers.0.0"),
    (r"mlp\.fc2", "ffn.layers.1"),
]


class GivenOrder(RandomShown):
    """RandomShown with the blocks that are drawn by given numbers."""

    def __init__(self, noise):
        super().__init__(0.75, 2)
        self.noise = noise

    def __call__(self, grid, batch=1, generator=None):
        tokens = torch.arange(grid.tokens)
        blocks = rearrange(tokens, "(r h c w) -> (r c) (h w)", h=2, w=2, c=grid.cols // 2)
        return visible_first(grid, blocks[self.noise.argsort(1)].flatten(1), 16)


def ours(tensors, add):
    """Return tensors under our names; what ``add`` tells of the table is that of the registers.

    Their eight class tokens have positions, which ours, seven of which are registers, have not.
    """
    tensors = dict(tensors)
    tokens, table = tensors["cls_token"], tensors["pos_embed"]
    registers = tokens[:, 1:] + table[:, 1:8] * add
    tensors |= dict(cls_token=tokens[:, :1], pos_embed=torch.cat([table[:, :1], table[:, 8:]], 1))
    pixels = {n for n in tensors if n.startswith("decoder_pred")}
    for name in pixels:  # (row, column, channel) to (channel, row, column)
        tensors[name] = rearrange(tensors[name], "(p q c) ... -> (c p q) ...", p=4, q=4)
    renamed = {"backbone.register_tokens": registers}
    for name, value in tensors.items():
        for old, new in NAMES:
            name = re.sub(old, new, name)
        renamed[name] = value
    return renamed


def test_the_numbers_equal_those_of_pixios_code():
    golden = load_file(ROOT / "tests" / "golden" / "pixio.safetensors")
    weights, gradients = (
        ours({n.removeprefix(p): v for n, v in golden.items() if n.startswith(p)}, add)
        for p, add in (("weight/", 1), ("grad/", 0))
    )
    config = Config.fromfile(ROOT / "mmconfigs" / "pixio_vit-h16.py").model
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=64)
    config.backbone.update(arch=arch, img_size=32, patch_size=4)
    config.neck.update(width=12, depth=3, heads=3)
    config.mask.block_size = 2
    model = MODELS.build(config).double().eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in model.named_parameters()}
    model.objective.mask = GivenOrder(golden["noise"])
    images = golden["images"]
    assert model.plan(images).encoded_tokens.shape == (2, 8 + 16)
    loss = model.loss(images)["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=1e-10, atol=0)
    loss.backward()
    for name, parameter in model.named_parameters():
        error = (parameter.grad - gradients[name]).abs().max()
        assert error <= 1e-10 * gradients[name].abs().max(), name
