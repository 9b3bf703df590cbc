"""``xtra audit``: what it prints and draws, its exit code, and how it refuses."""

import pytest
from click.testing import CliRunner

from xtra_toolkit.cli import main

CASES = """
import torch

def causal(leak):
    model = torch.nn.Linear(12, 12)
    mask = torch.ones(4, 4).tril(leak).double()
    def predict(images):
        patches = images.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3)
        return mask @ model(patches.flatten(1, 2))
    inputs = torch.zeros(1, 3, 4, 4)
    return dict(model=predict, inputs=inputs, targets=[1, 2, 3, None], patch=2)

def leaks():
    return causal(1)

def passes():
    return causal(0)

def nothing():
    pass
"""


@pytest.fixture(autouse=True)
def cases(tmp_path, monkeypatch):
    (tmp_path / "audited_cases.py").write_text(CASES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # restores sys.path, which the command extends


def run(*args):
    return CliRunner().invoke(main, ["audit", *args])


def test_a_leak_is_printed_drawn_and_ends_with_code_1(tmp_path):
    result = run("audited_cases:leaks", "--out", "leak.png", "--draws", "1")
    assert result.exit_code == 1, result.output
    assert result.output.startswith(
        "3 of 3 predictions see what they are compared with. The first:"
    )
    assert "prediction 0 is compared with patch (0, 1) and sees it." in result.output
    assert "\n0 x!..\n1 xx!.\n2 xxx!\n" in result.output
    assert (tmp_path / "leak.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_leak_the_code_is_0():
    result = run("audited_cases:passes")
    assert result.exit_code == 0, result.output
    assert result.output.startswith("None of 3 predictions sees what it is compared with.\n")
    assert "see 6 of 6; of those after them, 0 of 3." in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["audited_cases"], "MODULE:FUNCTION"),
        (["no_such_module:f"], "there is no module 'no_such_module'"),
        (["audited_cases:other"], "has no function 'other'"),
        (["audited_cases:nothing"], "it must return a dict"),
        (["audited_cases:leaks", "--out", "x.txt"], "name a file that ends in"),
        (["audited_cases:leaks", "--out", "x.png", "--predict", "9"], "predictions 0 to 3"),
    ],
)
def test_bad_input_gets_a_sentence(args, message):
    result = run(*args)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.split())
