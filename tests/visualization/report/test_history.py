"""Test that the starts of a run are joined, on synthetic working folders."""

import math

import numpy as np
import pytest
from helpers import made_up_runs as made_up

from xtra_toolkit.visualization.report.facts import columns, names, rate, state, steps, table
from xtra_toolkit.visualization.report.history import read_history
from xtra_toolkit.visualization.report.runs import find_runs

LATER = "20250102_120000"


def only(work_dir):
    (column,) = columns(find_runs([work_dir]))
    return column


def words(column):
    return {name: values[0] for name, values in table([column], {})}


def test_a_validation_s_epoch_becomes_the_iteration_it_followed(tmp_path):
    records = [made_up.step(10, 0.9), made_up.validation(1, **{"val/loss": 0.8})]
    made_up.start(tmp_path, made_up.pretraining(), records, epoch_steps=37)
    history = only(tmp_path).history
    assert history.validation == {37: {"val/loss": 0.8}}
    assert history.training[10]["loss"] == 0.9 and history.training[10]["time"] == 0.25


def test_without_a_log_an_epoch_ends_at_its_last_logged_iteration(tmp_path):
    records = [made_up.step(n, 0.9) for n in (50, 90, 110, 190)]
    records += [made_up.validation(1, **{"accuracy/top1": 5.0})]
    folder = made_up.start(tmp_path, made_up.pretraining(), records)
    (folder / f"{folder.name}.log").unlink()
    assert list(only(tmp_path).history.validation) == [90]


def test_a_validation_counted_in_iterations_stays(tmp_path):
    config = made_up.pretraining(
        default_hooks=dict(logger=dict(type="LoggerHook", log_metric_by_epoch=False))
    )
    made_up.start(tmp_path, config, [made_up.validation(7, **{"val/loss": 0.8})])
    assert list(only(tmp_path).history.validation) == [7]


def test_values_of_hooks_are_recorded_at_their_iteration(tmp_path):
    records = [made_up.step(10, 0.9), {"loss_step/0": 1.5, "probe/loss": 2.0, "step": 10}]
    made_up.start(tmp_path, made_up.pretraining(), records)
    history = only(tmp_path).history
    assert history.training[10]["loss"] == 0.9 and history.training[10]["loss_step/0"] == 1.5
    assert not history.validation


def test_a_resumed_start_replaces_what_came_after_its_checkpoint(tmp_path):
    config = made_up.pretraining()
    first = [made_up.step(n, 1.0) for n in range(10, 301, 10)]
    first += [made_up.validation(n, **{"val/loss": 1.0}) for n in (1, 2, 3)]
    folder = made_up.start(tmp_path, config, first)
    made_up.pictures(folder, (100, 200, 300))
    second = [made_up.step(n, 0.5) for n in (210, 220)]
    again = made_up.start(tmp_path, config | dict(resume=True), second, time=LATER)
    made_up.pictures(again, (200,))
    column = only(tmp_path)
    at, losses = column.history.series("loss")
    assert at.tolist() == [
        *range(10, 201, 10),
        210,
        220,
    ]  # without 230 to 300
    assert losses.tolist() == [1.0] * 20 + [0.5] * 2
    assert list(column.history.validation) == [100, 200]
    pictures = column.history.pictures["reconstruction"]
    assert {step: path.parts[-4] for step, path in pictures.items()} == {
        100: "20250101_120000",
        200: LATER,
    }
    assert words(column)["started"] == "2025-01-01 12:00:00, resumed 1 time"
    assert words(column)["logged up to step"] == "220 of 1,000"


def test_a_start_without_a_log_drops_nothing(tmp_path):
    config = made_up.pretraining()
    made_up.start(tmp_path, config, [made_up.step(10, 1.0)])
    made_up.start(tmp_path, config | dict(resume=True), time=LATER)
    assert only(tmp_path).history.step == 10


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    folder = made_up.start(tmp_path, made_up.pretraining(), [made_up.step(10, 1.0)])
    with open(folder / "vis_data" / "scalars.json", "a") as file:
        file.write('{"loss": 0.')
    assert only(tmp_path).history.step == 10


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (1000, "finished"),
        (995, "at its end, whose last steps are not logged"),
        (990, "not finished"),
        (0, "no step in its log"),
    ],
)
def test_a_run_is_finished_at_its_last_logged_line(tmp_path, last, said):
    records = [made_up.step(last, 0.5)] if last else []
    made_up.start(tmp_path, made_up.pretraining(), records)
    assert state(only(tmp_path)) == said


def test_a_loss_that_is_not_finite_is_reported(tmp_path):
    records = [made_up.step(10, 1.0), made_up.step(20, math.nan), made_up.step(30, math.inf)]
    made_up.start(tmp_path, made_up.pretraining(), records)
    assert state(only(tmp_path)) == "loss not finite after step 10"


def test_rates_are_the_images_of_a_step_by_its_seconds(tmp_path):
    made_up.start(tmp_path, made_up.pretraining(), [made_up.step(10, 1.0, time=0.5)])
    column = only(tmp_path)
    assert column.rates()[1].tolist() == [128.0] and rate(column) == "128"
    assert words(column)["peak GPU memory"] == "20.0 GiB"


def test_logged_rates_are_used_unchanged(tmp_path):
    records = [made_up.step(10, 1.0, images_per_second=77.0)]
    made_up.start(tmp_path, made_up.pretraining(), records)
    assert rate(only(tmp_path)) == "77"


def test_without_a_global_batch_the_processes_of_the_log_count(tmp_path):
    config = made_up.pretraining(train_cfg=dict(type="mmengine.EpochBasedTrainLoop", max_epochs=10))
    made_up.start(tmp_path, config, [made_up.step(10, 1.0)])
    assert only(tmp_path).batch == 64  # 32 on each of 2


def test_missing_validation_and_memory_are_reported(tmp_path):
    record = {k: v for k, v in made_up.step(10, 1.0).items() if k != "memory"}
    made_up.start(tmp_path, made_up.pretraining(), [record])
    said = words(only(tmp_path))
    assert said["validation loss"] == "not logged"
    assert said["peak GPU memory"] == "not logged, which needs CUDA"


def test_versions_are_read_from_the_log_and_a_change_is_marked(tmp_path):
    config = made_up.pretraining()
    made_up.start(tmp_path, config, [made_up.step(10, 1.0)])
    again = dict(time=LATER, PyTorch="2.11.0")
    made_up.start(tmp_path, config | dict(resume=True), [made_up.step(20, 1.0)], **again)
    versions = only(tmp_path).versions
    assert versions["PyTorch"] == "2.10.0+cu128 → 2.11.0" and versions["MMEngine"] == "0.10.7"
    assert versions["GPU 0"].startswith("NVIDIA H100") and versions["seed"] == "0"
    assert not {"PyTorch compiling details", "mp_cfg"} & set(versions)


def test_names_are_as_short_as_they_can_be(tmp_path):
    one, two = tmp_path / "a" / "xtra" / "t1", tmp_path / "b" / "xtra" / "t1"
    assert names([one, tmp_path / "a" / "aim" / "t1"]) == ["xtra", "aim"]
    assert names([one, two]) == ["a/xtra", "b/xtra"]
    assert names([one, one.with_name("t2")]) == ["xtra, t1", "xtra, t2"]


def test_a_whole_run_is_read(tmp_path):
    made_up.start(tmp_path, made_up.pretraining(), made_up.training())
    (run,) = find_runs([tmp_path])
    history = read_history(run)
    assert len(history.series("loss")[0]) == 100 and len(history.series("val/loss")[0]) == 10
    assert history.series("nothing")[0].tolist() == [] and history.last("nothing") is None
    assert np.isfinite(history.series("probe/linear_top1")[1]).all() and steps(only(tmp_path))


def test_pictures_are_found_in_either_format(tmp_path):
    folder = made_up.start(tmp_path, made_up.pretraining(), [made_up.step(10, 1.0)])
    made_up.pictures(folder, [2])
    made_up.pictures(folder, [4], suffix="jpg")
    (run,) = find_runs([tmp_path])
    assert list(read_history(run).pictures["reconstruction"]) == [2, 4]
