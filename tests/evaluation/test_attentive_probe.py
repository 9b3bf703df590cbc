"""Test the probes of XTRA and AIM: golden values, frozen encoders, sweeps, a run on digits."""

import copy
from inspect import signature
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.builds import MASKS, XTRA, arch, pretrainer, randomise
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from mmpretrain.registry import METRICS, MODELS
from mmpretrain.structures import DataSample
from safetensors.torch import load_file

from xtra_toolkit.evaluation.probe_sweep import label

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "mmconfigs" / "benchmarks"
GOLDEN = load_file(ROOT / "tests" / "golden" / "attentive_probe.safetensors")
NAMES = {"k.weight": "k.weight", "v.weight": "v.weight"}
NAMES |= {"fc.weight": "linear.weight", "fc.bias": "linear.bias"}


def sweep(rates=(1e-3,), classes=10, **probe):
    """Make a ProbeSweep on 48 channels."""
    probe = dict(type="xtra_toolkit.AttentiveProbe", num_heads=4) | probe
    head = dict(type="xtra_toolkit.ProbeSweep", num_classes=classes, in_channels=48)
    return MODELS.build(dict(head, rates=list(rates), probe=probe))


def classifier(neck, out_indices, **backbone):
    """Make a probe on a small encoder of 2 layers at 64 px."""
    shape = dict(arch=arch(), img_size=64, patch_size=8, frozen_stages=2, out_type="featmap")
    shape |= dict(final_norm=False, mask=MASKS["bidirectional"], out_indices=list(out_indices))
    head = dict(type="xtra_toolkit.ProbeSweep", num_classes=10, in_channels=48, rates=[1e-3])
    probes = {
        "xtra_toolkit.AverageLayers": dict(type="xtra_toolkit.AttentiveProbe", num_heads=4),
        "mmpretrain.GlobalAveragePooling": dict(type="mmpretrain.LinearClsHead", init_cfg=None),
    }
    return MODELS.build(
        dict(
            type="mmpretrain.ImageClassifier",
            data_preprocessor=dict(type="mmpretrain.ClsDataPreprocessor"),
            backbone=dict(type="xtra_toolkit.MaskedViT", **(shape | backbone)),
            neck=dict(type=neck),
            head=head | dict(probe=probes[neck]),
        )
    )


ATTENTIVE = ("xtra_toolkit.AverageLayers", (0, 1))
LINEAR = ("mmpretrain.GlobalAveragePooling", (1,))


def labelled(count, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return [DataSample().set_gt_label(label) for label in labels]


def test_the_attentive_probe_equals_the_original():
    head = sweep()
    probe = head.probes[0]
    with torch.no_grad():
        for ours, theirs in NAMES.items():
            probe.get_parameter(ours).copy_(GOLDEN[f"weight/{theirs}"])
        probe.queries.copy_(GOLDEN["weight/cls_token"][0])
    near = dict(atol=1e-6, rtol=0)
    head.train()
    logits = head((GOLDEN["features"],))[:, 0]
    torch.testing.assert_close(logits, GOLDEN["logits_train"], **near)
    for name in ("running_mean", "running_var"):
        expected = GOLDEN[f"weight/bn.{name}"]
        torch.testing.assert_close(head.norm.get_buffer(name), expected, **near)
    head.eval()
    logits = head((GOLDEN["features"],))[:, 0]
    torch.testing.assert_close(logits, GOLDEN["logits_eval_after_one_train_step"], **near)


def test_several_queries_and_no_bias_equal_aims_formula():
    """Compare with keys and values of every token and torch's attention."""
    probe = sweep(num_queries=3, bias=False).probes[0]
    x = torch.randn(2, 16, 48)
    q, k, v = (
        t.unflatten(-1, (4, 12)).transpose(1, 2)
        for t in (50 * probe.queries.expand(2, -1, -1), probe.k(x), probe.v(x))
    )
    found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1)
    with torch.no_grad():
        probe.queries.mul_(50)  # so that attention is far from uniform
    torch.testing.assert_close(probe((x,)), found @ probe.fc.weight.T, atol=1e-6, rtol=1e-5)
    assert probe.fc.bias is None and sweep().probes[0].fc.bias is not None


def test_heads_that_do_not_divide_and_tokens_instead_of_maps_are_refused():
    with pytest.raises(ValueError, match=r"num_heads=5 do not divide .*48; .*12, 16, 24"):
        sweep(num_heads=5)
    with pytest.raises(ValueError, match=r"gave \(2, 64, 48\): set backbone.out_type='featmap'"):
        classifier(*ATTENTIVE, out_type="raw")(torch.zeros(2, 3, 64, 64))


@pytest.mark.parametrize("cls_token", [False, True])
def test_probes_read_the_raw_patch_tokens(cls_token):
    """The probes read the layers without the final norm and without the class token."""
    outputs, images = [], torch.randn(4, 3, 64, 64)
    attentive = randomise(classifier(*ATTENTIVE, with_cls_token=cls_token))
    for layer in attentive.backbone.layers:
        layer.register_forward_hook(lambda *call: outputs.append(call[-1]))
    tokens = attentive.extract_feat(images)[0]
    patches = [out[:, -64:] for out in outputs]  # after the class token
    torch.testing.assert_close(tokens, (patches[0] + patches[1]) / 2)

    linear = randomise(classifier(*LINEAR, with_cls_token=cls_token))
    pooled = linear.extract_feat(images)[0]
    torch.testing.assert_close(pooled, patches[1].mean(1), atol=1e-5, rtol=1e-5)
    normed = linear.head.train().features((pooled,))[0]
    expected = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-6).sqrt()
    torch.testing.assert_close(normed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cls_token", [False, True])
def test_a_frozen_encoder_is_in_evaluation_mode_and_keeps_no_graph(cls_token):
    model = classifier(*ATTENTIVE, drop_path_rate=0.5, drop_rate=0.5, with_cls_token=cls_token)
    # DistributedDataParallel and the optimizer check this before the first train()
    assert not any(p.requires_grad for p in model.backbone.parameters())
    images = torch.randn(4, 3, 64, 64)
    model.eval()
    evaluated = model.extract_feat(images)[0]
    model.train()
    tokens = model.extract_feat(images)[0]
    assert torch.equal(tokens, evaluated) and not tokens.requires_grad
    sum(model.loss(images, labelled(4)).values()).backward()
    assert all(p.grad is not None for p in model.head.parameters())
    assert (model.backbone.cls_token is not None) == cls_token


OPTIM = dict(
    type="xtra_toolkit.SweepOptimWrapper",
    constructor="xtra_toolkit.SweepOptimWrapperConstructor",
    optimizer=dict(type="torch.optim.AdamW", lr=7.0, weight_decay=0.1),
    clip_grad=dict(max_norm=0.05),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)


def trained(head, steps=5):
    """Train a head for some steps with gradient clipping on random tokens."""
    wrapper = build_optim_wrapper(head, copy.deepcopy(OPTIM))
    generator = torch.Generator().manual_seed(3)
    for step in range(steps):
        tokens = torch.randn(8, 16, 48, generator=generator)
        wrapper.update_params(sum(head.loss((tokens,), labelled(8, seed=step)).values()))
    return head


def test_a_sweep_equals_the_single_runs():
    """Gradients are clipped: a common norm would couple the probes."""
    torch.manual_seed(0)
    both = sweep(rates=(1e-3, 1e-1))
    before = both.probes[0].state_dict()
    singles = [sweep(rates=(rate,)) for rate in both.rates]
    for single in singles:
        single.probes[0].load_state_dict(before)
    trained(both)
    for probe, single in zip(both.probes, singles, strict=True):
        alone = trained(single).probes[0]
        for name, parameter in probe.named_parameters():
            torch.testing.assert_close(parameter, alone.get_parameter(name), atol=1e-6, rtol=0)
    moved = [(p.fc.weight - singles[0].probes[0].fc.weight).abs().max() for p in both.probes]
    assert moved[1] > 0.1 > moved[0]


def test_every_probe_has_its_rate_and_the_common_decay():
    head = sweep(rates=(1e-3, 1e-1))
    groups = build_optim_wrapper(head, copy.deepcopy(OPTIM)).optimizer.param_groups
    owners = {
        id(p): rate
        for rate, probe in zip(head.rates, head.probes, strict=True)
        for p in probe.parameters()
    }
    assert {id(group["params"][0]) for group in groups} == set(owners)
    for group in groups:
        (parameter,) = group["params"]
        assert group["lr"] == owners[id(parameter)]
        assert group["weight_decay"] == (0.0 if parameter.ndim == 1 else 0.1)


def test_an_encoder_that_is_not_wholly_frozen_is_refused():
    """For example a deeper encoder whose frozen_stages was not adapted."""
    model = classifier(*ATTENTIVE, frozen_stages=1)
    with pytest.raises(
        ValueError, match=r"backbone\.layers\.1\.ln1\.weight is trainable \(12 .*froz"
    ):
        build_optim_wrapper(model, copy.deepcopy(OPTIM))


def test_all_probes_start_from_the_same_weights():
    head = sweep(rates=(1e-3, 1e-1), init_cfg=dict(type="Normal", layer="Linear", std=0.5))
    head.init_weights()
    first, second = (probe.state_dict() for probe in head.probes)
    assert first["fc.weight"].std() > 0.4
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rates", [[], [0.0, 1e-3], [1e-3, 1e-3]])
def test_invalid_rates_are_refused(rates):
    with pytest.raises(ValueError, match=r"learning rates above 0, each once.*given: \["):
        sweep(rates=rates)


def test_one_rate_predicts_and_several_need_predict_rate():
    tokens = (torch.randn(3, 16, 48),)
    two = sweep(rates=(1e-3, 1e-1)).eval()
    with torch.no_grad():
        two.probes[1].fc.bias[4] = 99
    assert not any("pred_label" in sample for sample in two.predict(tokens))
    two.predict_rate = 1e-1
    samples = two.predict(tokens, labelled(3))
    assert [int(sample.pred_label) for sample in samples] == [4, 4, 4]
    torch.testing.assert_close(samples[0].pred_score, samples[0].sweep_scores[1])
    one = sweep().eval().predict(tokens)[0]
    assert int(one.pred_label) == int(one.sweep_scores[0].argmax())
    with pytest.raises(ValueError, match=r"predict_rate=0.5 is none of .*\[0.001\]"):
        config = dict(type="xtra_toolkit.AttentiveProbe", num_heads=4)
        config = dict(num_classes=2, in_channels=8, rates=[1e-3], probe=config, predict_rate=0.5)
        MODELS.build(dict(config, type="xtra_toolkit.ProbeSweep"))


def sweep_accuracy(scores, labels, rates):
    """Compute the SweepAccuracy of scores (B, M, C) in two batches."""
    evaluator = Evaluator(METRICS.build(dict(type="xtra_toolkit.SweepAccuracy")))
    for part in (slice(0, 1), slice(1, None)):
        samples = [DataSample().set_gt_label(label) for label in labels[part]]
        for sample, score in zip(samples, scores[part], strict=True):
            sample.set_field(score, "sweep_scores")
            sample.set_field(rates, "sweep_rates", field_type="metainfo")
        evaluator.process(samples)
    return evaluator.evaluate(len(labels))


def test_the_metric_names_every_rate_and_the_best():
    """Use 4 images and 6 classes; the label is the first, second or last prediction."""
    falling = torch.tensor([0.4, 0.3, 0.1, 0.09, 0.08, 0.03])
    scores = torch.stack([falling, falling.flip(0)]).expand(4, -1, -1)
    assert sweep_accuracy(scores, [0, 5, 5, 1], [1.5e-3, 1e-4]) == {
        "accuracy/top1": 50.0,
        "accuracy/top1_lr_1.5e-3": 25.0,
        "accuracy/top1_lr_1e-4": 50.0,
        "accuracy/top5": 75.0,
        "accuracy/top5_lr_1.5e-3": 50.0,
        "accuracy/top5_lr_1e-4": 75.0,
        "accuracy/best_lr": 1e-4,
    }
    assert not any(
        "top5" in key for key in sweep_accuracy(scores[..., :5], [0, 1, 1, 1], [1.0, 0.1])
    )


def test_a_probe_that_diverged_is_not_the_best():
    scores = torch.full((6, 2, 6), float("nan"))
    scores[:, 0] = torch.eye(6)[[0, 1, 2, 3, 5, 4]]
    metrics = sweep_accuracy(scores, list(range(6)), [1e-3, 1e-1])
    assert metrics["accuracy/best_lr"] == 1e-3 and metrics["accuracy/top1_lr_1e-1"] < 20


def test_another_mask_changes_the_features_of_an_encoder(tmp_path):
    pretrained = randomise(pretrainer(*XTRA))
    torch.save(pretrained.state_dict(), tmp_path / "xtra.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "xtra.pth"), prefix="backbone.")
    images = torch.randn(2, 3, 64, 64)

    def features(**options):
        model = classifier(*LINEAR, init_cfg=init, **options)
        model.init_weights()
        return model.extract_feat(images)[0]

    own = features(mask=None)
    named = features(mask=MASKS["block"])
    other = features(mask=MASKS["bidirectional"], change_mask=True)
    assert torch.equal(own, named) and (own - other).abs().max() > 1e-2


@pytest.mark.parametrize("config", sorted(BENCHMARKS.rglob("*.py")), ids=lambda path: path.stem)
def test_no_benchmark_names_a_mask(config):
    """An encoder is probed with its own mask."""
    backbone = Config.fromfile(config).get("model", {}).get("backbone", {})
    assert "mask" not in backbone and "change_mask" not in backbone


def digits(kind, work_dir):
    """Make a runner of the benchmark's config on digits, narrow, for 2 epochs of 2 steps."""
    data = Config.fromfile(ROOT / "mmconfigs" / "demo" / "xtra_digits.py")
    config = Config.fromfile(BENCHMARKS / "_base_" / f"{kind}.py")
    config.merge_from_dict(
        {
            "model.data_preprocessor": dict(mean=[77.8], std=[95.9], to_rgb=False),
            "model.backbone.init_cfg.checkpoint": str(work_dir / "encoder.pth"),
            "model.head.num_classes": 10,
            "model.head.rates": [1e-3, 1e-1],
            "train_cfg": dict(global_batch=512, max_epochs=2, val_interval=2),
            "default_hooks.checkpoint.interval": 2,
            "log_level": "ERROR",
        }
    )
    if kind == "attentive":
        config.model.backbone.out_indices = [-2, -1]
    config.train_dataloader = dict(data.train_dataloader, batch_size=256)
    config.val_dataloader = data.val_dataloader
    config.work_dir, config.experiment_name = str(work_dir), work_dir.name
    return config


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_a_run_on_digits(kind, tmp_path):
    settings = digits(kind, tmp_path)
    grey = dict(in_channels=1, data_preprocessor=settings.model.data_preprocessor.to_dict())
    encoder = randomise(pretrainer(*XTRA, image=8, patch=1, **grey)).state_dict()
    torch.save(encoder, tmp_path / "encoder.pth")
    # not from_cfg, because printing and saving a config takes seconds
    runner = Runner(**{k: v for k, v in settings.items() if k in signature(Runner).parameters})
    model = runner.train()
    groups = runner.optim_wrapper.optimizer.param_groups
    assert {group["initial_lr"] for group in groups} == {1e-3, 1e-1}
    assert "learning rate 0.001 to 0.1 (AdamW)" in runner.train_loop.describe()
    for name, parameter in model.backbone.named_parameters():
        if not name.startswith("ln1"):
            assert torch.equal(parameter, encoder[f"backbone.{name}"]), name
    metrics = runner.val_loop.run()
    assert {"accuracy/top1_lr_1e-3", "accuracy/top5_lr_1e-1"} < metrics.keys()
    rates = {rate: metrics[f"accuracy/top1_lr_{label(rate)}"] for rate in (1e-3, 1e-1)}
    assert metrics["accuracy/top1"] == rates[metrics["accuracy/best_lr"]] == max(rates.values())
    saved = torch.load(tmp_path / "epoch_2.pth", weights_only=False)["state_dict"]
    assert "head.probes.1.fc.weight" in saved
    logged = runner.message_hub.log_scalars
    assert {"train/loss_lr_1e-3", "train/loss_lr_1e-1", "train/grad_norm"} < logged.keys()
