"""The page "Your photos in ten minutes", block after block, on photographs of two packages.

Two things are not as on the page: the install block is not run, and training lasts ``EPOCHS``
epochs instead of 50, in the commands and in the names of the checkpoints.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from helpers import photographs
from helpers.pages import DOCS, commands

from xtra_toolkit.cli import main
from xtra_toolkit.comparison.plan import find_config

PAGE = DOCS / "photos.md"
EPOCHS = 2


def blocks():
    """Return the language and the text of each block that is run, in the page's order."""
    found = re.findall(r"```(\w*)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [(kind, text) for kind, text in found if kind in ("bash", "python")]


def shorten(text):
    """Train for fewer epochs."""
    return text.replace("--epochs 50", f"--epochs {EPOCHS}").replace(
        "epoch_50.pth", f"epoch_{EPOCHS}.pth"
    )


def test_the_page_is_short_and_each_of_its_steps_is_run():
    assert len(PAGE.read_text().splitlines()) <= 120
    text = "\n".join(text for _, text in blocks())
    steps = ["xtra train", "xtra probe", "xtra features", "sklearn", "xtra_toolkit.load"]
    assert [step for step in steps if step not in text] == []
    assert text.count("--epochs 50") == 1 and text.count("epoch_50.pth") == 3


def test_the_commands_of_the_page_parse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "runs" / "photos" / "epoch_50.pth"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    given = {}
    for name, *words in commands(PAGE.read_text()):
        command = main.get_command(click.Context(main), name)
        given.setdefault(name, command.make_context(name, words).params)
    assert find_config(given["train"]["config"]).is_file()
    assert given["train"]["out"] / "epoch_50.pth" == given["probe"]["checkpoint"]
    assert given["probe"]["checkpoint"] == given["features"]["checkpoint"]


@pytest.mark.slow
def test_every_block_of_the_page(tmp_path):
    photographs.write_classes(tmp_path / "photos", each=12)
    said = {text: run(kind, shorten(text), tmp_path) for kind, text in blocks()}
    train, probe, features, classify, load = said.values()

    before = train[: train.index("the first step took")]
    assert len(before.splitlines()) <= 15 and "objective    BlockCausal(block_size=2)" in before
    assert "48 images" in before and "12 of 8 images" in before
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", train)]
    assert losses[-1] < losses[0]
    named = dict(re.findall(r"^(checkpoint|pictures|report) +(\S+)$", train, re.MULTILINE))
    assert len(named) == 3 and all((tmp_path / path).is_file() for path in named.values())
    assert train.splitlines()[-1].endswith(shorten('xtra_toolkit.load("runs/photos/epoch_50.pth")'))

    assert "40 images train and 8 test, 4 classes" in probe
    assert {"linear", "attentive", "kNN", "majority"} <= set(re.findall(r"^\w+", probe, re.M))
    assert "48 images, 4 classes, 192 values each" in features
    assert classify.startswith("(48, 192)") and load.split() == ["torch.Size([1,", "192])"]


def run(kind, text, folder):
    """Run a block as the page gives it, and return what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = ["bash", "-euc", text] if kind == "bash" else [sys.executable, "-c", text]
    done = subprocess.run(
        program,
        cwd=folder,
        env=os.environ | dict(PATH=path, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout
