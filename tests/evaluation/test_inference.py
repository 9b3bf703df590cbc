"""Test that a frozen encoder runs without autograd, and in bfloat16 if requested."""

from pathlib import Path

import pytest
import torch
from helpers.builds import AIM, MAE, MASKS, XTRA, arch, pretrainer, randomise
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from xtra_toolkit.attention import Pattern
from xtra_toolkit.evaluation import InferenceTestLoop, InferenceValLoop
from xtra_toolkit.evaluation.inference import inference

BASE = Path(__file__).parents[2] / "mmconfigs" / "benchmarks" / "_base_"


def classifier(kind="linear", **backbone):
    """Make a small version of the model of a shipped probe."""
    config = Config.fromfile(BASE / f"{kind}.py")
    small = dict(arch=arch(), img_size=32, patch_size=8, mask=MASKS["block"], init_cfg=None)
    config.model.backbone.update(small | dict(frozen_stages=2) | backbone)
    if kind == "attentive":
        config.model.backbone.out_indices = [-2, -1]
    config.model.head.update(in_channels=48, num_classes=3)
    return randomise(MODELS.build(config.model)), config


def batch(images=4):
    samples = [DataSample().set_gt_label(i % 3) for i in range(images)]
    return dict(inputs=torch.rand(images, 3, 32, 32) * 255, data_samples=samples)


class Seen:
    """Record the modes in which the encoder runs, and the tensors saved for backward."""

    def __init__(self, model):
        self.modes, self.kept = [], []
        model.backbone.register_forward_pre_hook(self.before)
        model.backbone.register_forward_hook(self.after)

    def before(self, *_):
        self.saved = torch.autograd.graph.saved_tensors_hooks(self.keep, lambda t: t)
        self.saved.__enter__()
        bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        self.modes += [(torch.is_inference_mode_enabled(), bfloat16 == torch.bfloat16)]

    def keep(self, tensor):
        self.kept.append(tensor.shape)
        return tensor

    def after(self, module, args, outs):
        self.saved.__exit__(None, None, None)
        assert not any(out.requires_grad for out in outs)


@pytest.mark.parametrize("kind", ["linear", "attentive"])
@pytest.mark.parametrize("devices", [("cuda",), ("cuda", "cpu")])
def test_a_probe_saves_no_tensor_of_its_frozen_encoder(kind, devices):
    """No tensor is saved for backward, and the encoder runs in the precision of training."""
    model, config = classifier(kind)
    model.train()
    config.optim_wrapper.update(devices=devices)
    optim, seen = build_optim_wrapper(model, config.optim_wrapper), Seen(model)
    before = model.head.probes[0].fc.weight.clone()
    model.train_step(batch(), optim)
    assert seen.modes == [(False, "cpu" in devices)] and seen.kept == []
    assert not torch.equal(model.head.probes[0].fc.weight, before)


def test_tensors_of_a_trained_encoder_are_saved():
    model, _ = classifier(frozen_stages=-1)
    seen = Seen(model.train())
    with pytest.raises(AssertionError):
        model(**model.data_preprocessor(batch(), True), mode="loss")
    assert len(seen.kept) > 10


class Dataloader(list):
    dataset = [None] * 8


class Collected(BaseMetric):
    default_prefix = "x"

    def process(self, data_batch, data_samples):
        self.results += [s["sweep_scores"].float() for s in data_samples]

    def compute_metrics(self, results):
        return dict(scores=torch.stack(results))


class Runner:
    """The part of a runner that MMEngine's loops use."""

    def __init__(self, model):
        self.model, self.visualizer = model, self
        self.call_hook = lambda *_, **__: None


def run(loop, model, **options):
    torch.manual_seed(0)
    data, evaluator = Dataloader([batch(), batch()]), Evaluator(Collected())
    return loop(Runner(model), data, evaluator, **options).run()["x/scores"]


@pytest.mark.parametrize("loop", [InferenceValLoop, InferenceTestLoop])
def test_the_loops_run_in_inference_mode_and_in_bfloat16_if_requested(loop):
    model, _ = classifier()
    seen, exact = Seen(model), run(loop.__mro__[2], model)  # MMEngine's own
    plain = run(loop, model)
    half = run(loop, model, devices=("cpu",))
    full = run(loop, model, devices=("cpu",), dtype="float32")
    assert seen.modes[2:] == 2 * [(True, False)] + 2 * [(True, True)] + 2 * [(True, False)]
    assert torch.equal(plain, exact) and torch.equal(full, exact)
    assert 0 < (half - plain).abs().max() < 0.05


def test_another_dtype_is_refused():
    model, _ = classifier()
    with pytest.raises(ValueError, match=r"dtype='float16' was given; .* bfloat16 or float32"):
        run(InferenceValLoop, model, dtype="float16")


@pytest.mark.parametrize("mask", ["block", "token", "bidirectional"])
def test_an_encoder_can_be_trained_after_inference(mask):
    """Cached tensors of its mask, an index or a dense mask, are saved for backward."""
    vit = dict(arch=arch(), img_size=32, patch_size=8, out_type="featmap", mask=MASKS[mask])
    model = randomise(MODELS.build(dict(type="xtra_toolkit.MaskedViT", **vit)))
    with inference(model):
        (read,) = model(torch.randn(2, 3, 32, 32))
    assert read.is_inference()
    model(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert model.layers[0].attn.qkv.weight.grad.abs().sum() > 0


def test_cached_tensors_of_a_pattern_can_be_used_in_training():
    pattern = Pattern("causal", 4)
    with torch.inference_mode():
        mask = pattern.dense("cpu")
    assert pattern.dense("cpu") is mask and not mask.is_inference()


@pytest.mark.gpu
def test_bfloat16_is_the_default_on_a_gpu():
    model = torch.nn.Linear(4, 4).cuda()
    with inference(model):
        assert model(torch.ones(2, 4, device="cuda")).dtype == torch.bfloat16


@pytest.mark.parametrize("pair", [XTRA, AIM, ("token", "token"), MAE])
def test_training_works_after_validation_in_inference_mode(pair):
    """The plan of a fixed mask is cached, and backward refuses inference tensors."""
    model, images = randomise(pretrainer(*pair)), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        model.predict(images)
    model.loss(images)["loss"].backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
