"""CAE: parity with MMPretrain's, with a drawn tokenizer, in float64; and its config."""

import re
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

HERE = Path(__file__).parent
TOKENIZER = HERE.parent / "frozen_teacher"
if not TOKENIZER.exists():
    pytest.skip("the tokenizer lies in the plugin frozen_teacher", allow_module_level=True)
sys.path.insert(0, str(TOKENIZER))
import context_autoencoder  # noqa: E402
import frozen_teacher  # noqa: E402, F401, registers

from xtra_toolkit.targets import WrappedTarget  # noqa: E402
from xtra_toolkit.testing import check_steps  # noqa: E402
from xtra_toolkit.testing.gradients import moved_tokens  # noqa: E402
from xtra_toolkit.visualization.objectives.cost import flops  # noqa: E402

ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)
SIZE = dict(img_size=64, patch_size=8)
MEAN_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
NAMES = [
    (r"^backbone\.(.*)\.gamma_1$", r"backbone.\1.attn.gamma1.weight"),
    (r"^backbone\.(.*)\.gamma_2$", r"backbone.\1.ffn.gamma2.weight"),
    (r"^neck\.decoders\.(.*)\.gamma_1$", r"neck.layers.\1.attn.gamma1.weight"),
    (r"^neck\.decoders\.(.*)\.gamma_2$", r"neck.layers.\1.ffn.gamma2.weight"),
    (r"\.gamma_(\d)_cross", r".gamma\1"),
    (r"\.norm1_([qkv])_cross", r".\1_norm"),
    (r"\.norm2_cross", ".ln2"),
    (r"\.cross_attn\.([qv])_bias", r".\1.bias"),
    (r"\.cross_attn\.", "."),
    (r"^neck\.decoders\.", "neck.layers."),
    (r"^neck\.norm_regressor", "neck.regressor_norm"),
    (r"^neck\.norm_decoder", "neck.ln1"),
    (r"^neck\.head\.", "head.heads.0.predictors.0."),
]


@pytest.fixture(scope="module")
def dalle(tmp_path_factory):
    """Write a file with the weights of a small DALL-E encoder of 12 classes."""
    config = dict(type="mmpretrain.DALL-E", n_hid=4, n_blk_per_group=1, vocab_size=12)
    model, file = MODELS.build(config), tmp_path_factory.mktemp("dalle") / "dalle.pth"
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.0, generator=g)
    torch.save(model.state_dict(), file)
    return config | dict(init_cfg=dict(type="Pretrained", checkpoint=str(file)))


def our_model(dalle, neck=None, head=None, **backbone):
    """Build the model of the shipped config at a small width, on 8×8 tokens."""
    config = Config.fromfile(HERE / "cae_vit-b16.py").model
    config.target_generator.targets[0].update(teacher=dalle, img_size=64)
    config.backbone.update(arch=ARCH, **SIZE | backbone)
    config.mask.update(num_hidden=24, min_block=4)
    config.neck.update(dict(regressor_depth=2, depth=2, heads=3) | (neck or {}))
    config.head.update(head or {})
    return MODELS.build(config)


def mmpretrains(dalle):
    model = dict(
        type="mmpretrain.CAE",
        data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
        backbone=dict(
            type="mmpretrain.CAEPretrainViT", arch=ARCH, layer_scale_init_value=0.1, **SIZE
        ),
        neck=dict(
            type="mmpretrain.CAENeck",
            num_classes=12,
            embed_dims=48,
            regressor_depth=2,
            decoder_depth=2,
            num_heads=3,
            layer_scale_init_value=0.1,
            mask_tokens_num=24,
        ),
        head=dict(type="mmpretrain.CAEHead", loss=dict(type="mmpretrain.CAELoss", lambd=2)),
        target_generator={k: v for k, v in dalle.items() if k != "init_cfg"},
        base_momentum=0.0,
    )
    model = MODELS.build(model)
    model.target_generator.load_state_dict(torch.load(dalle["init_cfg"]["checkpoint"]))
    return model


def ours_of(values):
    """Rename MMPretrain's parameters, and join the biases of queries and values."""
    joined, found = r"\.attn\.[qv]_bias$", {}
    for name, value in values.items():
        if not re.search(joined, name):
            for old, new in NAMES:
                name = re.sub(old, new, name)
            found[name] = value
    for name in [n for n in values if n.endswith(".attn.q_bias")]:
        q, v = values[name], values[name.replace("q_bias", "v_bias")]
        name = name.replace("q_bias", "qkv.bias").replace("neck.decoders.", "neck.layers.")
        found[name] = torch.cat([q, torch.zeros_like(q), v])
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_every_gradient_equal_those_of_mmpretrain(seed, dalle):
    theirs, ours = mmpretrains(dalle).double(), our_model(dalle).double()
    theirs.target_generator.float()  # it converts its input to float32
    trained = {
        n: p for n, p in theirs.named_parameters() if n.split(".")[0] in ("backbone", "neck")
    }
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trained.values():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    theirs.teacher.load_state_dict(theirs.backbone.state_dict())
    state = ours_of({n: p.detach() for n, p in trained.items()})
    state["neck.pos_embed"] = state["backbone.pos_embed"]  # theirs has one table
    missing, unexpected = ours.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = 5 * torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=g)
    images = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    plan = ours.objective(2, images.device, torch.Generator().manual_seed(seed))
    masks = torch.ones(2, 65, dtype=torch.long).scatter(1, plan.encoded_tokens, 0)[:, :64]
    samples = []
    for mask in masks.view(2, 8, 8):
        samples.append(DataSample())
        samples[-1].set_field(mask, "mask")
    mean, std = (torch.tensor(n).view(3, 1, 1) for n in MEAN_STD)
    small = (images * std + mean + 31.875) / 318.75  # as their data preprocessor would give it
    losses = theirs.loss([images, small], samples)
    losses["loss"].backward()
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    torch.testing.assert_close(mine, losses["loss"], rtol=1e-10, atol=0)
    assert losses["align"] > 0.1 and losses["main"] > 0.1
    expected = ours_of({n: p.grad for n, p in trained.items() if p.requires_grad})
    found = {n: p.grad for n, p in ours.named_parameters() if p.requires_grad}
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        if name.endswith("k_norm.bias"):  # adds the same to all scores of a query
            assert max(grad.abs().max(), found[name].abs().max()) < 1e-15, name
        else:
            assert (found[name] - grad).abs().max() <= 1e-10 * grad.abs().max(), name


def test_the_config_trains_for_two_steps(dalle):
    model = our_model(dalle)
    check_steps(model)
    assert "none sees its target" in model.objective.certificate


def test_only_visible_patches_move_a_prediction(dalle):
    model = our_model(dalle)
    plan = model.objective(1, torch.device("cpu"), torch.Generator().manual_seed(0))
    visible = sorted(token for token in plan.encoded_tokens[0].tolist() if token < 64)
    for group in (0, 1):
        moved = [m for m in moved_tokens(model, 0, most=2) if m.group == group]
        assert moved and all(m.tokens.nonzero().flatten().tolist() == visible for m in moved)


def test_the_latents_of_hidden_patches_depend_on_hidden_patches_alone(dalle):
    model = our_model(dalle).eval()
    target, grid = model.target_generator.parts[1], model.backbone.grid
    images = torch.randn(2, 3, 64, 64)
    plan = model.plan(images)
    before = target.values_in_plan(images, grid, plan)
    patches = grid.patchify(images)
    visible = plan.encoded_tokens[:, 1:]
    changed = patches.scatter(1, visible[..., None].expand(-1, -1, patches.shape[-1]), 0.0)
    after = target.values_in_plan(grid.unpatchify(changed), grid, plan)
    torch.testing.assert_close(before, after)
    shown = torch.zeros(2, 65, dtype=torch.bool).scatter(1, plan.encoded_tokens, True)[:, :64]
    assert torch.equal(before.abs().sum(-1) == 0, shown)


def test_the_model_is_built_and_counted_on_the_meta_device(dalle):
    """`xtra show` builds the model on the meta device, and reads no file of weights."""
    absent = dalle | dict(init_cfg=dict(type="Pretrained", checkpoint="absent.pth"))
    with torch.device("meta"):
        model = our_model(absent)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    assert all(part > 0 for part in flops(model))
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert model.loss(torch.empty(2, 3, 64, 64, device="meta"))["loss"].is_meta


def test_unsupported_settings_are_refused(dalle):
    with pytest.raises(ValueError, match="needs heads that divide the width, a mask that hides"):
        our_model(dalle, mask_tokens=True)
    with pytest.raises(ValueError, match="heads=5 was given for a width of 48"):
        our_model(dalle, neck=dict(heads=5))
    with pytest.raises(ValueError, match=r"reads=\[0\] was given for 2 heads"):
        our_model(dalle, head=dict(reads=[0]))
    for reads in (None, [0, 2], [0, 0]):  # the last one leaves an output unread
        with pytest.raises(ValueError, match=r"returns 2 output\(s\); take a SumOfHeads"):
            our_model(dalle, head=dict(reads=reads))
    with pytest.raises(ValueError, match="HiddenLatents computes values that depend on what"):
        WrappedTarget(context_autoencoder.HiddenLatents())
    with pytest.raises(ValueError, match="an OutputHead compares them as they are"):
        context_autoencoder.OutputHead(shapes=[(4, 5)])
