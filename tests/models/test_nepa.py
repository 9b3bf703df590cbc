"""Test NEPA against its own code: loss and every gradient; and what its target and head refuse."""

import copy
import re
from pathlib import Path

import pytest
import torch
from helpers.builds import MASKS, arch, randomise
from mmengine.config import Config
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

import xtra_toolkit
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import TokenCausal
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import NextEmbedding
from xtra_toolkit.testing import moved_tokens

ROOT = Path(__file__).parents[2]
NAMES = [
    (r"^vit_nepa\.", "backbone."),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.patch_embeddings\.", "patch_embed."),
    (r"encoder\.layer\.", "layers."),
    (r"attention\.output\.dense\.", "attn.proj."),
    (r"(\d)\.layer_scale\.lambda1", r"\1.attn.gamma1.weight"),
    (r"output\.layer_scale\.lambda1", "ffn.gamma2.weight"),
    (r"intermediate\.up_proj", "ffn.layers.0.0"),
    (r"output\.dense", "ffn.layers.1"),
    (r"layernorm_before", "ln1"),
    (r"layernorm_after", "ln2"),
    (r"layernorm", "ln1"),
]


def ours(tensors):
    """Return tensors under our names: queries, keys and values are one layer."""
    renamed = {}
    for name, value in tensors.items():
        for old, new in NAMES:
            name = re.sub(old, new, name)
        renamed[name] = value
    for name in [n for n in renamed if ".attention.attention.query" in n]:
        parts = [renamed.pop(name.replace("query", p)) for p in ("query", "key", "value")]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    return renamed


def nepa(**backbone):
    config = Config.fromfile(ROOT / "mmconfigs" / "nepa_vit-b14.py").model
    shape = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    config.backbone.update(dict(arch=shape, img_size=16, patch_size=4) | backbone)
    return config


def test_the_numbers_equal_those_of_nepas_code():
    """Their rotary angles are computed in float32, so that 1e-6 is as sharp as it can be."""
    golden = load_file(ROOT / "tests" / "golden" / "nepa.safetensors")
    weights, gradients = (
        ours({n.removeprefix(p): v for n, v in golden.items() if n.startswith(p)})
        for p in ("weight/", "grad/")
    )
    model = MODELS.build(nepa()).double().eval()
    own = dict(model.named_parameters())
    norms = [n for n in own if re.search(r"attn\.[qk]_norm", n)]  # keep 1 and 0 under the recipe
    weights |= {n: torch.full_like(own[n], float(n.endswith("weight"))) for n in norms}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not set(missing) & own.keys()
    loss = model.loss(golden["images"])["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=0, atol=1e-7)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name not in norms:
            error = (parameter.grad - gradients[name]).abs().max()
            assert error <= 1e-6 * gradients[name].abs().max(), name


def test_the_norms_of_queries_and_keys_keep_their_weights():
    """They have no weights in the original; the config gives them a rate and a decay of 0."""
    config = Config.fromfile(ROOT / "mmconfigs" / "nepa_vit-b14.py")
    config.optim_wrapper.type = "mmengine.OptimWrapper"
    from mmengine.optim import build_optim_wrapper

    model = MODELS.build(nepa())
    model.init_weights()
    norms = {n: p for n, p in model.named_parameters() if re.search(r"attn\.[qk]_norm", n)}
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    before = copy.deepcopy(norms)
    other = model.backbone.layers[0].attn.qkv.weight.detach().clone()
    wrapper.update_params(model.loss(torch.randn(2, 3, 16, 16))["loss"])
    assert len(norms) == 8 and all(torch.equal(norms[n], before[n]) for n in norms)
    assert not torch.equal(model.backbone.layers[0].attn.qkv.weight, other)


def test_the_target_is_the_encoders_own_embedding_without_a_gradient():
    model = MODELS.build(nepa(positions="learned"))
    images, vit = torch.randn(2, 3, 16, 16), model.backbone
    torch.nn.init.normal_(vit.pos_embed)
    (values,) = model.target_values(images, model.plan(images))
    patches = vit.patch_embed(images)[0] + vit.pos_embed[:, 1:]
    torch.testing.assert_close(values, patches)
    assert not values.requires_grad
    with torch.no_grad():
        vit.patch_embed.projection.bias.add_(1)  # the target follows the encoder
    (moved,) = model.target_values(images, model.plan(images))
    torch.testing.assert_close(moved, values + 1)
    names = [n for n, _ in model.named_parameters()]
    assert all(n.startswith("backbone.") for n in names)  # the target holds no second encoder
    copied = copy.deepcopy(model)
    assert copied.target_generator.encoder is copied.backbone


def test_a_patch_does_not_move_its_own_prediction():
    for moved in moved_tokens(MODELS.build(nepa()), 0):
        assert moved.tokens.nonzero().flatten().tolist() == list(range(int(moved.targets)))


def test_a_checkpoint_holds_all_settings_of_its_encoder(tmp_path):
    """Among it the eps of 1e-12 of its norms, which the config calls mmengine.LN."""
    model = randomise(MODELS.build(nepa()))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "x.pth")
    encoder, _ = xtra_toolkit.load(tmp_path / "x.pth", "tokens")
    images = torch.randn(2, 3, 16, 16)
    assert encoder.vit.ln1.eps == 1e-12
    torch.testing.assert_close(encoder(images), model.extract_feat(images)[0][:, 1:])


def test_unsupported_settings_are_refused():
    with pytest.raises(ValueError, match=r"drop_rate=0.1 was given .* NextEmbedding predicts"):
        MODELS.build(nepa(drop_rate=0.1))
    config = nepa()
    config.neck = dict(type="xtra_toolkit.ViTDecoder", width=12, depth=1, heads=2)
    with pytest.raises(ValueError, match=r"outputs themselves, 12 values .* target's 16"):
        MODELS.build(config)
    with pytest.raises(ValueError, match="none was bound; call"):
        certify_objective(TokenCausal(), NextEmbedding(), PatchGrid(4, 4))
    config = nepa(arch=arch(), with_cls_token=False)
    config.mask = MASKS["block"]
    with pytest.raises(ValueError, match="can see patch"):
        MODELS.build(config)
