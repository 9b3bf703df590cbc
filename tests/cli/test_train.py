"""Test what ``xtra train`` derives, refuses and writes, and run it from end to end."""

import contextlib
import functools
import json
import os
import pty
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers import commands, photographs
from mmengine.config import Config

from xtra_toolkit.training import console
from xtra_toolkit.training.recipe import Numbers
from xtra_toolkit.training.start import derive, prepare

CONFIGS = Path(__file__).parents[2] / "mmconfigs"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return photographs.write(tmp_path_factory.mktemp("photos"), 36)


def test_derived_sizes_and_widths_are_those_of_the_shipped_configs(photos):
    for family in ("xtra", "aim", "mae"):
        for short, name in (("ti", "ti16"), ("s", "s16")):
            shipped = Config.fromfile(CONFIGS / f"{family}_vit-{name}.py").model
            base = CONFIGS / f"{family}_vit-b16.py"
            cfg, _, model = derive(base, Numbers(data=photos, arch=short))
            assert model.backbone.embed_dims == {"ti": 192, "s": 384}[short]
            for part, key in (
                ("neck", "width"),
                ("neck", "projection"),
                ("neck", "heads"),
                ("head", "hidden"),
            ):
                assert cfg.model[part].get(key) == shipped[part].get(key), (family, short)


def test_the_crops_have_the_given_image_size(photos):
    cfg, _, model = derive(CONFIGS / "mae_vit-ti16.py", Numbers(data=photos, size=64))
    assert model.backbone.grid.tokens == 16
    assert cfg.train_dataloader.dataset.pipeline[1]["scale"] == 64


def test_the_schedule_keeps_its_shares_of_the_run(photos):
    numbers = Numbers(data=photos, arch="ti", size=128, epochs=100, batch=4)
    cfg, images, _ = derive(CONFIGS / "xtra_vit-b16.py", numbers)
    total = 100 * (images // 4)
    warm, decay = cfg.param_scheduler
    assert warm.end == decay.begin == round(15 / 800 * total) and decay.end == total
    assert not warm.by_epoch


def test_a_derived_batch_keeps_enough_steps_and_scales_the_rate(photos):
    cfg, _, _ = derive(CONFIGS / "xtra_vit-b16.py", Numbers(data=photos, arch="ti"))
    assert cfg.train_cfg.global_batch == 8  # 36 images, four steps an epoch
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 / 16, rel=1e-2)
    given, _, _ = derive(CONFIGS / "xtra_vit-b16.py", Numbers(data=photos, arch="ti", lr=3e-4))
    assert given.optim_wrapper.optimizer.lr == 3e-4


def test_processes_run_on_gpus_or_on_the_cpu(photos, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    cfg, _, _ = derive(CONFIGS / "xtra_vit-ti16.py", Numbers(data=photos, processes=2))
    assert "xtra_toolkit.engine.gloo" in cfg.custom_imports.imports
    assert cfg.model_wrapper_cfg.device_ids is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"--gpus 2 was given, and this machine has 1 GPU"):
        derive(CONFIGS / "xtra_vit-ti16.py", Numbers(data=photos, processes=2))


def test_a_terminal_shows_a_bar(monkeypatch):
    primary, secondary = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(console, "_brief", True)
    hook, runner = console.ProgressHook(), SimpleNamespace(iter=0, max_iters=3)
    with os.fdopen(secondary, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        hook.before_train(runner)
        for runner.iter in range(3):
            hook.after_train_iter(runner, runner.iter, outputs=dict(loss=torch.tensor(0.5)))
        hook.after_train(runner)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is closed; what it shows comes in parts
        while part := os.read(primary, 4096):
            shown += part
    os.close(primary)
    assert b"3/3" in shown and b"loss 0.5000" in shown


def test_an_override_wins_over_derived_values(photos):
    options = ("model.neck.width=384", "default_hooks.logger.interval=7")
    cfg, _, model = derive(CONFIGS / "xtra_vit-b16.py", Numbers(data=photos, arch="ti"), options)
    assert model.neck.width == 384 and cfg.default_hooks.logger.interval == 7


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("optimizer_wrapper.optimizer.lr=1", "Did you mean optim_wrapper"),
        ("optim_wrapper.optimizer.lrr=1", "Did you mean optim_wrapper.optimizer.lr?"),
        ("model.mask.block_sise=2", "Did you mean model.mask.block_size?"),
        ("train_cfg.max_iter=3", "Did you mean train_cfg.max_iters"),
        ("train_dataloader.batchsize=3", "Did you mean train_dataloader.batch_size"),
        ("param_scheduler.7.end=3", "param_scheduler is a list of 2"),
    ],
)
def test_unknown_keys_are_refused(photos, option, sentence):
    with pytest.raises(ValueError, match=r".") as refused:
        derive(CONFIGS / "xtra_vit-b16.py", Numbers(data=photos), [option])
    assert sentence in str(refused.value) and option.partition("=")[0] in str(refused.value)


xtra = functools.partial(commands.xtra, "train")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--data", "absent"], "Error: --data absent was given, and there is no such folder"),
        (["--arch", "tiny"], "Error: --arch tiny was given; there are ti, s, b, l, h"),
        (["--size", "100"], "100"),
        (["--resume", "--overwrite"], "give one"),
    ],
)
def test_invalid_input_is_refused_with_a_message(photos, tmp_path, args, sentence):
    data = [] if "--data" in args else ["--data", photos]
    result = xtra("xtra_vit-b16", *data, "--out", tmp_path / "run", *args)
    assert result.exit_code and isinstance(result.exception, SystemExit)
    assert sentence in result.output.splitlines()[-1]


def test_a_used_folder_is_refused_unless_it_is_overwritten_or_resumed(photos, tmp_path):
    base, out = CONFIGS / "xtra_vit-ti16.py", tmp_path / "run"
    small = Numbers(data=photos, size=128)
    prepare(base, out, small)
    (out / "epoch_1.pth").touch()
    with pytest.raises(ValueError, match=r"up to epoch_1.pth. Add --resume .* --overwrite"):
        prepare(base, out, small)
    other = Numbers(data=photos, size=128, lr=0.5, batch=4)
    run = prepare(base, out, other, resume=True)
    notes = " ".join(run.notes)
    assert "optim_wrapper.optimizer.lr: " in notes and "not 0.5" in notes
    assert "train_cfg.global_batch: 8 holds" in notes
    assert run.cfg.optim_wrapper.optimizer.lr != 0.5 and run.cfg.train_cfg.global_batch == 8
    again = prepare(base, out, Numbers(), resume=True)
    assert not again.notes and again.cfg.custom_hooks == run.cfg.custom_hooks
    assert again.cfg.train_dataloader.dataset.data_root == str(photos)
    prepare(base, out, small, overwrite=True)
    assert not (out / "epoch_1.pth").exists()


def test_three_steps_print_three_losses_and_the_paths_of_the_results(
    photos, tmp_path, capfd, monkeypatch
):
    if sys.version_info >= (3, 11):  # PYTHONSAFEPATH is new in it
        (tmp_path / "above" / "xtra_toolkit").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "above")  # as in the folder above a clone
    args = ["--data", photos, "--size", 128, "--batch", 8, "--out", tmp_path / "run"]
    result = xtra("xtra_vit-ti16", *args, "-o", "train_cfg.max_iters=3")
    assert result.exit_code == 0, result.output
    before, after = result.output.split("checkpoint   ")
    assert len(before.splitlines()) <= 15 and "certificate  " in before
    shown = capfd.readouterr()
    assert [line[:11] for line in shown.out.splitlines() if "loss" in line] == [
        f"step {n} of 3" for n in (1, 2, 3)
    ]
    assert shown.err == ""  # no warnings, no hook table
    checkpoint = Path(after.splitlines()[0])
    assert checkpoint.name == "epoch_0_iter_3.pth" and checkpoint.is_file()
    ends = ("report.html", "pictures", "next  ", "in Python")
    assert [name for name in ends if name not in after] == []
    (scalars,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    losses = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert len([line for line in losses if "loss" in line]) == 3


def test_an_error_in_training_is_reported_by_its_message(photos, tmp_path, capfd):
    args = ["--data", photos, "--size", 128, "--batch", 8, "--lr", "1e30"]
    result = xtra("xtra_vit-ti16", *args, "--out", tmp_path / "run", "--epochs", 3)
    assert result.exit_code == 1
    assert "Training stopped at iteration" in result.output.splitlines()[-1], result.output
    shown = capfd.readouterr()
    assert "Traceback" not in shown.out + shown.err + result.output


CLASSIFIER = """
_base_ = ["mmpretrain::_base_/models/resnet18.py", "mmpretrain::_base_/default_runtime.py"]
load = dict(type="LoadImageFromFile")
crop = dict(type="RandomResizedCrop", scale=32)
train_dataloader = dict(batch_size=8, num_workers=0, dataset=dict(
    type="{}", data_root="x", pipeline=[load, crop, dict(type="PackInputs")]))
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
param_scheduler = dict(type="MultiStepLR", by_epoch=True, milestones=[25, 50], gamma=0.1)
train_cfg = dict(by_epoch=True, max_epochs=100)
"""


def test_a_classifier_of_mmpretrain(photos, tmp_path):
    config = tmp_path / "x.py"
    config.write_text(CLASSIFIER.format("CustomDataset"))
    cfg, images, model = derive(config, Numbers(data=photos, epochs=2))
    assert (images, model) == (36, None)
    (schedule,) = cfg.param_scheduler
    assert schedule.milestones == [2, 4] and not schedule.by_epoch  # of 2 epochs of 4 steps
    few = ["model.head.num_classes=1"]
    with pytest.raises(ValueError, match=r"have 2 classes, 'even' to 'odd', .*\.num_classes=1;"):
        derive(config, Numbers(data=photos), few)
    with pytest.raises(ValueError, match=r"--arch ti .* a ResNet, which has no such sizes"):
        derive(config, Numbers(data=photos, arch="ti"))
    with pytest.raises(ValueError, match="counts epochs alone; give --epochs"):
        derive(config, Numbers(data=photos), ["train_cfg.max_iters=3"])
    config.write_text(CLASSIFIER.format("ImageNet"))
    with pytest.raises(ValueError, match=r"cannot be read: .*ImageNet, which may ask for folders"):
        derive(config, Numbers(data=photos))


def test_a_config_that_trains_nothing(photos):
    with pytest.raises(ValueError, match="has no train_dataloader, so there is nothing to train"):
        derive(CONFIGS / "benchmarks" / "knn" / "imagenet.py", Numbers(data=photos))
    with pytest.raises(ValueError, match="'Foo' was given; no such model is registered"):
        derive(CONFIGS / "xtra_vit-ti16.py", Numbers(data=photos), ["model.type=Foo"])
