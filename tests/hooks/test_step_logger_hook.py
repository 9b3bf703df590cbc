"""StepLogger: the interval counts the updates of a run, whatever the length of an epoch."""

from helpers.tiny_runs import PIPELINE, logged, run

from xtra_toolkit.data import Digits

SAVE = dict(type="CheckpointHook", interval=3, by_epoch=False)


def steps(folder, images=8, kind="xtra_toolkit.StepLogger", **changes):
    """The logged steps of a run of 10 epochs, of one step each by default."""
    run(
        folder,
        "XTRA",
        dataset=Digits("train", indices=images, pipeline=PIPELINE),
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=10, global_batch=8),
        default_hooks=dict(logger=dict(type=kind, interval=4), checkpoint=SAVE),
        **changes,
    )
    return list(logged(folder))


def test_a_run_of_one_step_an_epoch_logs_every_fourth_and_the_last(tmp_path):
    assert steps(tmp_path / "own") == [4, 8, 10]
    assert steps(tmp_path / "mmengine", kind="LoggerHook") == list(range(1, 11))
    rest = dict(load_from=str(tmp_path / "own" / "iter_6.pth"), resume=True)
    assert steps(tmp_path / "rest", **rest) == [8, 10]


def test_epochs_do_not_begin_the_count_anew(tmp_path):
    assert steps(tmp_path, images=24) == [*range(4, 31, 4), 30]
