"""Test that the interval of StepLogger counts the updates of a run, not those of an epoch."""

from helpers.tiny_runs import PIPELINE, logged, run

from xtra_toolkit.data import Digits

SAVE = dict(type="CheckpointHook", interval=3, by_epoch=False)


def steps(folder, images=8, kind="xtra_toolkit.StepLogger", **changes):
    """Return the logged steps of a run of 10 epochs, of one step each by default."""
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


def test_the_count_continues_over_epochs(tmp_path):
    assert steps(tmp_path, images=24) == [*range(4, 31, 4), 30]


def test_lines_of_a_running_validation_show_no_earlier_result(tmp_path):
    val = dict(
        val_dataloader=dict(
            dataset=Digits("test", indices=12, pipeline=PIPELINE),
            batch_size=4,
            num_workers=0,
            collate_fn=dict(type="default_collate"),
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        val_evaluator=dict(type="xtra_toolkit.PretrainLoss"),
        val_cfg=dict(),
    )
    dataset = Digits("train", indices=8, pipeline=PIPELINE)
    loop = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=2, global_batch=8, val_interval=1)
    logger = dict(type="xtra_toolkit.StepLogger", interval=1)
    hooks = dict(logger=logger, checkpoint=SAVE)
    changes = dict(train_cfg=loop, default_hooks=hooks, log_level="INFO", **val)
    run(tmp_path, "XTRA", dataset=dataset, **changes)
    (file,) = tmp_path.glob("*/*.log")
    lines = [line for line in file.read_text().splitlines() if "Epoch(val)" in line]
    assert len(lines) == 2 * 3  # two before the last batch, and the results
    assert ["val/loss" in line for line in lines] == [False, False, True] * 2


def test_the_table_of_hooks_and_the_options_of_parameters_are_for_the_file(tmp_path, capsys):
    adam = dict(type="AdamW", lr=1e-3, weight_decay=0.05)
    wrapper = dict(optimizer=adam, paramwise_cfg=dict(norm_decay_mult=0.0))
    steps(tmp_path, log_level="INFO", optim_wrapper=wrapper)
    (log,) = tmp_path.glob("*/*.log")
    file, console = log.read_text(), capsys.readouterr()
    assert "Epoch(train)" in console.out + console.err
    for noise in ("Hooks will be executed", "paramwise_options"):
        assert noise in file and noise not in console.out + console.err
