"""Test that curves and pictures reach the chosen trackers and the local files."""

import io
import json
import os
import resource
import uuid
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_runs
from mmengine.config import Config, DictAction
from mmengine.hooks import Hook
from mmengine.registry import VISUALIZERS
from PIL import Image

from xtra_toolkit.visualization import visualizer as module
from xtra_toolkit.visualization.trackers import TensorBoardTracker

PICTURE = np.linspace(0, 255, 12 * 16 * 3).astype(np.uint8).reshape(12, 16, 3)
NOTED = {"probe/linear_top1": 0.5, "loss_step/003": 0.25}
ROOT = Path(__file__).parents[2] / "mmconfigs"


def backends(*options):
    """Return the types of the back ends of a shipped config with ``--cfg-options``."""
    config = Config.fromfile(ROOT / "demo" / "xtra_digits.py")
    pairs = (option.split("=", 1) for option in options)
    config.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in pairs})
    built = VISUALIZERS.build({**config.visualizer, "name": uuid.uuid4().hex, "save_dir": "unused"})
    return list(built._vis_backends)


@pytest.fixture
def installed(monkeypatch):
    """Pretend that every tracker is installed; none is imported before it is used."""
    monkeypatch.setattr(module, "find_spec", lambda name: name)


def test_one_option_names_trackers_beside_the_local_files(installed):
    option = "visualizer.vis_backends="
    assert backends() == ["LocalFiles"]
    assert backends(option + "tensorboard") == ["LocalFiles", "TensorBoardTracker"]
    both = ["LocalFiles", "WandbTracker", "MLflowTracker"]
    assert backends(option + "wandb,mlflow") == backends(option + "[local,wandb,mlflow]") == both


def test_configs_of_back_ends_are_used_unchanged(installed):
    wandb = dict(type="xtra_toolkit.WandbTracker", init_kwargs=dict(project="masks"))
    local = dict(type="mmengine.LocalVisBackend", save_dir="elsewhere")
    built = VISUALIZERS.build(
        dict(
            type="xtra_toolkit.Visualizer",
            name=uuid.uuid4().hex,
            vis_backends=[wandb, local],
            save_dir="here",
        )
    )
    assert list(built._vis_backends) == ["WandbTracker", "LocalVisBackend"]
    assert built.get_backend("WandbTracker")._init_kwargs["project"] == "masks"
    assert built.get_backend("LocalVisBackend")._save_dir == "elsewhere"


def test_a_missing_package_and_an_unknown_name_are_refused_before_building(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install xtra_toolkit\[wandb\]"):
        backends("visualizer.vis_backends=wandb")
    with pytest.raises(ValueError, match="'wandberg'; the trackers are tensorboard, wandb, mlflow"):
        backends("visualizer.vis_backends=wandberg")


def close(pixels):
    """Return whether pixels equal PICTURE up to the loss of JPEG."""
    return np.abs(pixels.astype(int) - PICTURE).max() <= 16


class Notes(Hook):
    """Log scalars and a picture at the fourth step, as other hooks do."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            runner.visualizer.add_image("reconstruction", PICTURE, step=4)
            runner.visualizer.add_scalars(NOTED, step=4)


def train(folder, tracker, resume=False, widths=5000):
    """Train a tiny model for 15 steps, or resume it after the seventh.

    The config has a list of ``widths`` numbers, which takes MMEngine long to format.
    """
    config = Config(dict(work_dir=str(folder), resume=resume, widths=[3] * widths))
    hooks = dict(
        timer=dict(type="xtra_toolkit.Throughput"),
        logger=dict(type="LoggerHook", interval=1),
        checkpoint=dict(type="CheckpointHook", interval=7, by_epoch=False),
    )
    tiny_runs.run(
        folder,
        "XTRA",
        visualizer=dict(type="xtra_toolkit.Visualizer", vis_backends=tracker),
        cfg=config,
        default_hooks=hooks,
        custom_hooks=[dict(type="xtra_toolkit.SafeResume"), Notes()],
        load_from=str(folder / "iter_7.pth") if resume else None,
        resume=resume,
    )


def written(folder):
    """Return the loss of each step from the local files, the oldest run first."""
    files = sorted(folder.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_tensorboard_has_curves_and_pictures_and_a_resumed_run_continues_them(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tmp_path, "tensorboard", widths=5)
    (first,) = (path.parent for path in tmp_path.glob("*/vis_data"))
    first = first.rename(tmp_path / "19990101_000000") / "vis_data"
    train(tmp_path, "tensorboard", resume=True, widths=5)
    assert {p.parent for p in tmp_path.rglob("events.out.*")} == {first}  # TensorBoard sees one run
    assert len(list(tmp_path.glob("*/vis_data/scalars.json"))) == 2
    events = accumulator.EventAccumulator(str(first)).Reload()
    steps = [*range(1, 16), *range(8, 16)]
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in losses] == steps
    np.testing.assert_allclose(losses, written(tmp_path), rtol=1e-6)
    assert losses[7:15] == losses[15:]  # equal to the uninterrupted run
    assert {"lr", "images_per_second", *NOTED} <= set(events.Tags()["scalars"])
    (picture,) = events.Images("reconstruction")
    pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
    assert picture.step == 4 and picture.encoded_image_string.startswith(b"\xff\xd8")  # JPEG
    assert close(pixels)
    assert b"work_dir" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    anew = TensorBoardTracker(str(tmp_path / "20990101_000000" / "vis_data"))
    anew.add_config(Config(dict(resume=False)))
    assert {p.parent for p in tmp_path.rglob("events.out.*")} == {first, Path(anew._save_dir)}


def test_wandb_has_curves_over_iterations_and_pictures(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path, "wandb")
    wandb.teardown()  # its process may still be writing
    (record,) = tmp_path.glob("*/vis_data/wandb/offline-run-*/*.wandb")
    content = record.read_bytes()
    for name in ("images_per_second", "lr", *NOTED, "widths"):
        assert name.encode() in content
    assert all(repr(loss).encode() in content for _, loss in written(tmp_path))
    (picture,) = record.parent.glob("files/media/images/*.jpg")
    assert close(np.asarray(Image.open(picture)))


def test_mlflow_has_curves_and_pictures_and_a_run_continues(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "masks")
    train(tmp_path, "mlflow")
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("masks").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params["resume"] == "False" and run.info.status == "FINISHED"
    curves = {"loss", "lr", "images_per_second", *NOTED}
    assert curves <= set(run.data.metrics)
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    train(tmp_path, "mlflow", resume=True)
    (run,) = client.search_runs([experiment])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert {(metric.step, metric.value) for metric in history} == set(written(tmp_path))
    (picture,) = (tmp_path / "mlruns").rglob("*reconstruction*.png")
    assert (np.asarray(Image.open(picture)) == PICTURE).all()


def test_a_full_disk_is_reported_once_and_does_not_stop_training(tmp_path, monkeypatch):
    """A limit of the file size stands in for a full disk; MMEngine's error names no file."""
    config = dict(type="xtra_toolkit.Visualizer", name=uuid.uuid4().hex, save_dir=str(tmp_path))
    built = VISUALIZERS.build(config)
    built.add_scalars(dict(loss=1.0), 1)
    said = []
    monkeypatch.setattr(module, "print_log", lambda text, **_: said.append(text))
    scalars = tmp_path / "vis_data" / "scalars.json"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (scalars.stat().st_size, before[1]))
    try:
        for step in (2, 3):
            built.add_scalars(dict(loss=1.0), step)
            built.add_scalar("loss", 1.0, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    built.add_scalars(dict(loss=0.5), 4)
    assert [json.loads(line)["step"] for line in scalars.read_text().splitlines()] == [1, 4]
    assert len(said) == 1 and f"{tmp_path}/vis_data: File too large" in said[0]
