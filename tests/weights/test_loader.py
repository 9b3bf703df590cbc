"""Test that loading with MMEngine executes nothing, and that safetensors is read and written."""

import argparse
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from click.testing import CliRunner
from helpers.builds import arch
from helpers.tiny_runs import run
from mmengine.runner import CheckpointLoader, checkpoint, load_checkpoint
from mmpretrain.registry import HOOKS, MODELS
from safetensors import safe_open
from safetensors.torch import save_file

from xtra_toolkit.cli import main
from xtra_toolkit.weights.read import read_state

HOOKS.build(dict(type="xtra_toolkit.SafeResume"))  # any type of ours: as a config does
WEIGHTS = Path(__file__).parents[1] / "golden" / "xtra_k2_weights.safetensors"
VIT = dict(
    type="xtra_toolkit.MaskedViT",
    arch=arch(24, 2, 2),
    img_size=16,
    patch_size=4,
    mask=dict(type="xtra_toolkit.TokenCausal"),
)


class Calls:
    """Call a function when this object is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture(params=[False, True], ids=["default", "torch told to execute"])
def trap(tmp_path, monkeypatch, request):
    """Return a checkpoint, and the folder that it would create if it were executed."""
    if request.param:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    file, trace = tmp_path / "stranger.pth", tmp_path / "trace"
    attack = Calls(os.mkdir, str(trace))
    torch.save(dict(state_dict=MODELS.build(VIT).state_dict(), extra=attack), file)
    yield file, trace
    assert not trace.exists()
    torch.load(file, weights_only=False)  # the attack works if it is not refused
    assert trace.exists()


REFUSED = r"stranger\.pth cannot be read as tensors alone, and is not executed \(GLOBAL \S+mkdir"


def test_an_unsafe_init_cfg_is_refused_with_a_message(trap):
    model = MODELS.build(dict(VIT, init_cfg=dict(type="Pretrained", checkpoint=str(trap[0]))))
    with pytest.raises(ValueError, match=REFUSED):
        model.init_weights()


def test_an_unsafe_init_cfg_with_a_prefix_is_refused(trap):
    init = dict(type="Pretrained", checkpoint=str(trap[0]), prefix="backbone.")
    with pytest.raises(ValueError, match=REFUSED):
        MODELS.build(dict(VIT, init_cfg=init)).init_weights()


def test_an_unsafe_load_from_is_refused_with_a_message(trap):
    with pytest.raises(ValueError, match=REFUSED):
        load_checkpoint(MODELS.build(VIT), str(trap[0]))


@pytest.mark.parametrize("name", ["https://example.org/stranger.pth", "torchvision://stranger"])
def test_an_unsafe_download_is_refused_with_a_message(trap, tmp_path, monkeypatch, name):
    """Load a file that torch finds in its download cache, so that no network is needed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    cache = tmp_path / "home" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "stranger.pth").write_bytes(trap[0].read_bytes())
    models = dict(stranger="https://example.org/stranger.pth")
    monkeypatch.setattr(checkpoint, "get_torchvision_models", lambda: models)
    with pytest.raises(ValueError, match=REFUSED):
        load_checkpoint(MODELS.build(VIT), name)


def test_an_unsafe_file_named_by_open_mmlab_is_refused(trap, tmp_path, monkeypatch):
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    (tmp_path / "open_mmlab.json").write_text('{"stranger": "stranger.pth"}')
    for scheme in ("open-mmlab", "openmmlab"):
        with pytest.raises(ValueError, match=REFUSED):
            load_checkpoint(MODELS.build(VIT), f"{scheme}://stranger")


def test_an_unsafe_file_of_a_ceph_server_is_refused(trap, monkeypatch):
    class Server:
        def get(self, name):
            return trap[0].read_bytes()

    monkeypatch.setattr(checkpoint, "get_file_backend", lambda *_, **__: Server())
    with pytest.raises(ValueError, match="cannot be read as tensors alone, and is not executed"):
        load_checkpoint(MODELS.build(VIT), "s3://bucket/stranger.pth")


def test_a_call_of_getattr_is_refused(tmp_path, monkeypatch):
    """Refuse what onedl-mmengine allows, in the loaders that are MMEngine's own."""
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path))
    (tmp_path / "open_mmlab.json").write_text('{"stranger": "stranger.pth"}')
    file = dict(state_dict={}, extra=Calls(getattr, 1, "numerator"))
    torch.save(file, tmp_path / "stranger.pth")
    with pytest.raises(ValueError, match=r"stranger\.pth cannot be read as tensors .*getattr"):
        load_checkpoint(MODELS.build(VIT), "open-mmlab://stranger")


def test_a_safe_file_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(dict(state_dict={"a": torch.ones(2)}), cache / "x.pth")
    state = CheckpointLoader.load_checkpoint("https://example.org/x.pth", "cpu")["state_dict"]
    assert state["a"].tolist() == [1, 1]


def test_a_download_that_fails_says_where_to_put_the_file(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise URLError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sentence = rf"x\.pth cannot be downloaded.*not known.*copy it into {tmp_path}/hub/checkpoints"
    with pytest.raises(ValueError, match=sentence):
        CheckpointLoader.load_checkpoint("https://example.org/x.pth", "cpu")


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_refuses_an_unsafe_file_and_keeps_it(trap, tmp_path, resume):
    with pytest.raises(ValueError, match=REFUSED):
        run(tmp_path / "run", "XTRA", load_from=str(trap[0]), resume=resume)


def test_other_objects_than_tensors_are_refused_and_the_message_names_convert(tmp_path):
    """Refuse other objects: skipping them would be safe, but a resumed run needs them."""
    torch.save(dict(state_dict={}, args=argparse.Namespace(lr=1)), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"GLOBAL argparse\.Namespace .*xtra convert extracts"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "x.pth"))


def test_an_absent_or_damaged_file_is_reported_by_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.pth can not be found"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "no.pth"))
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_text("weights")
        with pytest.raises(ValueError, match=rf"{name} (cannot be read as tensors|is no)"):
            CheckpointLoader.load_checkpoint(str(tmp_path / name))


def test_safetensors_is_read_by_load_from_and_init_cfg(tmp_path):
    file, state = tmp_path / "x.safetensors", MODELS.build(VIT).state_dict()
    state = {name: torch.rand_like(v) if v.is_floating_point() else v for name, v in state.items()}
    save_file(state, file)
    loaded = MODELS.build(VIT)
    load_checkpoint(loaded, str(file), strict=True)
    begun = MODELS.build(dict(VIT, init_cfg=dict(type="Pretrained", checkpoint=str(file))))
    begun.init_weights()
    for model in (loaded, begun):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


@pytest.mark.parametrize("layout", ["pretrainer", "encoder"])
def test_safetensors_is_written_with_its_mask(tmp_path, layout):
    files = [tmp_path / "x.pth", tmp_path / "x.safetensors"]
    for file in files:
        args = ["convert", str(WEIGHTS), str(file), "--to", layout]
        assert CliRunner().invoke(main, args).exit_code == 0
    one, other = map(read_state, files)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with safe_open(files[1], "pt") as file:
        assert "BlockCausal" in file.metadata()["encoder_mask"]
    again = tmp_path / "again.safetensors"
    args = ["convert", str(files[1]), str(again), "--to", "encoder"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0 and "BlockCausal" in result.output


def test_a_torchscript_archive_is_refused_as_such(tmp_path):
    """Check that the message does not repeat torch's advice to execute the file."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pth")
    for read in (CheckpointLoader.load_checkpoint, read_state):
        with pytest.raises(ValueError, match=r"x\.pth is a TorchScript archive") as caught:
            read(str(tmp_path / "x.pth"))
        assert "weights_only" not in str(caught.value)
    done = CliRunner().invoke(main, ["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.pth")])
    assert done.exit_code == 1 and "is a TorchScript archive" in done.output
