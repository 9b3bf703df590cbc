"""Test an untrusted working folder: nothing is executed, and unusable parts are reported."""

import json
import os

import pytest
from click.testing import CliRunner
from helpers.made_up_runs import pictures, pretraining, start, step
from PIL import Image

from xtra_toolkit.cli import main
from xtra_toolkit.visualization.report.allowed_parts import check_parts
from xtra_toolkit.visualization.report.config_data import read_config

LOG = [step(10, 0.9), step(20, 0.8)]


def report(folder):
    """Run xtra report; return the exit code, the output and the page."""
    done = CliRunner().invoke(main, ["report", str(folder)])
    page = folder / "report.html"
    return done.exit_code, done.output, page.read_text() if page.exists() else ""


def shell(command, kind="os.system"):
    return dict(type=kind, command=command)


@pytest.mark.parametrize(
    "code",
    [
        "_x = __import__('os').system({!r})",
        "import os; os.system({!r})",
        "load_from = [__import__('os').system({!r}) for _ in '1']",
        "_base_ = './evil.py'",
        "work_dir = str(__import__('os').system({!r}))",
        "dict = __import__('os').system\nresume = dict({!r})",
    ],
)
def test_code_in_a_config_is_left_out_and_reported(code, tmp_path):
    folder = start(tmp_path, pretraining(), LOG)
    (folder / "vis_data" / "evil.py").write_text(f"__import__('os').mkdir({str(tmp_path / 'P')!r})")
    with open(folder / "vis_data" / "config.py", "a") as config:
        config.write(code.format(f"mkdir {tmp_path / 'P'}") + "\n")
    exit_code, output, page = report(tmp_path)
    assert exit_code == 0 and not (tmp_path / "P").exists()
    assert "BlockCausal(block_size=2) × NextBlock" in page
    if "_base_" not in code:
        assert "config.py is left out: it is no assignment of plain values" in output
        assert "read as data, not executed" in page


@pytest.mark.parametrize(
    "place",
    [
        lambda model, evil: model.update(mask=evil),
        lambda model, evil: model.update(target_generator=evil),
        lambda model, evil: model["backbone"].update(norm_cfg=evil),
        lambda model, evil: model["neck"].update(evil),
        lambda model, evil: model.update(
            mask=dict(type="xtra_toolkit.Reordered", mask=model["mask"], order=evil)
        ),
        lambda model, evil: model["backbone"].update(init_cfg=(evil,)),
        lambda model, evil: model.update(type="os.system", command=evil["command"]),
    ],
)
def test_an_unregistered_part_is_not_called(place, tmp_path):
    config = pretraining()
    place(config["model"], shell(f"mkdir {tmp_path / 'P'}"))
    folder = start(tmp_path, config, LOG)
    exit_code, _, page = report(tmp_path)
    assert exit_code == 0 and not (tmp_path / "P").exists()
    assert "cannot be built here" in page and "which is not registered here" in page
    assert "from its log:" in page, folder


def test_no_package_is_imported_because_a_config_names_it(tmp_path, monkeypatch):
    """MMEngine would import SCOPE.registry for SCOPE.X, _scope_ and default_scope."""
    (tmp_path / "evil").mkdir()
    for name in ("__init__", "registry", "utils"):
        (tmp_path / "evil" / f"{name}.py").write_text(f"open({str(tmp_path / 'P')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    changes = (dict(type="evil.X"), dict(_scope_="evil"), dict(mask=dict(type="evil.X")))
    for number, change in enumerate(changes):
        config = pretraining()
        config["model"] |= change
        start(tmp_path / f"run{number}", config | dict(default_scope="evil"), LOG)
        exit_code, _, page = report(tmp_path / f"run{number}")
        assert exit_code == 0 and "cannot be built here" in page
    start(tmp_path / "scope", pretraining(default_scope="evil"), LOG)
    exit_code, _, page = report(tmp_path / "scope")
    assert exit_code == 0 and "cannot be built here" not in page
    assert not (tmp_path / "P").exists()


def test_a_model_of_mmpretrain_which_may_download_is_refused():
    timm = dict(type="mmpretrain.TIMMBackbone", model_name="hf-hub:x/y", pretrained=True)
    with pytest.raises(ValueError, match=r"'mmpretrain\.TIMMBackbone', which is not registered"):
        check_parts(dict(type="xtra_toolkit.MaskTargetPretrainer", backbone=timm))


def test_the_parts_of_the_shipped_configs_are_known():
    from pathlib import Path

    from mmengine.config import Config

    for path in sorted((Path(__file__).parents[3] / "mmconfigs").glob("*_vit-*.py")):
        check_parts(Config.fromfile(path).model)


def test_what_mmengine_writes_is_read_as_mmengine_reads_it(tmp_path):
    from pathlib import Path

    from mmengine.config import Config

    shipped = Config.fromfile(Path(__file__).parents[3] / "mmconfigs" / "xtra_vit-b16.py")
    shipped.odd = {"a-b": (1, -2.5, None, True), 3: [{"x": "it's"}, float("inf")]}
    shipped.dump(tmp_path / "config.py")
    config, notes = read_config(tmp_path / "config.py")
    assert config.to_dict() == shipped.to_dict() and not notes


@pytest.mark.parametrize("text", ["model = dict(\n", "x = '\0'\n", "(" * 5000])
def test_a_config_that_is_no_python_leaves_out_one_run(text, tmp_path):
    start(tmp_path, pretraining(), LOG)
    broken = start(tmp_path / "b", pretraining(), LOG)
    (broken / "vis_data" / "config.py").write_text(text)
    exit_code, output, page = report(tmp_path)
    assert exit_code == 0 and "cannot be read as a config" in output
    assert "BlockCausal" in page


def test_entries_of_other_types_are_left_out(tmp_path):
    changes = dict(train_cfg=[1], load_from=7, benchmark=["x"], train_dataloader="none")
    start(tmp_path, pretraining(**changes), LOG)
    exit_code, output, page = report(tmp_path)
    assert exit_code == 0 and "train_cfg is left out" in output and "BlockCausal" in page


ODD = [
    '{"loss": 1.0, "iter": 10, "step": "ten"}',
    '{"loss": 1.0, "iter": 10, "step": null}',
    '{"loss": 1.0, "iter": 10, "step": 1e999}',
    '{"loss": 1.0, "iter": 10, "step": NaN}',
    '{"loss": 1.0, "iter": [1], "step": 10}',
    '{"loss": 1.0, "iter": 10, "step": -3}',
    '{"loss": 1.0, "iter": 10, "step": ' + "9" * 400 + "}",
    '{"loss": 1.0, "iter": 10, "step": ' + "9" * 5000 + "}",
    "[" * 100_000,
    "[1, 2]",
    "7",
    "{",
]


def test_unreadable_lines_of_a_log_are_counted_and_left_out(tmp_path):
    folder = start(tmp_path, pretraining(), LOG)
    more = [
        {"accuracy/top1": "high", "loss": {"a": 1}, "val/loss": None, "step": 20},
        {"loss": 10**400, "lr": True, "iter": 30, "step": 30},
        step(1000, 0.5),
    ]
    with open(folder / "vis_data" / "scalars.json", "a") as log:
        log.write("".join(f"{line}\n" for line in [*ODD, *map(json.dumps, more)]))
    exit_code, output, page = report(tmp_path)
    assert exit_code == 0, output
    assert f"{len(ODD)} lines of vis_data/scalars.json hold no numbers" in output
    text = page.replace("<wbr>", "")  # where a narrow screen may break a name
    assert f"{len(ODD)} lines of vis_data/scalars.json hold no numbers" in text


def test_a_huge_or_broken_picture_is_left_out_and_named(tmp_path):
    folder = start(tmp_path, pretraining(), LOG)
    pictures(folder, [100])
    images = folder / "vis_data" / "vis_image"
    Image.new("1", (20_000, 20_000)).save(images / "reconstruction_200.png")
    (images / "reconstruction_300.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    os.mkfifo(images / "reconstruction_400.png")
    exit_code, output, page = report(tmp_path)
    assert exit_code == 0 and page.count("data:image/webp") == 5  # four panels and one picture
    for number, cause in ((200, "400,000,000 pixels"), (300, "no image"), (400, "it is no file")):
        said = [line for line in output.splitlines() if f"reconstruction_{number}.png" in line]
        assert len(said) == 1 and cause in said[0]
    assert "reconstruction_200.png is not shown" in page.replace("<wbr>", "")


def test_the_help_says_that_configs_are_code():
    for command in ("show", "complete"):
        help_text = CliRunner().invoke(main, [command, "--help"]).output
        assert "CONFIG is code: it is executed" in help_text
    assert "nothing in it is executed" in " ".join(
        CliRunner().invoke(main, ["report", "--help"]).output.split()
    )
