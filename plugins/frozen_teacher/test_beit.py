"""BEiT: parity with MMPretrain's, with a drawn tokenizer, in float64; and its config."""

import re
from pathlib import Path

import frozen_teacher
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.testing import check_steps, check_target
from xtra_toolkit.testing.gradients import small_model

CONFIG = Path(__file__).parent / "beit_vit-b16.py"
ARCH = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)
SIZE = dict(img_size=128, patch_size=16)
INNER = dict(type="xtra_toolkit.MaskedPatches", normalise=False)


@pytest.fixture(scope="module")
def dalle(tmp_path_factory):
    """Write a file with the weights of a small DALL-E encoder of 12 classes."""
    config = dict(type="mmpretrain.DALL-E", n_hid=4, n_blk_per_group=1, vocab_size=12)
    model, file = MODELS.build(config), tmp_path_factory.mktemp("dalle") / "dalle.pth"
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        std = p[0].numel() ** -0.5 if p.ndim > 1 else 0.0
        torch.nn.init.normal_(p, std=std, generator=g)
    last = model.blocks.output.conv  # with centred logits, all ids occur
    with torch.no_grad():
        logits = model(0.5 + 0.9 * torch.randn(4, 3, 64, 64, generator=g)).movedim(1, 0).flatten(1)
        last.w /= logits.std(1).view(-1, 1, 1, 1)
        last.b.copy_(-logits.mean(1) / logits.std(1))
    torch.save(model.state_dict(), file)
    return config | dict(init_cfg=dict(type="Pretrained", checkpoint=str(file)))


def our_model(dalle):
    """Build the model of the shipped config at a small width, on 8×8 tokens."""
    config = Config.fromfile(CONFIG).model
    config.target_generator.update(teacher=dalle, img_size=64)
    config.backbone.update(arch=ARCH, **SIZE, drop_path_rate=0.0)
    config.mask.update(num_hidden=24, min_block=4)
    return MODELS.build(config)


def mmpretrains(dalle):
    head = dict(type="mmpretrain.BEiTV1Head", embed_dims=48, num_embed=12)
    model = dict(
        type="mmpretrain.BEiT",
        data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
        backbone=dict(type="mmpretrain.BEiTPretrainViT", arch=ARCH, **SIZE),
        head=head | dict(loss=dict(type="mmpretrain.CrossEntropyLoss")),
        target_generator={k: v for k, v in dalle.items() if k != "init_cfg"},
    )
    model = MODELS.build(model)
    model.target_generator.load_state_dict(torch.load(dalle["init_cfg"]["checkpoint"]))
    return model


NAMES = [
    ("head.cls_head.", "head.predictors.0."),
    (r"\.gamma_1", ".attn.gamma1.weight"),
    (r"\.gamma_2", ".ffn.gamma2.weight"),
]


def our_name(name):
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def ours_of(values):
    """Rename MMPretrain's parameters, and join the biases of queries and values.

    BEiT's keys have no bias: it would add the same to all scores of a query.
    """
    state = {our_name(n): v for n, v in values.items() if not re.search(r"\.[qv]_bias$", n)}
    for name in [n for n in values if n.endswith(".q_bias")]:
        q, v = values[name], values[name.replace("q_bias", "v_bias")]
        state[name.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros_like(q), v])
    return state


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_loss_and_every_gradient(seed, dalle):
    theirs, ours = mmpretrains(dalle).double(), our_model(dalle).double()
    theirs.target_generator.float()  # it converts its input to float32
    trained = {n: p for n, p in theirs.named_parameters() if "target_generator" not in n}
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trained.values():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    missing, unexpected = ours.load_state_dict(
        ours_of({n: p.detach() for n, p in trained.items()}), strict=False
    )
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = 5 * torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=g)
    images = images.repeat_interleave(8, 2).repeat_interleave(8, 3)  # areas that differ in colour
    plan = ours.objective(2, images.device, torch.Generator().manual_seed(seed))
    hidden = plan.hidden.long().expand(2, -1)
    masks = torch.zeros(2, 65, dtype=torch.long).scatter(1, plan.order, hidden)[:, :64]
    samples = []
    for mask in masks.view(2, 8, 8):
        samples.append(DataSample())
        samples[-1].set_field(mask, "mask")
    small = torch.nn.functional.interpolate(images, (64, 64), mode="bicubic", antialias=True)
    mean, std = (torch.tensor(n).view(3, 1, 1) for n in MEAN_STD)
    small = (small * std + mean + 31.875) / 318.75  # as their data preprocessor would give it
    loss = theirs.loss([images, small], samples)["loss"]
    loss.backward()
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=0)
    ids = ours.target_values(images, plan)[0]
    assert ids.unique().numel() > 3  # the tokenizer is not blind
    expected = ours_of({n: p.grad for n, p in trained.items()})
    found = {n: p.grad for n, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert (found[name] - grad).abs().max() <= 1e-10 * grad.abs().max(), name


MEAN_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def test_two_steps_of_the_config(dalle):
    model = our_model(dalle)
    check_steps(model)
    assert "as mask tokens" in model.objective.certificate


def test_it_is_shown_without_memory(dalle):
    """`xtra show` builds the model on the meta device, and reads no file of weights."""
    absent = dalle | dict(init_cfg=dict(type="Pretrained", checkpoint="absent.pth"))
    with torch.device("meta"):
        model = our_model(absent)
    assert model.loss(torch.empty(2, 3, 128, 128, device="meta"))["loss"].is_meta


def test_it_keeps_the_contract_of_a_target(dalle):
    target = dict(type="xtra_toolkit.FrozenTokenizer", teacher=dalle, target=INNER)
    check_target(target, dict(type="xtra_toolkit.RandomShown"), PatchGrid(4, 4, (8, 8)))


def test_probabilities_of_the_ids(dalle):
    """Check the loss of mc-BEiT, over links of one token and of a block, by hand."""
    for mask, inner in (
        (dict(type="xtra_toolkit.HiddenBlocks", num_hidden=6, min_block=2), INNER),
        (
            dict(type="xtra_toolkit.BlockCausal", block_size=2),
            dict(type="xtra_toolkit.NextBlock", normalise=False),
        ),
    ):
        soft = dict(
            type="xtra_toolkit.FrozenTokenizer", teacher=dalle, target=inner, temperature=2.0
        )
        grid = PatchGrid(4, 4, (8, 8))
        check_target(soft, mask, grid)
        model = small_model(mask, soft, grid).double()
        images = 5 * torch.randn(2, 3, 32, 32, dtype=torch.float64)
        plan = model.objective(2, images.device, torch.Generator().manual_seed(0))
        logits = model.target_generator.frozen(images.float()).double()
        teacher = (logits / 2).softmax(1).flatten(2).mT  # (B, N, classes)
        (made,) = model.reconstruct(images, plan)
        (group,) = plan.groups
        total, count = 0, 0
        for b, row in enumerate(group.tokens.expand(2, -1, -1).tolist()):
            for g, tokens in enumerate(row):
                student = made[b, g].view(len(tokens), -1).log_softmax(-1)
                total = total - (teacher[b, tokens] * student).sum(-1).mean()
                count += 1
        expected = total / count
        torch.testing.assert_close(model._loss(images, plan)["loss"], expected, rtol=1e-6, atol=0)


def test_what_has_no_probabilities(dalle):
    config = Config.fromfile(CONFIG).model
    config.target_generator.update(teacher=dalle, img_size=64)
    config.backbone.update(arch=ARCH, **SIZE)
    config.mask.update(num_hidden=24, min_block=4)
    config.head.loss = "soft_cross_entropy"
    with pytest.raises(ValueError, match="FrozenTokenizer gives class ids; take a target that"):
        MODELS.build(config)
    with pytest.raises(ValueError, match=r"temperature=0 was given .* must be above 0"):
        frozen_teacher.FrozenTokenizer(dalle, INNER, temperature=0)


def test_the_tokenizer_of_beit_v2(tmp_path):
    arch = dict(ARCH, num_layers=1)
    encoder = dict(arch=arch, img_size=32, patch_size=8, out_type="featmap", with_cls_token=True)
    config = dict(type="mmpretrain.VQKD", encoder_config=encoder, num_embed=10, embed_dims=4)
    torch.manual_seed(0)
    model = MODELS.build(config | dict(quantize_kmeans_init=False)).eval()
    torch.save(model.state_dict(), tmp_path / "vqkd.pth")
    config["init_cfg"] = dict(type="Pretrained", checkpoint=str(tmp_path / "vqkd.pth"))
    with pytest.raises(ValueError, match="must give logits, which VQKD does not"):
        frozen_teacher.FrozenTokenizer(
            config | dict(quantize_kmeans_init=False), INNER, temperature=1.0
        )
    target = frozen_teacher.FrozenTokenizer(config | dict(quantize_kmeans_init=False), INNER)
    images, grid = torch.randn(2, 3, 32, 32), PatchGrid(4, 4, (8, 8))
    values = target.values(images, grid)
    assert target.width(grid) == 10 and values.shape == (2, 16, 1)
    assert torch.equal(values[..., 0], model.get_tokens(images)["token"])
    with pytest.raises(ValueError, match=r"a grid of 2×2 tokens .* needs 2×2 ids"):
        target.values(images, PatchGrid(2, 2, (16, 16)))


def test_a_teacher_with_its_own_statistics_needs_those_of_the_student(dalle):
    with pytest.raises(ValueError, match="come together; give both"):
        frozen_teacher.FrozenTokenizer(dalle, INNER, mean=0.0)
    config = Config.fromfile(CONFIG).model
    config.target_generator.update(teacher=dalle, img_size=64)
    config.backbone.update(arch=ARCH, **SIZE)
    config.data_preprocessor.to_rgb = False
    with pytest.raises(ValueError, match=r"makes RGB images \(to_rgb=True\)"):
        MODELS.build(config)
