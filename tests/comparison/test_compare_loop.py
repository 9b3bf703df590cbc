"""Test a whole comparison: it fills every cell, and measures nothing twice."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image

from xtra_toolkit.cli import main
from xtra_toolkit.comparison import compare
from xtra_toolkit.comparison.results import Results

CONFIG = """
_base_ = [{base!r}]
model = dict(
    data_preprocessor=dict(mean=[120.0], std=[90.0]),
    mask={mask},
    target_generator=dict(type="xtra_toolkit.NextToken"),
    backbone=dict(
        arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32),
        img_size=8,
        patch_size=4,
        in_channels=1,
    ),
    neck=dict(projection=None, width=16, depth=1, heads=2),
    head=dict(hidden=None),
)
train_dataloader = dict(batch_size=4)
train_cfg = dict(max_epochs=1, global_batch=4)
"""
BASE = Path(__file__).parents[2] / "mmconfigs" / "small" / "cifar10_xtra.py"
MASKS = dict(
    tokens="dict(_delete_=True, type='xtra_toolkit.TokenCausal')",
    prefix="dict(_delete_=True, type='xtra_toolkit.PrefixCausal')",
)


@pytest.fixture
def arguments(tmp_path):
    """Return arguments of ``xtra compare`` for two tiny configs, and bright and dark images."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for name, low in (("bright", 130), ("dark", 0)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = generator.integers(low, low + 120, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    configs = []
    for name, mask in MASKS.items():
        configs.append(tmp_path / f"{name}.py")
        configs[-1].write_text(CONFIG.format(base=str(BASE), mask=mask))
    options = ["--images", "80", "--seeds", "1", "--tune", "0.5", "--tune-epochs", "1"]
    data = ["--data", str(tmp_path / "photos"), "--out", str(tmp_path / "out")]
    return ["compare", *map(str, configs), *data, *options]


def untrained(config, work, options, overrides=()):
    """Write what ``mim train`` leaves in the folder of a run, without training."""
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    torch.save(dict(state_dict=model.state_dict()), work / "epoch_1.pth")
    (work / "seconds.txt").write_text("60")
    return work / "epoch_1.pth"


def test_every_row_has_its_figures_and_no_figure_is_measured_twice(
    arguments, tmp_path, monkeypatch
):
    monkeypatch.setattr(compare, "pretrain", untrained)
    handler = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert signal.getsignal(signal.SIGTERM) is handler
    results = Results(tmp_path / "out" / "compare.json")
    probes = {"linear", "nearest", "attentive"}
    measured = {run["name"]: run.keys() & (probes | {"tuned"}) for run in results.state["runs"]}
    assert measured == {
        "raw pixels": {"linear", "nearest"},
        "random encoder": probes,
        "from scratch, tokens's mask": {"tuned"},
        "from scratch, full attention": {"tuned"},
        "tokens": probes | {"tuned"},
        "prefix": probes | {"tuned"},
    }
    assert str(tmp_path / "photos") not in results.path.read_text()
    before = results.path.stat().st_mtime_ns
    monkeypatch.setattr(compare, "fine_tune", None)
    monkeypatch.setattr(compare, "pretrain", None)
    shutil.rmtree(tmp_path / "out" / "runs")  # the results are kept without their checkpoints
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0, again.output
    assert results.path.stat().st_mtime_ns == before


def test_a_setting_is_varied_and_judged_by_held_out_images(arguments, tmp_path, monkeypatch):
    given = {}

    def record(config, work, options, overrides=()):
        given[work.name] = overrides
        return untrained(config, work, options)  # the same weights with and without the variation

    monkeypatch.setattr(compare, "pretrain", record)
    monkeypatch.setattr("xtra_toolkit.cli.report.write_page", lambda runs, out: None)
    monkeypatch.setattr("xtra_toolkit.visualization.report.runs.find_runs", list)
    rate = "optim_wrapper.optimizer.lr=0.001"
    arguments[arguments.index("--tune-epochs") + 1] = "0"
    done = CliRunner().invoke(main, [*arguments, "--vary", rate, "--hold-out", "16"])
    assert done.exit_code == 0, done.output
    varied = {name for name, options in given.items() if options == [rate]}
    assert varied == {"tokens-lr=0.001_seed0", "prefix-lr=0.001_seed0"} and len(given) == 4
    page = (tmp_path / "out" / "compare.md").read_text()
    assert "# tokens, prefix on photos" in page and "16 held-out training images" in page
    assert f"--vary {rate} --hold-out 16" in page
    assert "- tokens, lr=0.001, linear probe" in page and "within noise of tokens." in page
    for changed in (["--hold-out", "8"], ["--hold-out", "16", "-o", "randomness.seed=1"]):
        again = CliRunner().invoke(main, [*arguments, "--vary", rate, *changed])
        assert again.exit_code != 0 and "holds the results of another comparison" in again.output
    more = [*arguments, "--vary", rate, "--vary", "optim_wrapper.optimizer.lr=0.002"]
    given.clear()
    assert CliRunner().invoke(main, [*more, "--hold-out", "16"]).exit_code == 0
    assert set(given) == {"tokens-lr=0.002_seed0", "prefix-lr=0.002_seed0"}


def test_a_row_that_cannot_be_built_is_named_before_anything_is_packed(arguments, tmp_path):
    done = CliRunner().invoke(main, [*arguments, "--vary", "model.mask.block_size=4"])
    assert done.exit_code != 0 and not (tmp_path / "out").exists()
    assert "The model of tokens, block_size=4 cannot be built" in " ".join(done.output.split())


def test_images_are_not_held_out_from_a_config_that_reads_files(arguments):
    given = ["compare", "xtra_vit-ti16", *arguments[3:], "--hold-out", "16"]
    done = CliRunner().invoke(main, given)
    assert done.exit_code != 0
    assert "would see the images that are held out. Hold out none" in " ".join(done.output.split())


def test_too_few_images_are_refused_before_anything_is_measured(arguments, tmp_path):
    arguments[arguments.index("--images") + 1] = "40"
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code != 0 and "at least 20 steps" in done.output + str(done.exception)
    assert not (tmp_path / "out" / "compare.json").exists()


@pytest.mark.slow
def test_the_command_trains_probes_and_reports(arguments, tmp_path):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "report.html").exists()
    assert "2 of 2 pretraining runs are finished" in (tmp_path / "out" / "compare.md").read_text()
