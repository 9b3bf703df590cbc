"""Test that an iteration is a global batch, whatever the micro-batches are."""

import uuid

import pytest
import torch
from helpers.processes import on_two
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from xtra_toolkit.data import SeededSamples
from xtra_toolkit.engine.accumulation import accumulation_of


class Plain(Dataset):
    """Give 44 noisy vectors; the noise plays the part of augmentation."""

    metainfo = {}

    def __len__(self):
        return 44

    def __getitem__(self, index):
        return {"x": torch.eye(4)[index % 4] + 0.1 * torch.randn(4), "index": index}


class Noisy(SeededSamples, Plain):
    pass


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        nn.init.eye_(self.layer.weight)

    def forward(self, x, index, mode="tensor"):
        if mode == "predict":
            return [self.layer(x)]
        return {"loss": (self.layer(x) - x.flip(-1)).square().mean(), "index": index.float()}


class Record(Hook):
    """Record the learning rate, the logs and the place of each iteration."""

    priority = "ABOVE_NORMAL"

    def __init__(self):
        self.rates, self.losses, self.steps = [], [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.rates.append(runner.optim_wrapper.get_lr()["lr"][0])
        self.losses.append({key: float(value) for key, value in outputs.items()})
        self.steps.append((runner.epoch, batch_idx, runner.iter))


def build(folder, batch_size=8, epochs=3, **changes):
    torch.manual_seed(0)
    config = dict(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=dict(dataset=Noisy(), batch_size=batch_size, num_workers=0),
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=epochs, global_batch=8),
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, end=4, by_epoch=False),
            dict(type="CosineAnnealingLR", by_epoch=True, begin=1, convert_to_iter_based=True),
        ],
        randomness=dict(seed=3),
        custom_hooks=[Record(), dict(type="xtra_toolkit.SafeResume")],
        experiment_name=uuid.uuid4().hex,  # runners of one name share a message hub
        log_level="INFO",
    )
    config["train_dataloader"]["collate_fn"] = dict(type="default_collate")
    for name, change in changes.items():
        merges = isinstance(change, dict) and name in config
        config[name] = {**config[name], **change} if merges else change
    return Runner(**config)


def train(folder, **changes):
    """Train a runner; return its weights in one vector and what its Record has recorded."""
    runner = build(folder, **changes)
    model = runner.train()
    weights = torch.cat([param.detach().flatten() for param in model.parameters()])
    return weights, next(hook for hook in runner.hooks if isinstance(hook, Record)), runner


def test_accumulation_changes_no_weight(tmp_path):
    weights, whole, runner = train(tmp_path / "whole")
    assert runner.iter == runner.max_iters == 15  # 44 // 8 steps, 3 epochs
    assert len(set(whole.rates)) > 10
    for batch_size in (4, 2, 1):
        others, parts, runner = train(tmp_path / str(batch_size), batch_size=batch_size)
        assert torch.allclose(others, weights, atol=1e-6, rtol=0)
        assert parts.rates == whole.rates
        assert parts.steps == whole.steps
        assert runner.max_iters == 15 and len(runner.train_dataloader) == 5
        for part, one in zip(parts.losses, whole.losses, strict=True):
            assert part == pytest.approx(one, abs=1e-5)


def test_the_optimizer_steps_once_in_each_iteration(tmp_path):
    _, record, runner = train(tmp_path, batch_size=2)
    (state,) = {int(s["step"]) for s in runner.optim_wrapper.optimizer.state.values()}
    assert state == len(record.steps) == 15


def test_micro_batches_are_loaded_one_by_one(tmp_path):
    events = []

    class Loud(Noisy):
        def __getitem__(self, key):
            events.append("sample")
            return super().__getitem__(key)

    runner = build(tmp_path, batch_size=4, epochs=2, train_dataloader=dict(dataset=Loud()))
    runner.model.register_forward_hook(lambda *_: events.append("forward"))
    runner.train()
    assert events[:10] == (["sample"] * 4 + ["forward"]) * 2


def test_one_line_states_batches_steps_and_rates(tmp_path):
    train(tmp_path, batch_size=2)
    (log,) = tmp_path.rglob("*.log")
    line = (
        "8 images a step = 1 process x 2 images x 4 accumulated; 5 steps an epoch, "
        "3 epochs; learning rate 0.01 (AdamW)"
    )
    assert line in log.read_text()


def test_validation_and_intervals_count_iterations_and_epochs(tmp_path):
    calls = []

    class Count(Hook):
        def after_val_epoch(self, runner, metrics=None):
            calls.append(runner.epoch)

    loader = dict(dataset=Plain(), batch_size=4, sampler=dict(type="DefaultSampler"))
    runner = build(
        tmp_path,
        batch_size=2,
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=4, by_epoch=False)),
        custom_hooks=[Count(), dict(type="xtra_toolkit.SafeResume")],
        train_cfg=dict(max_epochs=3, val_interval=2),
        val_dataloader={**loader, "collate_fn": dict(type="default_collate")},
        val_cfg=dict(),
        val_evaluator=[dict(type="DumpResults", out_file_path=str(tmp_path / "val.pkl"))],
    )
    runner.train()
    assert calls == [2, 3]
    saved = {path.name for path in tmp_path.glob("iter_*.pth")}
    assert saved == {"iter_4.pth", "iter_8.pth", "iter_12.pth", "iter_15.pth"}


@pytest.mark.parametrize(
    ("unit", "interval", "done"), [("epoch", 2, 10), ("iter", 7, 7), ("iter", 5, 5)]
)
def test_a_resumed_run_ends_like_an_uninterrupted_run(tmp_path, unit, interval, done, monkeypatch):
    """Resume also within an epoch and at its last step, and with a seed that was drawn."""
    monkeypatch.delenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", raising=False)
    checkpoint = dict(type="CheckpointHook", interval=interval, by_epoch=unit == "epoch")
    options = dict(
        batch_size=2, randomness=dict(seed=None), default_hooks=dict(checkpoint=checkpoint)
    )
    weights, whole, first = train(tmp_path, **options)
    kept = str(tmp_path / f"{unit}_{interval}.pth")
    others, rest, second = train(tmp_path, load_from=kept, resume=True, **options)
    assert rest.steps == whole.steps[done:]
    assert rest.rates == whole.rates[done:]
    assert rest.losses == whole.losses[done:]
    assert torch.equal(others, weights)
    assert second.train_dataloader.sampler.seed == first.train_dataloader.sampler.seed


def test_resuming_with_another_global_batch_is_refused(tmp_path):
    train(tmp_path, epochs=2)
    with pytest.raises(ValueError, match=r"in epoch 2 after 10 steps, but an epoch has 11 steps"):
        train(tmp_path, batch_size=2, resume=True, train_cfg=dict(global_batch=4))


def test_resuming_in_the_first_epoch_with_another_global_batch_is_refused(tmp_path):
    checkpoint = dict(type="CheckpointHook", interval=2, by_epoch=False)
    train(tmp_path, epochs=2, default_hooks=dict(checkpoint=checkpoint))
    kept = dict(load_from=str(tmp_path / "iter_2.pth"), resume=True)
    with pytest.raises(ValueError, match=r"44 images .* of 8, and here .* of 4: the steps would"):
        train(tmp_path, batch_size=2, train_cfg=dict(global_batch=4), **kept)


def test_a_global_batch_that_does_not_divide_is_refused():
    assert accumulation_of(2048, 1, 64) == 32 and accumulation_of(2048, 8, 256) == 1
    with pytest.raises(
        ValueError, match=r"=24 is not a multiple of 2 .* x 5 .*1, 2, 3, 4, 6, 12\."
    ):
        accumulation_of(24, 2, 5)
    with pytest.raises(ValueError, match=r"=8 is not a multiple of 2 .* x 8 .*divide: 1, 2, 4\."):
        accumulation_of(8, 2, 8)
    with pytest.raises(ValueError, match=r"among 72 processes.*global batch of 2016"):
        accumulation_of(2048, 72, 4)


STOCK = dict(type="DefaultSampler", shuffle=True)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (dict(batch_size=3), r"=8 is not a multiple of 1 .* x 3 .*divide: 1, 2, 4, 8"),
        (dict(train_dataloader=dict(sampler=STOCK)), r"DefaultSampler.*GlobalBatchSampler"),
        (dict(train_dataloader=dict(batch_sampler=STOCK)), r"and no batch_sampler"),
        (
            dict(train_dataloader=dict(dataset=Plain())),
            r"Plain does not accept keys.*SeededSamples",
        ),
        (dict(optim_wrapper=dict(accumulative_counts=2)), r"accumulative_counts=2 was given"),
        (dict(auto_scale_lr=dict(enable=True, base_batch_size=8)), r"auto_scale_lr\.enable=False"),
        (dict(train_cfg=dict(global_batch=64)), r"44 images were found, and a global batch"),
    ],
)
def test_configs_that_would_count_wrongly_are_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train(tmp_path, **changes)


def _train(rank, folder):
    wrapper = dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None))
    weights, record, _ = train(folder, batch_size=2, launcher="pytorch", cfg=wrapper)
    return weights, record.steps, record.losses


def test_two_processes_train_like_one(tmp_path):
    weights, whole, _ = train(tmp_path / "whole")
    for others, steps, losses in on_two(_train, tmp_path):
        assert torch.allclose(others, weights, atol=1e-6, rtol=0)
        assert steps == whole.steps
        for part, one in zip(losses, whole.losses, strict=True):
            assert part == pytest.approx(one, abs=1e-5)


def test_a_run_stopped_by_max_iters_resumes_like_an_uninterrupted_run(tmp_path):
    saver = dict(checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook"))

    def losses(name, max_iters=None, **changes):
        loop = dict(max_iters=max_iters)
        runner = build(tmp_path / name, train_cfg=loop, default_hooks=saver, **changes)
        runner.train()
        return next(hook for hook in runner.hooks if isinstance(hook, Record)).losses

    whole = losses("whole")
    steps = len(whole) // 3
    first = losses("part", steps + 2)
    assert first == whole[: steps + 2]
    assert (tmp_path / "part" / f"epoch_1_iter_{steps + 2}.pth").is_file()
    assert not (tmp_path / "part" / "epoch_2.pth").exists()
    assert first + losses("part", resume=True) == whole
    with pytest.raises(ValueError, match=r"train_cfg\.max_iters=0 was given"):
        losses("none", 0)


LONG = [
    dict(type="LinearLR", start_factor=0.1, end=15, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", begin=15, end=20, convert_to_iter_based=True),
]


def test_a_run_that_would_end_within_its_warm_up_shrinks_the_schedule(tmp_path):
    runner = build(tmp_path, epochs=10, param_scheduler=LONG)
    runner.train()
    rates = next(hook for hook in runner.hooks if isinstance(hook, Record)).rates
    assert max(rates) == pytest.approx(0.01) and rates[-1] < 0.005 and rates[0] < 0.002


def test_a_schedule_whose_parts_all_begin_is_left_alone():
    from xtra_toolkit.engine.schedule import in_shares

    assert in_shares(LONG, 16) is None and in_shares(None, 1) is None
    assert [part["end"] for part in in_shares(LONG, 4)] == [3, 4]
    assert in_shares(LONG, 4)[1]["begin"] == 3 and LONG[0]["end"] == 15


@pytest.mark.parametrize("run", [1, 2, 3, 5])
def test_a_run_of_a_few_steps_shrinks_the_schedule_without_an_error(run):
    from mmengine.registry import PARAM_SCHEDULERS

    from xtra_toolkit.engine.schedule import in_shares

    parts = [LONG[0] | dict(end=2), LONG[1] | dict(begin=2)]
    for steps in range(run, 200):  # of an epoch; 1 / 49 * 49 is less than 1 in floating point
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        schedule, rates = [], []
        for part in in_shares(parts, run / steps, steps):
            default = dict(optimizer=optimizer, epoch_length=steps)
            schedule.append(PARAM_SCHEDULERS.build(part, default_args=default))
        for _ in range(run):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            for scheduler in schedule:
                scheduler.step()
        assert max(rates) == 1, f"the rate stays low in {run} of {steps} steps: {rates}"


def test_a_misspelt_section_is_refused_and_other_names_are_accepted():
    from xtra_toolkit.engine.loop_checks import refuse_misspelt_sections

    refuse_misspelt_sections(dict(bank_dataloader={}, optim_wrapper={}, xavier=[], val_loss={}))
    refuse_misspelt_sections(dict(train_loader=dict(batch_size=1)))  # as in the benchmarks
    with pytest.raises(ValueError, match=r"'optimizer_wrapper'.* Did you mean optim_wrapper"):
        refuse_misspelt_sections(dict(optimizer_wrapper=dict(optimizer=dict(lr=1))))
