"""I-JEPA against the original's numbers, and what its masks and its teacher are."""

import re
from pathlib import Path
from types import SimpleNamespace

import latent_targets
import pytest
import torch
from mmpretrain.registry import MODELS
from safetensors.torch import load_file

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import Mask
from xtra_toolkit.models.positions import sincos
from xtra_toolkit.testing import check_mask, check_target
from xtra_toolkit.visualization.objectives.cost import parts

HERE = Path(__file__).parent

NAMES = [
    (r"^encoder\.", "backbone."),
    (r"^target\.", "target_generator.teacher.module."),
    (r"^predictor\.predictor_embed", "neck.projection"),
    (r"^predictor\.predictor_pos_embed", "neck.pos_embed"),
    (r"^predictor\.predictor_blocks", "neck.layers"),
    (r"^predictor\.predictor_norm", "neck.ln1"),
    (r"^predictor\.predictor_proj", "head.predictors.0"),
    (r"^predictor\.", "neck."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"\.blocks\.", ".layers."),
    (r"\.norm(\d)\.", r".ln\1."),
    (r"\.norm\.", ".ln1."),
    (r"mlp\.fc1", "ffn.layers.0.0"),
    (r"mlp\.fc2", "ffn.layers.1"),
]


def ours(name):
    for old, new in NAMES:
        name = re.sub(old, new, name)
    return name


def ijepa(mask=None, layers=1, registers=0):
    arch = dict(embed_dims=48, num_layers=2, num_heads=3, feedforward_channels=192)
    mask = mask or dict(type="xtra_toolkit.MultiBlock", block_size=3, context=21)
    return MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=mask,
            target_generator=dict(type="xtra_toolkit.LatentPatches", layers=layers),
            backbone=dict(
                type="xtra_toolkit.MaskedViT",
                arch=arch,
                img_size=64,
                patch_size=8,
                positions="sincos",
                registers=registers,
            ),
            neck=dict(
                type="xtra_toolkit.ViTDecoder", width=24, depth=2, heads=3, positions="sincos"
            ),
            head=dict(type="xtra_toolkit.PredictionHead", loss="smooth_l1"),
        )
    )


@pytest.fixture(scope="module")
def golden():
    file = HERE.parents[1] / "tests" / "golden" / "ijepa.safetensors"
    if not file.exists():
        pytest.skip("the golden numbers lie in the repository of xtra_toolkit")
    return load_file(file)


def test_the_numbers_equal_those_of_the_original(golden):
    model = ijepa()
    state = {ours(n.removeprefix("weight/")): v for n, v in golden.items() if "weight/" in n}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and not set(missing) & {n for n, _ in model.named_parameters()}
    torch.testing.assert_close(state["backbone.pos_embed"], sincos(PatchGrid(8, 8), 48))

    context, targets = golden["context"], golden["targets"]
    order = torch.cat([context.repeat(4, 1), targets.flatten(0, 1)], 1)
    visible = torch.arange(30) < 21
    drawn = Mask(
        order,
        torch.zeros(30, dtype=torch.long),
        visible=visible,
        context=visible,
        masks_per_image=4,
    )
    model.objective.mask = lambda *_: drawn
    images = golden["images"]
    plan = model.plan(images)

    encoded = model.backbone.encode(images, plan)
    torch.testing.assert_close(encoded, golden["context_out"], rtol=0, atol=1e-5)
    with torch.no_grad():
        values = model.target_generator.values(images, model.backbone.grid)
        (target_values,) = model.target_values(images, plan)
    torch.testing.assert_close(values, golden["teacher_out"], rtol=0, atol=1e-5)
    torch.testing.assert_close(target_values, golden["target_values"], rtol=0, atol=1e-5)
    (predictions,) = model.reconstruct(images, plan)
    torch.testing.assert_close(predictions, golden["predictions"], rtol=0, atol=1e-5)

    loss = model.loss(images)["loss"]
    torch.testing.assert_close(loss, golden["loss"][0], rtol=0, atol=5e-7)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    expected = {ours(n.removeprefix("grad/")): v for n, v in golden.items() if "grad/" in n}
    assert expected.keys() == gradients.keys()
    for name, grad in expected.items():
        error = (gradients[name] - grad).abs().max()
        assert error <= 1e-4 * grad.abs().max(), name


def test_blocks_lie_in_the_image_and_no_context_in_a_block():
    grid, factory = PatchGrid(8, 12), latent_targets.MultiBlock((3, 4), blocks=4)
    mask = factory(grid, 16, torch.Generator().manual_seed(1)).check(grid)
    n = factory.num_context_tokens(grid)
    assert n == 96 - 48 and mask.order.shape == (4 * 16, n + 12) and mask.masks_per_image == 4
    blocks = mask.order[:, n:].view(4, 16, 3, 4)
    assert (blocks.diff(dim=-1) == 1).all() and (blocks.diff(dim=-2) == 12).all()
    assert (blocks[..., 0] // 12 == blocks[..., 3] // 12).all()  # no block goes over an edge
    assert {int(b) for b in blocks[..., -1, -1].flatten()} & {95}  # the last row and column too
    for image in range(16):
        context, hidden = mask.order[image, :n], blocks[:, image].flatten()
        assert not set(context.tolist()) & set(hidden.tolist())
        for copy in range(4):
            assert torch.equal(mask.order[16 * copy + image, :n], context)
    assert len({tuple(row.tolist()) for row in blocks[:, :, 0, 0].T}) > 8  # images differ


def test_the_encoder_runs_once_for_all_blocks():
    model, rows = ijepa(), []
    model.backbone.layers[0].ln1.register_forward_hook(lambda _, x, y: rows.append(x[0].shape[:2]))
    model.neck.layers[0].ln1.register_forward_hook(lambda _, x, y: rows.append(x[0].shape[:2]))
    model.backbone.eval()
    model.loss(torch.randn(2, 3, 64, 64))
    assert rows == [(2, 21), (8, 30)]


@pytest.mark.parametrize("registers", [0, 3])
def test_no_pixel_of_a_target_reaches_its_prediction(registers):
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    model = ijepa(registers=registers)
    plan = model.plan(images)
    (predictions,) = model.reconstruct(images, plan)
    (grad,) = torch.autograd.grad(predictions[2].sum(), images)  # the third block of the image
    seen = model.backbone.grid.patchify(grad).abs().sum(-1)[0].nonzero().flatten().tolist()
    assert seen == plan.order[0, registers : registers + 21].tolist()


def test_the_teacher_is_an_average_and_takes_no_gradient():
    model = ijepa()
    model.init_weights()
    hook, student = latent_targets.UpdateTeacher(begin=0.9, end=0.9), model.backbone

    class Runner:
        iter, max_iters = 0, 10

    Runner.model = model
    hook.before_train(Runner)
    weight, target = "layers.0.attn.qkv.weight", model.target_generator
    started = dict(target.teacher.module.named_parameters())[weight].clone()
    torch.testing.assert_close(started, dict(student.named_parameters())[weight])
    with torch.no_grad():
        student.layers[0].attn.qkv.weight.add_(1.0)
    hook.after_train_iter(Runner, 0)
    moved = dict(target.teacher.module.named_parameters())[weight]
    torch.testing.assert_close(moved, started + 0.1)
    assert not any(p.requires_grad for p in target.parameters())
    model.train()
    assert not target.teacher.module.training and model.backbone.training


def test_the_momentum_grows_towards_its_end():
    model = ijepa()
    hook = latent_targets.UpdateTeacher(begin=0.9, end=1.0)
    for step, momentum in ((0, 0.9), (5, 0.95), (9, 0.99)):
        runner = SimpleNamespace(model=model, iter=step, max_iters=10)
        hook.after_train_iter(runner, step)
        assert 1 - model.target_generator.teacher.momentum == pytest.approx(momentum)
    runner = SimpleNamespace(model=SimpleNamespace(target_generator=object()))
    with pytest.raises(ValueError, match="updates a target's teacher, and object has none"):
        hook.before_train(runner)


def test_they_keep_the_contract():
    multi = dict(type="xtra_toolkit.MultiBlock", block_size=2, blocks=2)
    check_mask(multi, dict(type="xtra_toolkit.MaskedPatches"), whole=False)
    visible = dict(type="xtra_toolkit.RandomShown")
    check_target(dict(type="xtra_toolkit.LatentPatches"), visible)


def test_data2vec_averages_layers_without_the_final_norm():
    model = ijepa(layers=2)
    images = torch.randn(2, 3, 64, 64)
    teacher = model.target_generator.teacher.module
    x = teacher.embed(images, torch.arange(64)[None], teacher.grid)
    outs = []
    for layer in teacher.layers:
        x = layer(x, teacher._features_of(teacher.grid, images.device).pattern)
        outs.append(x)
    expected = torch.nn.functional.layer_norm(sum(outs) / 2, (48,))
    torch.testing.assert_close(model.target_generator.values(images, teacher.grid), expected)


def test_refusals():
    with pytest.raises(ValueError, match=r"no more than 28 tokens"):
        ijepa(dict(type="xtra_toolkit.MultiBlock", block_size=3, context=29))
    with pytest.raises(ValueError, match=r"layers=3\) was given, and the encoder has 2"):
        ijepa(layers=3)


def readme():
    (code,) = re.findall(r"```python\n(.*?)```", (HERE / "README.md").read_text(), re.DOTALL)
    space = {}
    exec(code, space)
    return space


def test_the_config_of_the_readme_is_built():
    with torch.device("meta"):
        model = MODELS.build(readme()["model"])
    model.loss(torch.empty(2, 3, 224, 224, device="meta"))["loss"].backward()
    assert (
        model.objective.bounds.num_encoded == 256 - 4 * 42
        and model.objective.bounds.num_computed == 130
    )
    cost = {part.name: part for part in parts(model, "cpu")}
    assert cost["target"].parameters == cost["encoder"].parameters
    assert cost["target"].flops > cost["encoder"].flops  # all 256 tokens, and 88
    free = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not free


def test_a_run_moves_the_teacher_once_a_step_and_a_checkpoint_holds_it(tmp_path):
    from mmengine.config import Config
    from mmengine.runner import Runner

    from xtra_toolkit.models.hub import configs

    config = Config.fromfile(configs() / "demo" / "xtra_digits.py")
    arch = dict(embed_dims=32, num_layers=1, num_heads=2, feedforward_channels=64)
    config.model.mask = dict(type="xtra_toolkit.MultiBlock", block_size=2, blocks=2)
    config.model.target_generator = dict(type="xtra_toolkit.LatentPatches")
    config.model.backbone.arch = arch
    config.model.neck = dict(type="xtra_toolkit.ViTDecoder", width=16, depth=1, heads=2)
    config.model.head = dict(type="xtra_toolkit.PredictionHead", loss="smooth_l1")
    config.merge_from_dict(
        {
            "work_dir": str(tmp_path),
            "custom_hooks": readme()["custom_hooks"],
            "train_cfg.max_epochs": 1,
            "train_dataloader.dataset.indices": 128,
            "default_hooks.checkpoint.interval": 1,
            "log_level": "WARNING",
        }
    )
    config.val_dataloader = config.val_evaluator = config.val_cfg = None
    config.param_scheduler = []
    hooks = config.custom_hooks
    config.custom_hooks = [hook for hook in hooks if not hook.type.endswith("UpdateTeacher")]
    with pytest.raises(
        ValueError, match="LatentPatches needs the hook UpdateTeacher, which is not"
    ):
        Runner.from_cfg(config).train()
    config.custom_hooks, config.experiment_name = hooks, "with_its_teacher"
    Runner.from_cfg(config).train()
    state = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["state_dict"]
    assert int(state["target_generator.teacher.steps"]) == 1 + 2  # the start, and two steps
    student = state["backbone.layers.0.attn.qkv.weight"]
    teacher = state["target_generator.teacher.module.layers.0.attn.qkv.weight"]
    assert 0 < (student - teacher).abs().max() < 0.1


def test_the_class_token_of_the_teacher_is_left_out_of_the_values():
    """Values are those of the patches; a class token in front would shift them by one token."""
    model = MODELS.build(
        dict(
            type="xtra_toolkit.MaskTargetPretrainer",
            mask=dict(type="xtra_toolkit.RandomShown"),
            target_generator=dict(type="xtra_toolkit.LatentPatches"),
            backbone=dict(
                type="xtra_toolkit.MaskedViT",
                arch=dict(embed_dims=24, num_layers=1, num_heads=2, feedforward_channels=48),
                img_size=32,
                patch_size=8,
                with_cls_token=True,
            ),
            neck=dict(type="xtra_toolkit.ViTDecoder", width=24, depth=1, heads=2),
            head=dict(type="xtra_toolkit.PredictionHead", loss="smooth_l1"),
        )
    )
    images = torch.randn(2, 3, 32, 32)
    values = model.target_generator.values(images, model.backbone.grid)
    (features,) = model.target_generator.teacher.module(images)
    assert values.shape == (2, 16, 24) and features.shape == (2, 17, 24)
    expected = torch.nn.functional.layer_norm(features[:, 1:], (24,))
    torch.testing.assert_close(values, expected)
