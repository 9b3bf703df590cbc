"""Test that progress bars are shown on a terminal only, on standard error."""

import os
import pty
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from xtra_toolkit.cli import main
from xtra_toolkit.utils import progress

XTRA = [sys.executable, "-c", "from xtra_toolkit.cli import main; main()"]


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


def test_a_bar_goes_to_the_terminal_and_the_result_to_standard_output(photos):
    ours, theirs = pty.openpty()
    command = [*XTRA, "index", str(photos)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert run.communicate()[0].decode() == f"{photos}/index.txt: 3 images\n"
    assert "images found" in shown.decode() and "3/?" in shown.decode()


def test_no_bar_is_written_to_a_pipe(photos, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # with it rich would treat a pipe as a terminal
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        main(["index", str(photos)], standalone_mode=False)
        assert list(progress.watched([5, 6], "bank")) == [5, 6]
    with os.fdopen(read) as pipe:
        assert pipe.read() == ""
    assert (photos / "index.txt").read_text().split() == ["0.png", "1.png", "2.png"]


class Terminal:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Replace standard error by a terminal within the test, after pytest has captured it."""

    def put():
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return put


def test_the_bar_counts_the_steps_and_leaves_standard_output_alone(terminal, capsys):
    screen, out = terminal(), sys.stdout
    for item in progress.watched([5, 6], "bank [a]"):
        assert sys.stdout is out and item in (5, 6)
    assert "bank [a]" in screen.text and "2/2" in screen.text
    assert capsys.readouterr().out == ""


def test_only_the_main_process_shows_a_bar(terminal, monkeypatch):
    screen = terminal()
    monkeypatch.setattr("mmengine.dist.is_main_process", lambda: False)
    assert list(progress.watched([5, 6], "bank")) == [5, 6]
    assert screen.text == ""


def test_the_bar_is_removed_after_an_error(terminal):
    screen = terminal()
    with pytest.raises(ZeroDivisionError), progress.progress("reading"):
        raise ZeroDivisionError
    assert screen.text.endswith("\x1b[?25h\r\x1b[1A\x1b[2K")  # shows the cursor and clears the line
