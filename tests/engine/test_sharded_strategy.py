"""Test that two processes with half of the weights each train like one with all of them."""

import os
import signal
from pathlib import Path

import pytest
import torch
from helpers import photographs
from helpers.processes import on_two
from helpers.tiny_runs import flat
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import OPTIM_WRAPPERS, RUNNERS
from mmpretrain.registry import MODELS
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from xtra_toolkit.engine.sharded_strategy import WRAP_POLICY, refuse_own_clipping
from xtra_toolkit.hooks import StopOnNonFiniteLoss
from xtra_toolkit.utils.atomic_backend import AtomicBackend

ROOT = Path(__file__).parents[2]
SHARDED, WHOLE = (ROOT / f"tests/configs/xtra_tiny{kind}.py" for kind in ("_fsdp", ""))
EPOCHS, STEPS = 3, 6  # in all
IMAGES = torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


class Record(Hook):
    """Record the loss and the gradient norm of each step; send a signal after step ``leave``."""

    def __init__(self, leave=0):
        self.losses, self.norms, self.leave = {}, {}, leave

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter + 1] = float(outputs["loss"])
        self.norms[runner.iter + 1] = runner.message_hub.get_scalar("train/grad_norm").current()
        if runner.iter + 1 == self.leave:
            os.kill(os.getpid(), signal.SIGUSR1)


def train(config, folder, photos, *hooks, **options):
    """Return a finished runner, with drop path, bad images and accumulation."""
    config = Config.fromfile(config)
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False, pin_memory=False)
    config.merge_from_dict(
        {
            **{f"train_dataloader.{key}": value for key, value in loader.items()},
            "train_dataloader.dataset.data_root": str(photos),
            "train_cfg": dict(max_epochs=EPOCHS, global_batch=8),
            "model.backbone.drop_path_rate": 0.1,
            "optim_wrapper.clip_grad.max_norm": 0.01,  # it clips from the first step on
            "param_scheduler.0.end": 1,
            "param_scheduler.1": dict(begin=1, end=EPOCHS),
            "work_dir": str(folder),
            "log_level": "WARNING",
            **options,
        }
    )
    config.launcher = "pytorch" if torch.distributed.is_initialized() else "none"
    runner = RUNNERS.build(config)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


def relative(one, other):
    return max(abs(one[step] - other[step]) / abs(other[step]) for step in one)


def loaded(folder, name=f"epoch_{EPOCHS}.pth"):
    return torch.load(folder / name, weights_only=True)


def largest_difference(one, other):
    """Return the largest difference of floats in two state dicts, relative to the tensor's norm."""
    assert one.keys() == other.keys()
    pairs = [(one[key], other[key]) for key in one if one[key].is_floating_point()]
    assert len(pairs) > 30
    return max((a - b).norm() / b.norm().clamp(min=1e-3) for a, b in pairs)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = photographs.write(tmp_path_factory.mktemp("photos"), 18)
    (folder / "bad.jpg").write_bytes(b"no image")
    return folder


def _sharded(rank, folder, photos):
    record = Record()
    runner = train(SHARDED, folder / "run", photos, record)
    assert type(get_file_backend(str(folder))) is AtomicBackend
    parts = [m._handle.flat_param.numel() for m in FSDP.fsdp_modules(runner.model)]
    with torch.no_grad():
        features = runner.model.eval()(IMAGES, None, "tensor")[0]
    with pytest.raises(FloatingPointError, match=r"backbone\.layers\.1\.ln1\.weight is not finite"):
        spoiled = {"backbone.layers.1.ln1.weight": torch.tensor(torch.nan)}
        StopOnNonFiniteLoss().before_save_checkpoint(runner, dict(state_dict=spoiled))
    return record.losses, record.norms, parts, features


@pytest.fixture(scope="module")
def sharded(photos, tmp_path_factory):
    """Return the folder of a sharded run, and what each of its processes has recorded."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder / "run", on_two(_sharded, folder, photos)


@pytest.fixture(scope="module")
def whole(photos, tmp_path_factory):
    folder, record = tmp_path_factory.mktemp("whole"), Record()
    return folder, train(WHOLE, folder, photos, record).model, record


def test_losses_norms_and_weights_equal_those_of_an_unsharded_run(sharded, whole):
    folder, (first, second) = sharded
    other, _, record = whole
    losses, norms, *_ = first
    assert list(losses) == list(record.losses) == list(range(1, STEPS + 1))
    assert (losses, norms) == second[:2]
    assert relative(losses, record.losses) <= 1e-5 and relative(norms, record.norms) <= 1e-5
    assert all(norm > 0.01 for norm in norms.values())
    weights, others = (loaded(place)["state_dict"] for place in (folder, other))
    assert largest_difference(weights, others) <= 1e-5


def test_each_process_holds_half_of_the_weights(sharded, whole):
    _, ((*_, parts, _), (*_, others, _)) = sharded
    total = sum(p.numel() for p in whole[1].parameters())
    assert len(parts) == 6  # three layers, two matrices of the head, the rest
    assert parts == others and total <= 2 * sum(parts) <= 1.001 * total


def test_a_sharded_checkpoint_equals_that_of_an_unsharded_run(sharded, whole):
    """Compare names, groups with their exemptions from weight decay, averages and the rest."""
    one, other = loaded(sharded[0]), loaded(whole[0])
    assert one.keys() == other.keys()
    assert one["param_schedulers"] == other["param_schedulers"]
    mine, theirs = (c["optimizer"] for c in (one, other))
    assert mine["param_groups"] == theirs["param_groups"] and mine.keys() == theirs.keys()
    assert {g["weight_decay"] for g in mine["param_groups"]} == {0.0, 0.05}
    averages = [
        {f"{n}.{key}": value for n, state in o["state"].items() for key, value in state.items()}
        for o in (mine, theirs)
    ]
    assert largest_difference(*averages) <= 1e-4
    assert {key: one["meta"][key] for key in ("epoch", "iter", "seed")} == dict(
        epoch=EPOCHS, iter=STEPS, seed=0
    )


def test_a_sharded_checkpoint_loads_into_a_plain_encoder(sharded):
    folder, ((*_, features), _) = sharded
    backbone = Config.fromfile(WHOLE).model.backbone
    file = str(folder / f"epoch_{EPOCHS}.pth")
    init = dict(type="Pretrained", checkpoint=file, prefix="backbone.")
    encoder = MODELS.build(dict(backbone, init_cfg=init))  # its mask is the checkpoint's
    encoder.init_weights()
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(IMAGES)[0], features)


def test_a_sharded_run_lists_bad_images(sharded):
    files = list(sharded[0].glob("bad_images*.jsonl"))
    assert files and all("bad.jpg" in file.read_text() for file in files)


def _leaves(rank, folder, photos):
    try:
        train(SHARDED, folder / "run", photos, Record(leave=3 if rank else 0))
    except SystemExit as left:
        return left.code


def _goes_on(rank, folder, photos, run, options):
    record = Record()
    train(SHARDED, run, photos, record, resume=True, **options)
    return record.losses


def test_a_sharded_run_resumed_after_a_signal_is_bit_identical(sharded, photos, tmp_path):
    """The signal comes within an epoch; last_checkpoint then names a damaged file."""
    assert on_two(_leaves, tmp_path, photos) == [75, 75]
    run = tmp_path / "run"
    assert (run / "last_checkpoint").read_text() == "epoch_1_iter_3.pth"
    assert not list(run.glob("*.unfinished"))
    (run / "last_checkpoint").write_text(str(run / "epoch_2.pth"))
    (run / "epoch_2.pth").write_bytes(b"half")
    (tmp_path / "again").mkdir()  # a new folder for the file by which the processes meet
    losses, _ = on_two(_goes_on, tmp_path / "again", photos, run, {})
    folder, ((before, *_), _) = sharded
    assert losses == {step: before[step] for step in range(4, STEPS + 1)}
    for part in ("state_dict", "optimizer"):
        one, other = (flat(loaded(place)[part]) for place in (run, folder))
        assert len(one) > 30 and one == other


def test_an_unsharded_run_resumes_a_sharded_checkpoint(sharded, photos, tmp_path):
    folder, ((before, *_), _) = sharded
    record, kept = Record(), str(folder / "epoch_1.pth")
    train(WHOLE, tmp_path, photos, record, load_from=kept, resume=True)
    assert list(record.losses) == [3, 4, 5, 6] and relative(record.losses, before) <= 1e-5


def test_a_sharded_run_resumes_an_unsharded_checkpoint(whole, photos, tmp_path):
    folder, _, record = whole
    kept = dict(load_from=str(folder / "epoch_1.pth"))
    losses, _ = on_two(_goes_on, tmp_path, photos, tmp_path / "run", kept)
    assert list(losses) == [3, 4, 5, 6] and relative(losses, record.losses) <= 1e-5


def _compiled(rank, folder, photos):
    record = Record()
    train(SHARDED, folder / "run", photos, record, compile=dict(backend="eager"))
    return record.losses, torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_the_loss_of_a_sharded_run_can_be_compiled(sharded, photos, tmp_path):
    _, ((losses, *_), _) = sharded
    (compiled, graphs), _ = on_two(_compiled, tmp_path, photos)
    assert graphs and compiled == losses


class Spoil(Hook):
    """Make the output of a layer NaN from step 2 on, in one process."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            layer = runner.model.module.backbone.layers[1].module.ffn
            layer.register_forward_hook(lambda module, args, out: out * float("nan"))


def _goes_wrong(rank, folder, photos):
    with pytest.raises(FloatingPointError) as caught:
        train(SHARDED, folder / "run", photos, *[Spoil()] * rank)
    return str(caught.value)


def test_all_processes_stop_at_a_non_finite_loss_in_one(photos, tmp_path):
    first, second = on_two(_goes_wrong, tmp_path, photos)
    assert "the forward pass of backbone.layers.1.ffn (FFN)" in second
    for sentence in (first, second):
        assert "iteration 3, epoch 2: loss = nan" in sentence
        assert str(tmp_path / "run" / "epoch_1.pth") in sentence


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "--launcher pytorch"),
        ({"model_wrapper_cfg": dict(type="X")}, r"model_wrapper_cfg .* strategy\.model_wrapper"),
        ({"default_hooks.ema": dict(type="mmengine.EMAHook")}, "mmengine.EMAHook needs whole"),
        ({"custom_hooks": [dict(type=EMAHook)]}, "EMAHook needs whole"),
        ({"val_cfg": dict(type="xtra_toolkit.KNNValLoop")}, "KNNValLoop needs whole"),
        ({"strategy.model_wrapper": dict(use_orig_params=False)}, "use_orig_params=False"),
    ],
)
def test_configs_that_cannot_be_sharded_are_refused(options, sentence, photos, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        train(SHARDED, tmp_path, photos, **options)


@pytest.mark.parametrize("kind", ["MasterWeightsOptimWrapper", "SweepOptimWrapper"])
def test_wrappers_that_compute_their_own_norm_are_refused(kind):
    weight = torch.nn.Parameter(torch.zeros(1))
    config = dict(type=f"xtra_toolkit.{kind}", optimizer=torch.optim.AdamW([weight]))
    with pytest.raises(ValueError, match=f"{kind} clips or replaces whole"):
        refuse_own_clipping(OPTIM_WRAPPERS.build(config))


def test_every_layer_of_the_full_model_is_wrapped():
    config = Config.fromfile(ROOT / "mmconfigs" / "xtra_vit-h14_fsdp.py")
    with torch.device("meta"):
        model = MODELS.build(config.model)
    chosen = WRAP_POLICY._run_policy(model, set(), {})
    names = {name for name, module in model.named_modules() if module in chosen}
    layers = {f"backbone.layers.{i}" for i in range(32)} | {f"neck.layers.{i}" for i in range(8)}
    assert names == layers | {"head.predictors.0.0", "head.predictors.0.2"}
    rest = sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for module in chosen for p in module.parameters()
    )
    assert rest < 0.02 * sum(p.numel() for p in model.parameters())
