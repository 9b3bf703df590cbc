"""Test that untrusted checkpoints are read as tensors, and that nothing is executed."""

import argparse
import collections
import enum
import os
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from xtra_toolkit.weights.read import read_state

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.ones(2)}


class Config(dict):
    """Extend dict by attributes, as configs often do."""


class Record(list):
    """Extend list by attributes."""


class Stage(enum.Enum):
    """Define an enum, which is used also as a key."""

    FIT = "fit"


class Calls:
    """Call a function when this object is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def saved(path, content):
    torch.save(content, path)
    return path


def same(state):
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[name], value) for name, value in STATE.items())


CONFIG, RECORD = Config(depth=2), Record([1, 2])
CONFIG.origin = RECORD.origin = "yaml"
STRANGERS = [
    argparse.Namespace(lr=1e-3, betas=(0.9, 0.95)),
    CONFIG,
    RECORD,
    Stage.FIT,
    {Stage.FIT: 1},
    {"names", "of", "tensors"},
    collections.defaultdict(list, a=[1]),
    pathlib.Path("run"),
    np.float64(0.5),
    np.arange(3),
    torch.optim.AdamW,
]


@pytest.mark.parametrize("stranger", STRANGERS, ids=lambda s: type(s).__name__)
def test_objects_of_any_class_are_skipped(tmp_path, stranger):
    content = dict(hyper_parameters=dict(deep=[stranger]), state_dict=STATE, own=stranger)
    same(read_state(saved(tmp_path / "x.ckpt", content)))


CONTENTS = [dict(state_dict=STATE), dict(module=STATE), dict(model=STATE), STATE]


@pytest.mark.parametrize("content", CONTENTS)
def test_lightning_deepspeed_mae_and_plain_files_are_read(tmp_path, content):
    same(read_state(saved(tmp_path / "x.pt", content)))


def test_safetensors_and_the_old_format_of_torch_are_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    same(read_state(tmp_path / "x.safetensors"))
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    same(read_state(tmp_path / "old.pth"))


@pytest.mark.parametrize("wrapper", ["module.", "_forward_module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_dropped(tmp_path, wrapper):
    wrapped = {wrapper + name: value for name, value in STATE.items()}
    same(read_state(saved(tmp_path / "x.pt", wrapped)))


def test_parameters_are_read_as_tensors(tmp_path):
    state = {name: torch.nn.Parameter(value) for name, value in STATE.items()}
    same(read_state(saved(tmp_path / "x.pt", dict(state_dict=state))))


def test_a_function_in_the_file_is_not_called(tmp_path):
    trace = tmp_path / "trace"
    attack = Calls(eval, f"open({str(trace)!r}, 'w')")
    path = saved(tmp_path / "x.ckpt", dict(state_dict=STATE, attack=attack))
    same(read_state(path))
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the attack works if it is not refused
    assert trace.exists()


def test_a_command_in_the_file_is_refused(tmp_path):
    trace = tmp_path / "trace"
    attack = Calls(os.system, f"touch {trace}")
    path = saved(tmp_path / "x.ckpt", dict(state_dict=STATE, attack=attack))
    with pytest.raises(ValueError, match=r"is not executed \(GLOBAL posix.system .*blocked\)"):
        read_state(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()


def test_reading_leaves_no_class_allowed(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    content = dict(state_dict=STATE, args=argparse.Namespace())
    read_state(saved(tmp_path / "x.ckpt", content))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (dict(net=STATE), "'net' is no tensor; the weights must lie under 'state_dict'"),
        (dict(module={"a": torch.empty(0)}), "'a' is empty, as in files of ZeRO stage 3"),
        ([1, 2], "the file holds a list, not a dict of weights"),
    ],
)
def test_files_without_weights_are_refused(tmp_path, content, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_state(saved(tmp_path / "x.pt", content))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "x.pth").write_text("weights")
    with pytest.raises(ValueError, match="cannot be read as tensors alone"):
        read_state(tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_text("weights")
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_state(tmp_path / "x.safetensors")
