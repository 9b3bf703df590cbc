"""Test ``xtra new``: the files that it writes work without a change."""

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from test_mim import mim, scalars

from xtra_toolkit.cli import main


def new(kind, name):
    return CliRunner().invoke(main, ["new", kind, name])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_new_plugins_pass_their_own_tests(folder):
    names = dict(mask="strips_of_columns", target="mean_colours")
    for kind, name in names.items():
        done = new(kind, name)
        assert done.exit_code == 0, done.output
        written = {path.name for path in (folder / name).iterdir()}
        plain = {"README.md", "config.py", "pyproject.toml"}
        assert written == plain | {f"{name}.py", f"test_{name}.py"}
        text = "".join(path.read_text() for path in (folder / name).iterdir())
        assert not re.search("my_(mask|target)|My(Mask|Target)", text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout[-3000:]


def test_an_installed_new_plugin_pretrains_through_mim(folder, monkeypatch):
    new("mask", "strips_of_columns")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", "site", "./strips_of_columns"], check=True)
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))
    options = ["train_dataloader.batch_size=32", "train_cfg.global_batch=32"]
    options += ["train_dataloader.dataset.indices=64"]
    options += ["train_cfg.max_epochs=1", "default_hooks.logger.interval=1"]
    config = folder / "strips_of_columns" / "config.py"
    output = mim(config, "--cfg-options", *options, work_dir=folder / "run")
    assert "StripsOfColumns × NextBlock on a grid of 8×8 tokens" in output
    assert "3 predictions, each of 16 tokens from 16 outputs" in output
    losses = [line["loss"] for line in scalars(folder / "run") if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Spiral", "'Spiral' was given; the name becomes a Python module.*for instance"),
        ("my-mask", "must be of lower-case letters, digits and single underscores"),
        ("class", "becomes a Python module"),
        ("torch", "a module 'torch' is installed already"),
        ("block_causal", "the class BlockCausal, which is registered already"),
        ("next_block", "the class NextBlock, which is registered already"),
        ("here", "here exists; choose another name or folder"),
    ],
)
@pytest.mark.parametrize("kind", ["mask", "target"])
def test_an_invalid_name_is_refused(kind, name, sentence, folder):
    (folder / "here").mkdir()
    done = new(kind, name)
    assert done.exit_code == 1 and re.search(sentence, done.output), done.output
    assert [path.name for path in folder.iterdir()] == ["here"]
