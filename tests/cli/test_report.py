"""Test that ``xtra report`` puts made-up work folders into the paper's table."""

import copy
import csv
import functools
import json
from pathlib import Path

import pytest
from helpers import commands
from helpers import made_up_runs as made_up
from mmengine.config import Config

from xtra_toolkit.visualization.report.paper import BENCHMARKS, REPORTED

ROOT = Path(__file__).parents[2] / "mmconfigs" / "benchmarks"


@functools.cache
def shipped(name):
    return Config.fromfile(ROOT / name)


def xtra(*args):
    result = commands.xtra("report", *args)
    return result.exit_code, result.output


def run(work_dir, accuracies, config="attentive/dtd.py", time="20250101_120000", **options):
    """Write a work folder as MMEngine does, with a validation every 50 of 100 epochs."""
    folder = work_dir / time / "vis_data"
    folder.mkdir(parents=True)
    config = copy.deepcopy(shipped(config))
    config.model.backbone.init_cfg.checkpoint = "xtra_b.pth"
    config.merge_from_dict(options)
    keys = ("benchmark", "model", "train_cfg", "load_from", "resume")
    text = "".join(f"{key} = {config._cfg_dict.to_dict().get(key)!r}\n" for key in keys)
    (folder / "config.py").write_text(text)  # as MMEngine's dump, which is slow to format
    lines = [{"lr": 1e-3, "loss": 2.0, "epoch": 1, "step": 10}]
    for epoch, accuracy in accuracies.items():
        values = {"accuracy/top1": accuracy, "accuracy/best_lr": 2e-3, "step": epoch}
        lines.append(values | {"accuracy/top1_lr_1e-3": 1.0})
    (folder / "scalars.json").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def table(output):
    """Return the rows of the Markdown table, each a dictionary by column."""
    lines = [line for line in output.splitlines() if line.startswith("|")]
    if not lines:
        return []
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def own(output):
    return [row for row in table(output) if not row["model"].startswith("paper")]


def test_a_run_becomes_a_cell_named_by_its_checkpoint_and_protocol(tmp_path):
    run(tmp_path, {50: 70.0, 100: 72.26})
    code, output = xtra(tmp_path)
    assert code == 0
    (row,) = own(output)
    assert row["model"] == "xtra_b.pth"  # whose sizes are those of the checkpoint
    assert row["protocol"] == "attentive" and row["DTD"] == "72.3"
    assert row["mean of 15"] == "1 of 15" and "ImageNet-1k" not in row
    assert "- DTD, attentive: 72.26 % after 100 of 100, learning rate 0.002" in output
    assert str(tmp_path / "20250101_120000") in output


def test_the_columns_are_the_data_sets_of_the_configs():
    names = {shipped(f"attentive/{p.name}").benchmark for p in ROOT.glob("attentive/*.py")}
    assert names == set(BENCHMARKS) and len(BENCHMARKS) == 15


def test_the_mean_is_given_only_for_all_15_data_sets(tmp_path):
    shipped = [p for p in sorted(ROOT.glob("attentive/*.py")) if "imagenet_" not in p.name]
    for i, path in enumerate(shipped):
        run(tmp_path / path.stem, {100: 60.0 + i}, f"attentive/{path.name}")
    output = xtra(tmp_path)[1]
    (row,) = own(output)
    assert row["mean of 15"] == "67.0"  # of 60, 61, ..., 74
    assert len(table(output)) == 1 + len(REPORTED)  # those with a mean only too
    run(tmp_path / "again", {100: 60.0}, "attentive/pets.py")
    assert own(xtra(tmp_path)[1])[0]["mean of 15"] == "several runs of Pets"


def test_two_runs_of_a_cell_are_both_shown(tmp_path):
    run(tmp_path / "a", {100: 71.0})
    run(tmp_path / "b", {100: 73.0})
    (row,) = own(xtra(tmp_path / "a", tmp_path / "b")[1])
    assert row["DTD"] == "71.0 / 73.0"
    run(tmp_path / "b", {100: 75.0}, time="20250102_120000")  # into the same folder, not resumed
    assert own(xtra(tmp_path)[1])[0]["DTD"] == "71.0 / 73.0 / 75.0"


def test_a_folder_named_twice_is_one_run(tmp_path):
    run(tmp_path / "a", {100: 71.0})
    assert own(xtra(tmp_path, tmp_path / "a")[1])[0]["DTD"] == "71.0"


def test_a_shorter_protocol_has_a_separate_row(tmp_path):
    run(tmp_path / "a", {100: 72.0})
    run(tmp_path / "b", {2: 33.0}, **{"train_cfg.max_epochs": 2})
    rows = own(xtra(tmp_path)[1])
    assert [(r["protocol"], r["DTD"]) for r in rows] == [
        ("attentive", "72.0"),
        ("attentive, 2 of 100 epochs", "33.0"),
    ]


def test_a_test_between_two_starts_does_not_break_a_resumed_run(tmp_path):
    run(tmp_path, {50: 70.0})
    run(tmp_path, {}, time="20250101_180000")
    log = tmp_path / "20250101_180000" / "vis_data" / "scalars.json"
    log.write_text('{"accuracy/top1": 70.0, "step": 0}\n')
    run(tmp_path, {100: 72.0}, time="20250102_120000", resume=True)
    (row,) = own(xtra(tmp_path)[1])
    assert row["DTD"] == "72.0"


def test_a_resumed_run_is_one_run(tmp_path):
    run(tmp_path, {50: 70.0})
    run(tmp_path, {100: 72.0}, time="20250102_120000", resume=True)
    output = xtra(tmp_path)[1]
    assert own(output)[0]["DTD"] == "72.0" and "Unfinished" not in output


def test_unfinished_runs_are_listed_and_kept_out_of_the_table(tmp_path):
    run(tmp_path / "a", {})
    run(tmp_path / "b", {50: 70.0}, "attentive/pets.py")
    output = xtra(tmp_path)[1]
    assert not own(output)
    _, listed = output.split("Unfinished, not in the table:")
    assert "- DTD, attentive: no accuracy in its log" in listed
    assert "- Pets, attentive: 70.00 % after 50 of 100" in listed


def test_another_mask_protocol_or_encoder_has_a_separate_row(tmp_path):
    mask = {"type": "xtra_toolkit.BlockCausal", "block_size": 2}
    options = {"model.backbone.change_mask": True, "model.backbone.mask": mask}
    name = "attentive/imagenet.py"
    run(tmp_path / "a", {100: 70.0}, name)
    run(tmp_path / "b", {100: 71.0}, name, **options)
    run(tmp_path / "c", {100: 72.0}, "linear/imagenet.py")
    run(tmp_path / "d", {100: 73.0}, name, **{"model.backbone.init_cfg.checkpoint": "mae.pth"})
    run(tmp_path / "e", {100: 74.0}, name, **{"model.backbone.frozen_stages": 0})
    sizes = {"arch": "base", "patch_size": 16, "img_size": 256}
    options = {"model.backbone.init_cfg": None, "model.backbone.mask": mask}
    options |= {f"model.backbone.{key}": value for key, value in sizes.items()}
    run(tmp_path / "f", {100: 75.0}, name, **options | {"resume": True})
    rows = {(row["model"], row["protocol"]): row["ImageNet-1k"] for row in own(xtra(tmp_path)[1])}
    random = "random weights (base, patch 16, 256 px), mask BlockCausal(block_size=2)"
    assert rows == {
        ("xtra_b.pth", "attentive"): "70.0",
        ("xtra_b.pth, mask changed to BlockCausal(block_size=2)", "attentive"): "71.0",
        ("xtra_b.pth", "linear"): "72.0",
        ("mae.pth", "attentive"): "73.0",
        ("xtra_b.pth", "fine-tuning"): "74.0",
        (random, "attentive"): "75.0",
    }


def test_a_run_on_other_images_has_a_column_under_its_name(tmp_path):
    run(tmp_path, {100: 90.0}, benchmark="my birds")
    output = xtra(tmp_path, "--csv", tmp_path / "table.csv")[1]
    (row,) = table(output)  # and none of the paper's
    assert row["my birds"] == "90.0" and list(row) == ["model", "protocol", "my birds"]
    assert "my birds" in (tmp_path / "table.csv").read_text() and "paper:" not in output
    data = dict(dataset=dict(type="xtra_toolkit.ImageFolder", data_root="data/cats/val"))
    run(tmp_path / "cats", {100: 70.0}, benchmark=None)
    with open(tmp_path / "cats" / "20250101_120000" / "vis_data" / "config.py", "a") as config:
        config.write(f"val_dataloader = {data}\n")
    assert own(xtra(tmp_path)[1])[0] == row | {"cats": "70.0"}


def test_online_probes_are_in_the_table_under_the_name_of_their_data(tmp_path):
    made_up.start(tmp_path / "mae", made_up.pretraining(), made_up.training(2, best=40))
    made_up.start(tmp_path / "xtra", made_up.pretraining(), made_up.training(2))
    rows = table(xtra(tmp_path / "xtra", tmp_path / "mae", "--html", tmp_path / "r.html")[1])
    assert [(Path(row["model"]).name, row["protocol"]) for row in rows] == [
        ("xtra", "online linear probe"),
        ("xtra", "online kNN probe"),
        ("mae", "online linear probe"),
        ("mae", "online kNN probe"),
    ]
    assert float(rows[0]["birds"]) > float(rows[2]["birds"]) > 0


def test_a_pretraining_run_has_a_separate_page(tmp_path):
    run(tmp_path / "probe", {100: 72.0})
    folder = tmp_path / "xtra" / "20250101_120000" / "vis_data"
    folder.mkdir(parents=True)
    Config.fromfile(ROOT.parent / "xtra_vit-b16.py").dump(folder / "config.py")
    code, output = xtra(tmp_path)
    assert code == 0 and own(output)[0]["DTD"] == "72.0"
    assert "xtra: logged up to step 0; no step in its log" in output
    assert (tmp_path / "report.html").exists()


def test_the_paper_s_rows_stand_beside_their_benchmarks_alone(tmp_path):
    run(tmp_path / "a", {100: 72.0})
    output = xtra(tmp_path)[1]
    assert table(output) == own(output)  # the paper's figure on DTD is not included
    run(tmp_path / "b", {100: 72.0}, "attentive/imagenet.py")
    rows = [row for row in table(xtra(tmp_path)[1]) if row["model"].startswith("paper: ")]
    assert len(rows) == sum("ImageNet-1k" in row.accuracy for row in REPORTED) < len(REPORTED)
    by_name = {(row["model"], row["protocol"]): row for row in rows}
    huge = by_name["paper: XTRA ViT-H/14, ImageNet-21k", "attentive"]
    assert (huge["ImageNet-1k"], huge["mean of 15"], huge["DTD"]) == ("80.9", "76.2", "")
    small = by_name["paper: XTRA ViT-B/16, ImageNet-1k", "linear"]
    assert (small["ImageNet-1k"], small["mean of 15"]) == ("70.2", "")


def test_the_csv_has_the_same_cells(tmp_path):
    run(tmp_path, {100: 72.26})
    output = xtra(tmp_path, "--csv", tmp_path / "table.csv")[1]
    with open(tmp_path / "table.csv", newline="") as file:
        assert list(csv.DictReader(file)) == table(output)


def test_a_folder_without_runs_is_reported(tmp_path):
    code, output = xtra(tmp_path)
    assert code == 1 and "give a --work-dir of mim train" in output


def test_a_run_without_its_config_is_reported(tmp_path):
    (tmp_path / "20250101_120000" / "vis_data").mkdir(parents=True)
    code, output = xtra(tmp_path)
    assert code == 1 and "LocalVisBackend" in output


@pytest.mark.parametrize("row", REPORTED, ids=lambda row: f"{row.model} {row.protocol}")
def test_every_row_of_the_paper_names_its_protocol_and_has_a_figure(row):
    assert row.protocol in ("linear", "attentive")
    assert (row.accuracy or row.mean) and set(row.accuracy) <= set(BENCHMARKS)


def test_a_knn_test_is_read_from_the_folder_of_mim_test(tmp_path):
    run(tmp_path, {})
    folder = tmp_path / "20250101_120000"
    with open(folder / "vis_data" / "config.py", "a") as config:
        config.write("test_cfg = dict(type='xtra_toolkit.KNNTestLoop')\n")
    (folder / "vis_data" / "scalars.json").unlink()
    (folder / f"{folder.name}.json").write_text('{"accuracy/top1": 47.4}\n')
    assert own(xtra(tmp_path)[1])[0]["protocol"] == "kNN"


def test_a_refused_start_is_reported(tmp_path):
    run(tmp_path, {})
    (tmp_path / "20250101_120000" / "vis_data" / "scalars.json").write_text("")
    assert "- DTD, attentive: no step in its log" in xtra(tmp_path)[1]
