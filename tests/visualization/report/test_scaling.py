"""Test the points of pretraining loss and accuracy, and their rank correlation."""

from collections import Counter

import pytest
from helpers import made_up_runs as made_up

from xtra_toolkit.visualization.report.facts import columns
from xtra_toolkit.visualization.report.runs import find_runs
from xtra_toolkit.visualization.report.scaling import (
    TRAINING,
    VALIDATION,
    Point,
    correlation,
    correlations,
    points,
)

ATTENTIVE = dict(
    type="mmpretrain.ImageClassifier",
    head=dict(type="xtra_toolkit.SweepHead", probe=dict(type="xtra_toolkit.AttentiveProbe")),
)


def read(*work_dirs):
    runs = find_runs(work_dirs)
    shown = columns([run for run in runs if run.pretrains])
    return shown, [run for run in runs if not run.pretrains]


def validated(accuracies, losses=None, name="probe/linear_top1"):
    """Make the records of an iteration and a validation for each epoch."""
    records = []
    for n, accuracy in enumerate(accuracies):
        records.append(made_up.step(100 * (n + 1), 1 - n / 10))
        metrics = {name: accuracy} | ({} if losses is None else {"val/loss": losses[n]})
        records.append(made_up.validation(n + 1, **metrics))
    return records


def probe(folder, checkpoint, accuracy, benchmark="Birds", epochs=(50, 100), **head):
    backbone = dict(
        type="xtra_toolkit.MaskedViT", frozen_stages=2, init_cfg=dict(checkpoint=str(checkpoint))
    )
    config = dict(
        benchmark=benchmark,
        model=ATTENTIVE | dict(backbone=backbone, head=ATTENTIVE["head"] | head),
        train_cfg=dict(max_epochs=epochs[-1]),
        resume=False,
    )
    records = [made_up.step(10, 2.0)]
    records += [made_up.validation(epoch, **{"accuracy/top1": accuracy}) for epoch in epochs]
    made_up.start(folder, config, records)


@pytest.mark.parametrize(
    ("losses", "accuracies", "expected"),
    [
        ([3, 2, 1], [10, 20, 90], "−1.000, n = 3"),
        ([1, 2, 3, 4], [10, 20, 40, 30], "+0.800, n = 4"),
        ([1, 1, 2], [10, 20, 30], "+0.866, n = 3"),  # tied losses share the mean of their ranks
        ([1, 2], [20, 10], "none, n = 2: too few points"),
        ([1, 1, 1], [10, 20, 30], "none, n = 3: all losses or all accuracies are equal"),
        ([1, 2, 3], [10, 10, 10], "none, n = 3: all losses or all accuracies are equal"),
    ],
)
def test_the_rank_correlation_shares_ranks_of_ties_and_may_be_undefined(
    losses, accuracies, expected
):
    pairs = zip(losses, accuracies, strict=True)
    found = [Point("top-1", "an objective", 0, 0, float(a), float(loss)) for loss, a in pairs]
    assert correlation(found) == expected


def test_a_point_is_the_loss_and_accuracy_of_a_validation(tmp_path):
    made_up.start(tmp_path, made_up.pretraining(), validated([10, 30, 20], [0.9, 0.5, 0.7]))
    found = points(*read(tmp_path))
    assert [(p.step, p.loss, p.accuracy) for p in found] == [
        (100, 0.9, 10),
        (200, 0.5, 30),
        (300, 0.7, 20),
    ]
    assert {p.loss_of for p in found} == {VALIDATION} and {p.measure for p in found} == {
        "birds, linear probe"
    }
    ((_, said, _),) = correlations(found, ["run"])
    assert said == "−1.000, n = 3; validation loss"


def test_the_training_loss_is_used_if_a_point_lacks_a_validation_loss(tmp_path):
    made_up.start(tmp_path / "a", made_up.pretraining(), validated([10, 30, 20]))
    made_up.start(tmp_path / "b", made_up.pretraining(), validated([10, 30, 20], [0.9, 0.5, 0.7]))
    found = points(*read(tmp_path))
    assert {p.loss_of for p in found} == {TRAINING} and len(found) == 6
    assert found[2].loss == pytest.approx(0.9)  # the mean of 1.0, 0.9, 0.8


def test_a_benchmark_of_a_checkpoint_is_a_point_of_its_pretraining_run(tmp_path):
    made_up.start(tmp_path / "xtra", made_up.pretraining(), validated([10, 20], [0.9, 0.7]))
    made_up.start(tmp_path / "aim", made_up.pretraining(made_up.TOKEN, "NextToken"))
    probe(tmp_path / "p1", tmp_path / "xtra" / "epoch_1.pth", 40.0)
    probe(tmp_path / "p2", "xtra/iter_200.pth", 60.0)  # the path as it was in training
    probe(tmp_path / "p3", tmp_path / "elsewhere" / "epoch_2.pth", 70.0)
    probe(tmp_path / "p4", tmp_path / "xtra" / "epoch_2.pth", 80.0, epochs=(50,))
    config = tmp_path / "p4" / "20250101_120000" / "vis_data" / "config.py"
    config.write_text(config.read_text().replace("50", "100"))  # 50 of 100 epochs: not finished
    shown, benchmarks = read(tmp_path)
    found = [p for p in points(shown, benchmarks) if p.measure == "Birds, attentive"]
    assert [(shown[p.run].name, p.step, p.loss, p.accuracy) for p in found] == [
        ("xtra", 100, 0.9, 40.0),
        ("xtra", 200, 0.7, 60.0),
    ]
    ((_, said, _),) = correlations(found, ["aim", "xtra"])
    assert said.startswith("none, n = 2: too few points")


def test_losses_of_different_objectives_are_not_ranked_together(tmp_path):
    for name, mask, target in (
        ("a", made_up.BLOCK, "NextBlock"),
        ("b", made_up.BLOCK, "NextBlock"),
        ("c", made_up.TOKEN, "NextToken"),
    ):
        records = validated([10, 20, 30, 40], [0.9, 0.8, 0.7, 0.6])
        made_up.start(tmp_path / name, made_up.pretraining(mask, target), records)
    said = correlations(points(*read(tmp_path)), ["a", "b", "c"])
    assert [(what.split(",")[0], words) for what, words, inner in said[:-1] if not inner] == [
        ("BlockCausal(block_size=2) × NextBlock", "−1.000, n = 8; validation loss"),
        ("TokenCausal × NextToken", "−1.000, n = 4; validation loss"),
    ]
    assert said[-1][0] == "all objectives" and said[-1][1].startswith("none")
    assert [what for what, _, inner in said if inner] == ["a", "b", "the last points of these runs"]


@pytest.mark.parametrize(
    "other", [dict(head=dict(loss="l1")), dict(backbone=dict(patch_size=8, img_size=32))]
)
def test_another_loss_or_grid_is_another_objective(tmp_path, other):
    made_up.start(tmp_path / "a", made_up.pretraining(), validated([10], [0.9]))
    config = made_up.pretraining()
    config["model"].update(other)
    made_up.start(tmp_path / "b", config, validated([10], [0.9]))
    assert len({p.objective for p in points(*read(tmp_path))}) == 2


def test_values_that_are_not_finite_make_no_point(tmp_path):
    records = validated([10, float("nan"), 30], [float("nan"), 0.8, 0.7])
    made_up.start(tmp_path, made_up.pretraining(), records)
    found = points(*read(tmp_path))
    assert [(p.step, p.loss_of) for p in found] == [(100, TRAINING), (300, TRAINING)]


def test_accuracies_with_different_numbers_of_classes_are_not_pooled(tmp_path):
    for name, classes in (("a", 10), ("b", 10), ("c", 1000)):
        records = validated([10, 20], [0.9, 0.8])
        records = [r | {"probe/classes": classes} if "val/loss" in r else r for r in records]
        made_up.start(tmp_path / name, made_up.pretraining(), records)
        checkpoint = tmp_path / name / "epoch_1.pth"
        probe(tmp_path / f"of_{name}", checkpoint, 40.0, num_classes=classes)
    measures = Counter(p.measure for p in points(*read(tmp_path)))
    assert measures == {
        "birds, linear probe, 10 classes": 4,
        "birds, linear probe, 1000 classes": 2,
        "Birds, attentive, 10 classes": 2,
        "Birds, attentive, 1000 classes": 1,
    }
