"""Test that the configs of the 15 benchmarks read, step once and report missing files."""

import ast
import functools
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from helpers import layouts
from helpers.builds import arch
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook, ParamSchedulerHook
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS, METRICS, MODELS

from xtra_toolkit.data import SeededSamples

ROOT = Path(__file__).parents[1] / "mmconfigs" / "benchmarks"
NAMES = list(layouts.LAYOUTS)

# from elad-amrani/xtra at e711fb5, config/eval/xtra_h/*/lr_1e-3.yaml and the names beside it:
# classes, batch x accumulation, epochs of warm-up, highest rate
ORIGINAL = dict(
    inat18=(8142, 4096, 10, 1e-1),
    cifar10=(10, 512, 0, 1e-2),
    cifar100=(100, 512, 0, 1e-2),
    food101=(101, 512, 0, 1e-2),
    dtd=(47, 128, 0, 1e-2),
    pets=(37, 128, 0, 1e-2),
    cars=(196, 128, 0, 1e-1),
    iwildcam=(182, 512, 0, 1e-2),
    camelyon17=(2, 512, 0, 1e-2),
    pcam=(2, 4096, 0, 1e-2),
    rxrx1=(1139, 512, 0, 1e-2),
    eurosat=(10, 512, 0, 1e-2),
    fmow=(62, 512, 0, 1e-2),
    infograph=(345, 256, 0, 1e-1),
    imagenet=(1000, 4096, 10, 4e-3),
)


def config(name, root, kind="attentive"):
    """Return the config of a benchmark with a tiny encoder and images of 32 px."""
    config = Config.fromfile(ROOT / kind / f"{name}.py")
    config.merge_from_dict(
        {
            "train_dataloader.dataset.data_root": str(root),
            "val_dataloader.dataset.data_root": str(root),
            "train_dataloader.dataset.pipeline.1.scale": 32,  # as images.py's docstring says
            "val_dataloader.dataset.pipeline.1.scale": 40,
            "val_dataloader.dataset.pipeline.2.crop_size": 32,
            "model.head.in_channels": 48,
            "model.head.rates": [1e-3, 1e-2],
        }
    )
    mask = dict(type="xtra_toolkit.BlockCausal", block_size=2)
    config.model.backbone.update(arch=arch(), img_size=32, patch_size=8, mask=mask, init_cfg=None)
    config.model.backbone.update(frozen_stages=2)
    if kind == "attentive":
        config.model.backbone.update(out_indices=[-2, -1])
    for loader in (config.train_dataloader, config.val_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
        loader.dataset.update(serialize_data=False)  # it collects garbage, a quarter of a second
    config.train_dataloader.sampler.update(global_batch=2)
    return config


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a function that makes each data set once."""

    @functools.cache
    def make(name):
        layouts.LAYOUTS[name](folder := tmp_path_factory.mktemp(name))
        return folder

    return make


@pytest.fixture
def root(request, made, monkeypatch):
    """Return the folder of a made-up data set, without the check of CIFAR's MD5 sums."""
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    return made(request.param)


def step(config):
    """Make a training step without update and a validation step; return classes and accuracy."""
    train = Runner.build_dataloader(config.train_dataloader, seed=0)
    val = Runner.build_dataloader(config.val_dataloader, seed=0)
    model = MODELS.build(config.model).train()
    batch = next(iter(train))
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    sum(losses.values()).backward()
    for n, p in model.named_parameters():
        assert (p.grad is None) == (n.startswith("backbone")), n
    metric = METRICS.build(config.val_evaluator)
    metric.process(None, [s.to_dict() for s in model.eval().val_step(next(iter(val)))])
    return train.dataset, val.dataset, batch, metric.compute_metrics(metric.results)


@pytest.mark.parametrize(("root", "name"), [(n, n) for n in NAMES], ids=NAMES, indirect=["root"])
def test_a_benchmark_reads_its_layout_and_steps(root, name):
    cfg = config(name, root)
    train, val, batch, metrics = step(cfg)
    assert isinstance(train, SeededSamples) and len(train) >= 2 and len(val) >= 1
    assert batch["inputs"][0].shape == (3, 32, 32) and batch["inputs"][0].dtype == torch.uint8
    for data in (train, val):
        labels = data.get_gt_labels()
        assert labels.min() >= 0 and labels.max() < cfg.model.head.num_classes
        if data.CLASSES is not None:
            assert len(data.CLASSES) == cfg.model.head.num_classes
    assert 0 <= metrics["top1"] <= 100


@pytest.mark.parametrize(("root", "name"), [("cifar10",) * 2, ("cifar100",) * 2], indirect=["root"])
def test_images_in_memory_are_bgr_like_files(root, name):
    image = DATASETS.build(config(name, root).val_dataloader.dataset)[0]["inputs"]
    assert image.flatten(1).unique(dim=1).flatten().tolist() == [30, 20, 10]


@pytest.mark.parametrize("root", ["imagenet"], indirect=True)
def test_the_linear_probe_of_imagenet_steps(root):
    *_, metrics = step(config("imagenet", root, "linear"))
    assert metrics["best_lr"] in (1e-3, 1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_data_set_is_reported(tmp_path, name):
    """The folder is absent or empty, and nothing is downloaded into it."""
    (tmp_path / "empty").mkdir()
    cfg = Config.fromfile(ROOT / "_base_" / "data" / f"{name}.py")
    for kind, loader in product(("absent", "empty"), ("train_dataloader", "val_dataloader")):
        dataset = dict(cfg[loader].dataset, data_root=str(tmp_path / kind))
        with pytest.raises(ValueError, match="cannot be read from") as caught:
            DATASETS.build(dataset)
        assert str(tmp_path / kind) in str(caught.value)
        assert dataset["expects"] in str(caught.value)
        assert f"{loader}.dataset.data_root=/path" in str(caught.value)
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_protocol_is_that_of_the_original(name):
    cfg = Config.fromfile(ROOT / "attentive" / f"{name}.py")
    first, cosine = cfg.param_scheduler
    warm_up = first.end if first.type == "mmengine.LinearLR" else 0
    highest = max(cfg.model.head.rates)
    numbers = cfg.model.head.num_classes, cfg.train_cfg.global_batch, warm_up, highest
    assert numbers == ORIGINAL[name]
    assert cfg.train_cfg.max_epochs == cosine.end == 100
    assert cfg.train_cfg.global_batch % cfg.train_dataloader.batch_size == 0
    rates = [1e-4, 3e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 4e-3, 8e-3, 1e-2, 1e-1]
    assert cfg.model.head.rates == rates[: rates.index(highest) + 1]
    assert cosine.eta_min == 1e-5
    assert first.get("start_factor", first.get("factor")) == 0.1
    assert cfg.optim_wrapper.clip_grad.max_norm == 3.0
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.1
    assert cfg.model.backbone.final_norm is False
    assert cfg.model.backbone.out_indices == [-6, -5, -4, -3, -2, -1]
    augment, erase = cfg.train_dataloader.dataset.pipeline[3:5]
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    assert (augment.num_policies, erase.erase_prob) == (2, 0.25)
    assert erase.fill_color == [103.53, 116.28, 123.675]  # of BGR images


def pl_bolts(rate, steps, warm_up, begin, end=1e-5):
    """Return the rates of LinearWarmupCosineAnnealingLR, each computed from the one before it.

    This is a transcription of the scheduler that elad-amrani/xtra takes from Lightning-Bolts (at
    011f209, src/pl_bolts/optimizers/lr_scheduler.py, ``get_lr``) and steps after each step.
    """
    lrs = [begin]
    for step in range(1, steps):
        now, before = (
            1 + math.cos(math.pi * (s - warm_up) / (steps - warm_up)) for s in (step, step - 1)
        )
        if step < warm_up:
            lrs.append(lrs[-1] + (rate - begin) / (warm_up - 1))
        elif step == warm_up:
            lrs.append(rate)
        else:
            lrs.append(end + (lrs[-1] - end) * now / before)
    return lrs


class LearningRates(Hook):
    """Record the learning rate of every probe in every step."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.optimizer.param_groups
        rates = {id(p): group["lr"] for group in groups for p in group["params"]}
        self.seen.append([rates[id(probe.fc.weight)] for probe in runner.model.head.probes])


def with_rates_of_the_config(name, root, kind, **options):
    """Return the runner of a benchmark with its lowest, middle and highest rate, and the rates."""
    cfg = config(name, root, kind)
    rates = Config.fromfile(ROOT / kind / f"{name}.py").model.head.rates
    rates = [rates[0], rates[3], rates[-1]]
    cfg.train_dataloader.sampler = dict(type="xtra_toolkit.GlobalBatchSampler")
    cfg.merge_from_dict({"model.head.rates": rates, "default_hooks.checkpoint.interval": -1})
    cfg.merge_from_dict(options)
    return Runner.from_cfg(cfg), rates


def assert_scheduled_as_the_original(seen, rates, warm_up=0, begin=0.1):
    for own, rate in zip(zip(*seen, strict=True), rates, strict=True):
        expected = pl_bolts(rate, len(seen), warm_up, begin * rate)
        assert own == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("root", ["cifar10"], indirect=True)
def test_a_transfer_run_has_the_learning_rates_of_the_original_scheduler(root, tmp_path):
    """Compare every step of a run of 5 epochs of 2 steps, as trained."""
    options = {"train_cfg.max_epochs": 5, "param_scheduler.1.end": 5, "work_dir": str(tmp_path)}
    options |= {"train_cfg.global_batch": 10, "train_dataloader.batch_size": 10}
    runner, rates = with_rates_of_the_config("cifar10", root, "attentive", **options)
    runner.register_hook(hook := LearningRates())
    runner.train()
    assert len(hook.seen) == 10
    assert_scheduled_as_the_original(hook.seen, rates)
    assert max(lr for step in hook.seen for lr in step) == pytest.approx(1e-3)  # of lr_1e-2.yaml


@pytest.mark.parametrize(
    ("root", "kind", "name", "warm_up", "options", "begin"),
    [
        ("cars", "attentive", "cars", 0, {}, 0.1),
        ("cars", "attentive", "cars", 0, {"param_scheduler.0.factor": 1}, 1),  # as its docstring
        ("imagenet", "attentive", "imagenet", 10, {}, 0.1),
        ("imagenet", "linear", "imagenet", 10, {}, 0.1),
        ("imagenet", "linear", "imagenet_xtra-h14", 10, {}, 0.1),
    ],
    indirect=["root"],
)
def test_schedules_equal_those_of_the_original_scheduler(
    root, kind, name, warm_up, options, begin, tmp_path
):
    """Step all 100 epochs by MMEngine's hook without training, the warm-up included."""
    size = {"cars": 1, "imagenet": 250}[root.name.rstrip("0123456789")]  # 2 and 4 steps an epoch
    options |= {"train_cfg.global_batch": size, "train_dataloader.batch_size": size}
    options |= {"work_dir": str(tmp_path)}
    runner, rates = with_rates_of_the_config(name, root, kind, **options)
    loop = runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    recorder, hook = LearningRates(), ParamSchedulerHook()
    steps = len(loop.dataloader)
    assert (steps, loop.max_epochs) == ({1: 2, 250: 4}[size], 100)
    for step in range(100 * steps):
        recorder.before_train_iter(runner, step)
        hook.after_train_iter(runner, step)
        if step % steps == steps - 1:
            hook.after_train_epoch(runner)
    assert_scheduled_as_the_original(recorder.seen, rates, warm_up * steps, begin)


def test_the_linear_probe_of_xtra_h_is_that_of_the_original():
    """config/eval/xtra_h/in1k_linear has decay and augmentation, unlike that of XTRA-B."""
    large, base = (
        Config.fromfile(ROOT / "linear" / f"{name}.py")
        for name in ("imagenet_xtra-h14", "imagenet")
    )
    decays = [cfg.optim_wrapper.optimizer.weight_decay for cfg in (large, base)]
    assert decays == [0.1, 0.0]
    augmented = Config.fromfile(
        ROOT / "attentive" / "imagenet.py"
    ).train_dataloader.dataset.pipeline
    augmented[1].scale = 224
    assert large.train_dataloader.dataset.pipeline == augmented
    assert "RandAugment" in str(augmented) and "RandAugment" not in str(base.train_dataloader)
    for part in ("param_scheduler", "train_cfg"):
        assert large[part] == base[part]
    assert large.model.head.rates == base.model.head.rates
    assert large.model.backbone.frozen_stages == "all" and large.model.neck == base.model.neck


def test_xtra_h_takes_the_documented_options():
    """The model has its full size, on the meta device."""
    path = ROOT / "_base_" / "images.py"
    _, options = ast.get_docstring(ast.parse(path.read_text())).split("--cfg-options")
    cfg = Config.fromfile(ROOT / "attentive" / "cars.py")
    cfg.merge_from_dict({k: DictAction._parse_iterable(v) for k, v in pairs(options)})
    cfg.model.backbone.update(mask=dict(type="xtra_toolkit.Bidirectional"), init_cfg=None)
    cfg.model.backbone.update(arch="huge", img_size=224, patch_size=14)  # else of the checkpoint
    sizes = [
        step.get("scale") or step.get("crop_size") for step in cfg.val_dataloader.dataset.pipeline
    ]
    assert sizes[1:3] == [256, 224]
    assert cfg.train_dataloader.dataset.pipeline[1].scale == 224
    with torch.device("meta"):
        model = MODELS.build(cfg.model).train()
    scores = model.head(model.extract_feat(torch.empty(2, 3, 224, 224, device="meta")))
    assert scores.shape == (2, len(cfg.model.head.rates), 196)
    assert not any(p.requires_grad for p in model.backbone.parameters())


def pairs(options):
    return (option.split("=") for option in options.split())


@pytest.mark.parametrize(
    ("name", "width", "heads"),
    [
        ("attentive/imagenet_aim-600m", 1536, 12),
        ("attentive/imagenet_mae-b16", 768, 16),
        ("linear/imagenet_mae-b16", 768, None),
        ("linear/imagenet_xtra-h14", 1280, None),
    ],
)
def test_other_encoders_are_probed_at_224_px(name, width, heads):
    """The models have their full size, on the meta device, and the names of their pretraining."""
    cfg = Config.fromfile(ROOT / f"{name}.py")
    sources = {"aim-600m": "aim_vit-600m-p14", "mae-b16": "mae_vit-b16", "xtra-h14": "xtra_vit-h14"}
    source = sources[name.split("_")[1]]
    trained = Config.fromfile(ROOT.parent / f"{source}.py").model
    cfg.model.backbone.update(mask=trained.mask, init_cfg=None)
    with torch.device("meta"):
        model, pretrainer = MODELS.build(cfg.model), MODELS.build(trained)
        features = dict(pretrainer.backbone.named_parameters())
    missing, unexpected = model.backbone.load_state_dict(features, strict=False, assign=True)
    assert all("attention_mask" in name for name in missing) and set(unexpected) <= {
        "ln1.weight",
        "ln1.bias",
    }
    scores = model.eval().head(model.extract_feat(torch.empty(2, 3, 224, 224, device="meta")))
    assert scores.shape == (2, 7, 1000) and model.head.probes[0].fc.in_features == width
    if heads:
        assert model.head.probes[0].num_heads == heads
    for loader, sizes in (("train_dataloader", [224]), ("val_dataloader", [256, 224])):
        steps = cfg[loader].dataset.pipeline[1 : 1 + len(sizes)]
        assert [step.get("scale") or step.get("crop_size") for step in steps] == sizes
