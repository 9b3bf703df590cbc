"""OnlineProbe: honest curves, and a training that does not notice."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.builds import MASKS, arch
from helpers.processes import on_two
from helpers.tiny_runs import IMAGES, PIPELINE, build, flat, run
from helpers.watching import DDP, HALF, SAFE, Generators, curves, logged_lines
from mmengine.config import Config
from mmengine.hooks import Hook

from xtra_toolkit.data import Digits
from xtra_toolkit.data.classes import classes_of
from xtra_toolkit.evaluation.knn_vote import Bank, pooled_feature, vote
from xtra_toolkit.evaluation.online_head import OnlineHead
from xtra_toolkit.evaluation.rankme import rankme
from xtra_toolkit.hooks import OnlineProbe, SplitLoss

PLAIN = [dict(type="mmpretrain.ResizeEdge", scale=16), dict(type="mmpretrain.PackInputs")]
ROOT = Path(__file__).parents[2] / "mmconfigs"
NAMES = ("probe/train_top1", "probe/loss", "probe/linear_top1", "probe/knn_top1")
TEN_STEPS = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=2, global_batch=8)
VALIDATION = dict(
    val_dataloader=dict(
        dataset=Digits("test", indices=30, pipeline=PLAIN),
        sampler=dict(type="DefaultSampler", shuffle=False),
        batch_size=8,
        num_workers=0,
        collate_fn=dict(type="default_collate"),
    ),
    val_evaluator=dict(type="xtra_toolkit.PretrainLoss"),
)


def probe(**options):
    return dict(type="xtra_toolkit.OnlineProbe", **options)


def probed(folder, bank=30, k=5, **changes):
    """A run with the probe in each step and a validation; the runner and the probe."""
    hooks = dict(custom_hooks=[SAFE, probe(interval=1, bank=bank, k=k)])
    loop = dict(val_cfg=dict(type="xtra_toolkit.InferenceValLoop"))
    runner, _ = run(folder, "XTRA", **hooks | VALIDATION | loop | changes)
    return runner, hook_of(runner)


def hook_of(runner):
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, OnlineProbe)]
    return hook


@pytest.mark.parametrize(
    ("pair", "changes"), [("XTRA", {}), ("MAE", dict(optim_wrapper=HALF))], ids=["fp32", "bf16"]
)
def test_weights_and_losses_are_bit_identical_with_and_without(pair, changes, tmp_path):
    """With drop path, random crops and masks, accumulation, validation; 15 steps."""
    changes = changes | VALIDATION | dict(val_cfg=dict())
    watches = Generators(), Generators()
    hooks = [[SAFE, watches[0]], [SAFE, probe(interval=2), watches[1]]]
    (plain, one), (watched, other) = (
        run(tmp_path / str(i), pair, custom_hooks=own, **changes) for i, own in enumerate(hooks)
    )
    assert len(one.losses) == 15 and one.losses == other.losses and one.steps == other.steps
    for part in ("model", "optim_wrapper"):
        first, second = (flat(getattr(r, part).state_dict()) for r in (plain, watched))
        assert len(first) > 30 and first == second
    assert watches[0].states == watches[1].states
    assert all(curves(tmp_path / "1", "probe/knn_top1", "probe/rankme"))


class Easy(Digits):
    """Dark, bright, striped down or striped across, and a little noise."""

    METAINFO = {"classes": ("dark", "bright", "down", "across")}

    def get_data_info(self, index):
        info = dict(super().get_data_info(index))
        kind, stripes = info["gt_label"] % 4, np.tile([[20, 200]], (8, 4))
        image = [np.full((8, 8), 20), np.full((8, 8), 200), stripes, stripes.T][kind]
        info["img"] = (image[..., None] + info["img"] // 8).astype(np.uint8)
        return info | dict(gt_label=kind)


def test_what_is_separable_is_separated_and_the_curves_say_so(tmp_path):
    easy = Easy("train", indices=200, pipeline=PLAIN)
    val = dict(VALIDATION["val_dataloader"], dataset=Easy("test", indices=30, pipeline=PLAIN))
    hooks = dict(
        logger=dict(type="LoggerHook", interval=5),
        checkpoint=dict(type="CheckpointHook", interval=9, save_best="probe/linear_top1"),
    )
    backends = [dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")]
    runner, _ = run(
        tmp_path,
        "XTRA",
        dataset=easy,
        custom_hooks=[SAFE, probe(interval=1, bank=150)],
        default_hooks=hooks,
        batch_size=8,
        train_cfg=dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=4, global_batch=8),
        visualizer=dict(type="Visualizer", vis_backends=backends),
        **VALIDATION | dict(val_dataloader=val, val_cfg=dict()),
    )
    train, loss, linear, knn = curves(tmp_path, *NAMES)
    assert len(train) == 20 and len(linear) == 4
    assert train[0] < 90 and train[-1] > 95 and loss[-1] < 0.5 < loss[0]
    assert linear[-1] > 95 and knn[-1] > 95
    assert list(tmp_path.glob("best_probe_linear_top1_epoch_*.pth"))
    assert runner.message_hub.get_scalar("val/probe/linear_top1").current() == linear[-1]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = tmp_path.glob("*/vis_data/events*")
    board = EventAccumulator(str(events)).Reload()
    written = [[event.value for event in board.Scalars(name)] for name in NAMES]
    for mine, other in zip(written, (train, loss, linear, knn), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5)


def test_knn_and_rankme_are_those_of_the_same_features(tmp_path):
    """Bank and queries without augmentation, features made outside."""
    runner, hook = probed(tmp_path, train_cfg=TEN_STEPS)
    model = runner.model.eval()

    def features(split, indices):
        data = Digits(split, indices=indices, pipeline=PLAIN)
        images = torch.stack([sample["inputs"] for sample in data]).float()
        labels = torch.tensor([int(sample["data_samples"].gt_label) for sample in data])
        with torch.no_grad():
            return Bank(pooled_feature(model, (images - 77.8) / 95.9), labels)

    spread = torch.linspace(0, IMAGES - 1, 30).round().long().tolist()
    assert len(set(spread)) == 30
    bank, queries = features("train", spread), features("test", 30)
    unit = bank._replace(features=F.normalize(bank.features))
    votes = vote(F.normalize(queries.features), unit, 10, 5, 0.07).argmax(1)
    expected = 100 * (votes == queries.labels).double().mean()
    knn, rank = curves(tmp_path, "probe/knn_top1", "probe/rankme")
    assert knn[-1] == pytest.approx(float(expected)) and 5 < expected < 95
    assert rank[-1] == pytest.approx(rankme(bank.features), rel=1e-3) and 1 < rank[-1] < 30
    assert hook.validation.bank is None


def separable(images=60):
    labels, g = torch.arange(images) % 3, torch.Generator().manual_seed(0)
    noise = torch.randn(images, 4, generator=g)
    return noise + 9 * F.pad(F.one_hot(labels), (0, 1)), labels


def test_accuracy_is_of_the_head_before_it_learns():
    head, (features, labels) = OnlineHead(4, 3, lr=0.1), separable()
    right, loss, count = head.learn(features, labels).tolist()
    assert right == 20 and loss / count == pytest.approx(np.log(3), rel=1e-5)
    for _ in range(9):
        right, less, count = head.learn(features, labels).tolist()
    assert right == count == 60 and less < loss / 4
    assert head.learn(features, torch.full((60,), -1)).tolist() == [0, 0, 0]  # none counts
    moved = features + 50 * F.one_hot(torch.zeros_like(labels), 4)  # a fast encoder
    assert (head.classify(moved, moved) == labels).all()
    assert not (head.classify(moved) == labels).all()


def test_a_resumed_head_is_the_one_that_never_stopped(tmp_path):
    hooks = [SAFE, probe(interval=2)]
    whole, _ = run(tmp_path / "whole", "XTRA", custom_hooks=hooks)
    kept = str(tmp_path / "whole" / "iter_7.pth")
    rest, _ = run(tmp_path / "rest", "XTRA", custom_hooks=hooks, load_from=kept, resume=True)
    one, other = ({}, {})
    for runner, found in ((whole, one), (rest, other)):
        hook = hook_of(runner)
        found.update(flat(hook.head.saved()), recent=list(hook._recent))
        assert hook.head.norm.num_batches_tracked == 8  # steps 1, 2, 4, ... 14
    assert one == other and len(one["recent"]) == 8
    assert torch.load(kept, weights_only=True)["online_probe"]["head"]["linear.weight"].any()


def test_a_checkpoint_without_a_head_starts_one_anew_and_says_so(tmp_path):
    run(tmp_path / "whole", "XTRA")
    kept = str(tmp_path / "whole" / "iter_7.pth")
    options = dict(load_from=kept, resume=True, log_level="INFO")
    runner, _ = run(tmp_path / "rest", "XTRA", custom_hooks=[SAFE, probe(interval=2)], **options)
    assert logged_lines(tmp_path / "rest").count("holds no head for 24 values and 10 classes") == 1
    hook = hook_of(runner)
    assert hook.head.norm.num_batches_tracked == 4  # steps 8, 10, 12, 14


class Unlabelled(Digits):
    def get_data_info(self, index):
        info = dict(super().get_data_info(index))
        del info["gt_label"]
        return info


class Nameless(Digits):
    METAINFO = {}

    def get_gt_labels(self):
        raise KeyError("gt_label")


def Training(split, indices, pipeline):
    return Digits("train", indices=IMAGES, pipeline=pipeline)


def test_a_validation_before_the_first_look_of_a_resumed_run_has_its_figures(tmp_path):
    options = dict(custom_hooks=[SAFE, probe(interval=6, bank=30, k=5)], **VALIDATION)
    options |= dict(val_cfg=dict(), train_cfg=TEN_STEPS)
    run(tmp_path / "whole", "XTRA", **options)
    kept = str(tmp_path / "whole" / "iter_7.pth")
    run(tmp_path / "rest", "XTRA", load_from=kept, resume=True, **options)
    names = ("probe/linear_top1", "probe/knn_top1")
    whole, rest = (curves(tmp_path / name, *names) for name in ("whole", "rest"))
    assert rest == [values[1:] for values in whole] and len(rest[0]) == 1


class Metrics(Hook):
    """What each validation measured."""

    def __init__(self):
        self.losses = []

    def after_val_epoch(self, runner, metrics=None):
        self.losses.append(metrics["val/loss"])


def test_the_loss_of_a_validation_is_logged_and_no_mean_over_several(tmp_path):
    processor = Config.fromfile(ROOT / "_base_" / "runtime.py").log_processor
    options = dict(val_cfg=dict(), train_cfg=TEN_STEPS, log_processor=processor)
    run(tmp_path, "XTRA", custom_hooks=[SAFE, own := Metrics()], **VALIDATION | options)
    assert curves(tmp_path, "val/loss") == [own.losses] and len(set(own.losses)) == 2
    for key in ("loss", "time", "data_time", "grad_norm"):
        assert re.search(processor.mean_pattern, key)
    assert not re.search(processor.mean_pattern, "probe/loss")


class Other(Digits):
    """Labels of which the training knows none."""

    METAINFO = {}

    def get_data_info(self, index):
        info = dict(super().get_data_info(index))
        return info | dict(gt_label=info["gt_label"] + 10)


def test_a_validation_of_unknown_classes_counts_nothing_and_says_so(tmp_path):
    val = dict(VALIDATION["val_dataloader"], dataset=Other("test", indices=8, pipeline=PLAIN))
    probed(tmp_path, val_dataloader=val, train_cfg=TEN_STEPS, log_level="INFO")
    text = logged_lines(tmp_path)
    assert text.count("8 of 8 images of the validation do not count") == 1
    assert curves(tmp_path, "probe/linear_top1") == [[]]


def test_weights_that_a_run_begins_from_bring_no_head_and_no_curves(tmp_path):
    """Of load_from; another look's interval loses no resumed head."""
    hooks = [SAFE, probe(interval=1), dict(type="xtra_toolkit.SplitLoss", interval=1)]
    run(tmp_path / "first", "XTRA", custom_hooks=hooks, train_cfg=TEN_STEPS)
    kept = str(tmp_path / "first" / "iter_7.pth")
    options = dict(custom_hooks=hooks, train_cfg=TEN_STEPS, load_from=kept)
    anew, _ = run(tmp_path / "anew", "XTRA", **options)
    (split,) = [hook for hook in anew.hooks if isinstance(hook, SplitLoss)]
    assert split.steps == list(range(1, 11))
    assert hook_of(anew).head.norm.num_batches_tracked == 10
    options["custom_hooks"] = [SAFE, probe(interval=10)]
    rest, _ = run(tmp_path / "rest", "XTRA", resume=True, **options)
    assert hook_of(rest).head.norm.num_batches_tracked == 8


SENTENCES = {
    "no labels": (Unlabelled, {}, "the training images have no labels .*with_label=True"),
    "no number": (Nameless, {}, "Nameless names no classes, .*probe.num_classes"),
    "too few": (Digits, dict(num_classes=3), "has 3 classes, and there is a label [3-9]"),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_what_cannot_be_known_is_said_once(case, tmp_path):
    kind, options, sentence = SENTENCES[case]
    run(
        tmp_path,
        "XTRA",
        dataset=kind("train", indices=IMAGES, pipeline=PIPELINE),
        custom_hooks=[SAFE, probe(interval=1, **options)],
        train_cfg=TEN_STEPS,
    )
    text = logged_lines(tmp_path)
    assert len(re.findall("OnlineProbe", text)) == len(re.findall(sentence, text)) == 1
    assert bool(curves(tmp_path, "probe/loss")[0]) == (case == "too few")


def test_a_validation_that_cannot_be_compared_is_said_once(tmp_path):
    for name, kind, sentence in (
        ("a", Unlabelled, "does not validate: its images have no labels"),
        ("b", Easy, "have 10 classes and those of the validation 4, with other names"),
        ("c", Training, "its images are the training images"),
    ):
        val = dict(VALIDATION["val_dataloader"], dataset=kind("test", indices=8, pipeline=PLAIN))
        changes = dict(val_dataloader=val, train_cfg=TEN_STEPS, log_level="INFO")
        probed(tmp_path / name, **changes)
        assert logged_lines(tmp_path / name).count("OnlineProbe does") == 1
        assert sentence in logged_lines(tmp_path / name)
        assert curves(tmp_path / name, "probe/linear_top1") == [[]]


def test_classes_are_counted_where_they_have_no_names(tmp_path):
    class Counted(Digits):
        METAINFO = {}

    data = Counted("train", indices=IMAGES, pipeline=PIPELINE)
    _, hook = probed(tmp_path, dataset=data, train_cfg=TEN_STEPS)
    assert hook.head.linear.out_features == 10


def odd():
    data = Digits("test", indices=29, pipeline=PLAIN)
    return dict(val_dataloader=dict(VALIDATION["val_dataloader"], dataset=data))


def _learned(rank, folder):
    (features, labels), head = separable(), OnlineHead(4, 3)
    mine = slice(0, 20) if rank == 0 else slice(20, 40)
    sums = [head.learn(features[mine], labels[mine]).tolist() for _ in range(5)]
    _, hook = probed(folder / "two", bank=31, drop_path=0.0, **odd(), **DDP)
    states = head.state_dict(), hook.head.state_dict()
    return states, sums, curves(folder / "two", *NAMES) if rank == 0 else None


def test_two_processes_are_one_with_the_joint_batch(tmp_path):
    """The head; in a run also the figures, where shares are filled up (31, 29)."""
    (first, sums, figures), (second, others, _) = on_two(_learned, tmp_path)
    (features, labels), head = separable(), OnlineHead(4, 3)
    joint = [head.learn(features[:40], labels[:40]).tolist() for _ in range(5)]
    np.testing.assert_allclose(sums, joint, rtol=1e-5)
    assert sums == others and flat(first[0]) == flat(second[0])
    for name, value in head.state_dict().items():
        torch.testing.assert_close(first[0][name], value)

    assert flat(first[1]) == flat(second[1])
    _, hook = probed(tmp_path / "one", bank=31, drop_path=0.0, batch_size=8, **odd())
    joint = hook.head.state_dict()
    for name in ("norm.running_mean", "norm.running_var"):
        torch.testing.assert_close(first[1][name], joint[name], rtol=1e-4, atol=1e-6)
    # AdamW's first step is a sign, also of a gradient that is nearly nothing
    one = curves(tmp_path / "one", *NAMES)
    for mine, other, apart in zip(figures, one, (1.0, 0.01, 4.0, 1e-6), strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=apart)


def test_a_resumed_head_learns_at_the_rate_of_its_config(tmp_path):
    changes = dict(train_cfg=TEN_STEPS)
    run(tmp_path / "first", "XTRA", custom_hooks=[SAFE, probe(lr=0.01)], **changes)
    changes |= dict(load_from=str(tmp_path / "first" / "iter_7.pth"), resume=True)
    rest, _ = run(tmp_path / "rest", "XTRA", custom_hooks=[SAFE, probe(lr=0.02)], **changes)
    (group,) = hook_of(rest).head.optimizer.param_groups
    assert group["lr"] == 0.02


def test_save_best_by_the_probe_whose_interval_is_longer_than_an_epoch(tmp_path):
    hooks = dict(checkpoint=dict(type="CheckpointHook", interval=9, save_best="probe/knn_top1"))
    probed(
        tmp_path,
        custom_hooks=[SAFE, probe(interval=1000, bank=30, k=5)],
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1), **hooks),
        train_cfg=TEN_STEPS,
    )
    assert len(list(tmp_path.glob("best_probe_knn_top1_epoch_*.pth"))) == 1
    (knn, classes) = curves(tmp_path, "probe/knn_top1", "probe/classes")
    assert len(knn) == 2 and classes == [10, 10]


class Unnamed:
    """So many images without names of classes."""

    def __init__(self, images):
        self.images, self.read = images, 0

    def __len__(self):
        return self.images

    def get_gt_labels(self):
        self.read += 1
        return np.arange(7)


def test_the_labels_of_a_large_data_set_are_not_read():
    small, large = Unnamed(100_000), Unnamed(100_001)
    assert classes_of(small) == 7 and small.read == 1
    assert classes_of(large) is None and large.read == 0


def test_a_model_of_several_views_is_read_by_its_first(tmp_path):
    """MMPretrain's SimCLR, on two crops of each image."""
    views = dict(type="mmpretrain.MultiView", num_views=2, transforms=[PIPELINE[:2]])
    data = Digits("train", indices=IMAGES, pipeline=[views, PIPELINE[-1]])
    backbone = dict(type="xtra_toolkit.MaskedViT", arch=arch(24, 2, 2), img_size=16)
    backbone |= dict(patch_size=4, in_channels=1, out_type="avg_featmap", mask=MASKS["block"])
    linear = dict(type="LinearNeck", in_channels=24, out_channels=8)
    model = dict(
        type="mmpretrain.SimCLR",
        backbone=backbone,
        neck=linear,
        head=dict(type="mmpretrain.ContrastiveHead", loss=dict(type="mmpretrain.CrossEntropyLoss")),
        data_preprocessor=dict(
            type="mmpretrain.SelfSupDataPreprocessor", mean=[77.8], std=[95.9], to_rgb=False
        ),
    )
    options = dict(model=model, dataset=data, custom_hooks=[SAFE, probe(interval=1)])
    runner = build(tmp_path, "XTRA", train_cfg=TEN_STEPS, **options)
    runner.train()
    assert hook_of(runner).head.norm.num_batches_tracked == 10
    assert len(curves(tmp_path, "probe/train_top1")[0]) == 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("seen", [0, 2])
def test_features_that_are_not_finite_teach_nothing(bad, seen):
    """Before the first step of the head, too."""
    features, labels = separable()
    head, other = OnlineHead(4, 3, lr=0.1), OnlineHead(4, 3, lr=0.1)
    spoiled = features.clone()
    spoiled[7, 2] = bad
    for _ in range(seen):
        head.learn(features, labels), other.learn(features, labels)
    assert head.learn(spoiled, labels).tolist() == [0, 0, 0]
    for _ in range(3):
        assert torch.equal(head.learn(features, labels), other.learn(features, labels))
    assert flat(head.saved()) == flat(other.saved())


class Spoil(Hook):
    """Makes one batch NaN."""

    priority = "HIGHEST"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2:
            data_batch["inputs"] = data_batch["inputs"] * float("nan")


def test_a_batch_that_training_skips_is_skipped(tmp_path):
    stop = dict(type="xtra_toolkit.StopOnNonFiniteLoss", skips=2)
    hooks = [SAFE, stop, Spoil(), probe(interval=1, bank=30, k=5)]
    _, hook = probed(tmp_path, custom_hooks=hooks, train_cfg=TEN_STEPS)
    assert all(value.isfinite().all() for value in hook.head.state_dict().values())
    accuracies, losses, *_ = curves(tmp_path, *NAMES)
    assert np.isfinite(losses).all() and len(accuracies) == 10
    assert "No update of gradients that are not finite" in logged_lines(tmp_path)


def test_a_short_run_looks_at_each_step_and_gives_no_figure_before_twenty_looks(tmp_path):
    for name, epochs, figures in (("short", 2, 0), ("longer", 5, 6)):
        loop = dict(TEN_STEPS, max_epochs=epochs)
        hooks = dict(
            logger=dict(type="LoggerHook", interval=1), checkpoint=dict(type="CheckpointHook")
        )
        options = dict(train_cfg=loop, custom_hooks=[SAFE, probe()], default_hooks=hooks)
        runner, _ = run(tmp_path / name, "XTRA", **options)
        assert hook_of(runner).interval == 1
        (file,) = (tmp_path / name).glob("*/vis_data/scalars.json")
        lines = map(json.loads, file.read_text().splitlines())
        assert len([line for line in lines if "probe/train_top1" in line]) == figures
