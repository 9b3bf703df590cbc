"""BEiT v2: parity with MMPretrain's, with a drawn tokenizer, in float64; and its config."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from test_beit import MEAN_STD, ours_of

from xtra_toolkit.testing import check_steps
from xtra_toolkit.visualization.objectives import cost

CONFIG = Path(__file__).parent / "beitv2_vit-b16.py"
ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=96)
SIZE = dict(img_size=64, patch_size=8)
NAMES = [
    (r"^neck\.patch_aggregation\.", "neck.layers."),
    (r"^neck\.norm\.", "neck.ln1."),
]


@pytest.fixture(scope="module")
def vqkd(tmp_path_factory):
    """Write a file with the weights of a small VQ-KD tokenizer of 12 ids."""
    encoder = dict(arch=dict(ARCH, num_layers=1), out_type="featmap", with_cls_token=True, **SIZE)
    encoder |= dict(use_abs_pos_emb=False, use_rel_pos_bias=False, use_shared_rel_pos_bias=False)
    config = dict(type="mmpretrain.VQKD", encoder_config=encoder, num_embed=12, embed_dims=4)
    config["quantize_kmeans_init"] = False
    torch.manual_seed(0)
    model, file = MODELS.build(config), tmp_path_factory.mktemp("vqkd") / "vqkd.pth"
    torch.save(model.state_dict(), file)
    return config | dict(init_cfg=dict(type="Pretrained", checkpoint=str(file)))


def our_model(vqkd):
    """Build the model of the shipped config at a small width, on 8×8 tokens."""
    config = Config.fromfile(CONFIG).model
    config.target_generator.teacher = vqkd
    config.backbone.update(arch=ARCH, **SIZE)
    config.neck.update(memory_layers=[2, 3], heads=2)
    config.mask.update(num_hidden=24, min_block=4)
    return MODELS.build(config)


def mmpretrains(vqkd):
    neck = dict(type="mmpretrain.BEiTV2Neck", num_layers=2, early_layers=2)
    head = dict(type="mmpretrain.BEiTV2Head", embed_dims=24, num_embed=12)
    vit = dict(type="mmpretrain.BEiTPretrainViT", arch=ARCH, **SIZE, out_indices=[1, 2])
    model = dict(
        type="mmpretrain.BEiT",
        data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
        backbone=vit | dict(final_norm=False, out_type="raw", layer_scale_init_value=0.1),
        neck=neck | dict(backbone_arch=dict(ARCH, depth=3)),
        head=head | dict(loss=dict(type="mmpretrain.CrossEntropyLoss")),
        target_generator={k: v for k, v in vqkd.items() if k != "init_cfg"},
    )
    model = MODELS.build(model)
    model.target_generator.load_state_dict(torch.load(vqkd["init_cfg"]["checkpoint"]))
    return model


def renamed(values):
    for old, new in NAMES:
        values = {re.sub(old, new, name): value for name, value in values.items()}
    return ours_of(values)


@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_every_gradient_equal_those_of_mmpretrain(seed, vqkd):
    theirs, ours = mmpretrains(vqkd).double(), our_model(vqkd).double()
    theirs.target_generator.float().eval()
    trained = {n: p for n, p in theirs.named_parameters() if "target_generator" not in n}
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in trained.values():
            p.copy_(0.2 * torch.randn(p.shape, generator=g, dtype=torch.float64))
    missing, unexpected = ours.load_state_dict(
        renamed({n: p.detach() for n, p in trained.items()}), strict=False
    )
    assert not unexpected and not set(missing) & {n for n, _ in ours.named_parameters()}

    images = 3 * torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=g)
    plan = ours.objective(2, images.device, torch.Generator().manual_seed(seed))
    hidden = plan.hidden.long().expand(2, -1)
    masks = torch.zeros(2, 65, dtype=torch.long).scatter(1, plan.order, hidden)[:, :64]
    samples = [DataSample() for _ in masks]
    for sample, mask in zip(samples, masks.view(2, 8, 8), strict=True):
        sample.set_field(mask, "mask")
    mean, std = (torch.tensor(n, dtype=torch.float64).view(3, 1, 1) for n in MEAN_STD)
    second = (images * std + mean - 127.5) / 127.5  # as their data preprocessor would give it
    parts = theirs.loss([images, second.float()], samples)
    loss = parts["loss_1"] + parts["loss_2"]
    loss.backward()
    mine = ours._loss(images, plan)["loss"]
    mine.backward()
    assert ours.target_values(images, plan)[0].unique().numel() > 3
    torch.testing.assert_close(mine, loss, rtol=1e-10, atol=0)
    expected = renamed({n: p.grad for n, p in trained.items()})
    found = {n: p.grad for n, p in ours.named_parameters()}
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        assert (found[name] - grad).abs().max() <= 1e-10 * grad.abs().max(), name


def test_the_config_trains_for_two_steps(vqkd):
    model = our_model(vqkd)
    check_steps(model)
    assert "as mask tokens" in model.objective.certificate


def test_the_model_is_built_on_the_meta_device(vqkd):
    absent = vqkd | dict(init_cfg=dict(type="Pretrained", checkpoint="absent.pth"))
    with torch.device("meta"):
        model = our_model(absent)
    assert model.loss(torch.empty(2, 3, 64, 64, device="meta"))["loss"].is_meta


def test_the_cost_of_the_head_is_that_of_both_predictions(vqkd):
    with torch.device("meta"):
        found = {part.name: part for part in cost.parts(our_model(vqkd), "cpu")}
    assert found["head"].flops == 2 * (2 * 24 * 24 * 12)  # 24 hidden patches, 24 wide, 12 ids


def test_no_prediction_sees_a_hidden_patch(vqkd):
    """Measure it by gradients, through the encoder at both depths and the neck."""
    model = our_model(vqkd).double().eval()
    with torch.no_grad():
        for p in (*model.backbone.parameters(), *model.neck.parameters()):
            p.copy_(0.3 * torch.randn(p.shape, dtype=p.dtype))
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    plan = model.objective(1, images.device, torch.Generator().manual_seed(0))
    hidden = torch.zeros(1, 65, dtype=torch.bool).scatter(1, plan.order, plan.hidden.expand(1, -1))
    for half in model.decode(images, plan).chunk(2, dim=-1):
        (grad,) = torch.autograd.grad(half.square().sum(), images, retain_graph=True)
        moved = model.backbone.grid.patchify(grad)[0].abs().sum(-1) != 0
        assert torch.equal(moved, ~hidden[0, :64])


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("neck", dict(memory_layers=[3]), r"PatchAggregation reads two layers"),
        ("neck", dict(heads=5), r"whose heads divide the width 24"),
        ("backbone", dict(with_cls_token=False), r"needs mask tokens and a class token"),
        ("backbone", dict(with_cls_token=False, registers=1), r"mask tokens and a class token"),
        ("backbone", dict(mask_tokens=False), r"set backbone.mask_tokens=True"),
        ("backbone", dict(final_norm=True), r"before the encoder's final norm"),
        ("head", dict(copies=5), r"SharedHead\(copies=5\) was given outputs of 48 values"),
    ],
)
def test_unsupported_settings_are_refused(part, changes, sentence, vqkd):
    config = Config.fromfile(CONFIG).model
    config.target_generator.teacher = vqkd
    config.backbone.update(arch=ARCH, **SIZE)
    config.neck.update(memory_layers=[2, 3], heads=2)
    config.mask.update(num_hidden=24, min_block=4)
    config[part].update(changes)
    with pytest.raises(ValueError, match=sentence):
        MODELS.build(config)
