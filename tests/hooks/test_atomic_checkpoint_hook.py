"""Test that neither a kill nor a full disk costs the last checkpoint."""

import errno
import os
import re
import subprocess

import pytest
import torch
from mmengine.hooks import Hook

from xtra_toolkit.utils import atomic_backend as atomic
from xtra_toolkit.utils.atomic_backend import AtomicBackend
from xtra_toolkit.utils.newest_checkpoint import unfit

SAFE = [dict(type="xtra_toolkit.SafeResume")]
STEPWISE = dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1, by_epoch=False)


def keep(number, **options):
    return dict(checkpoint={**STEPWISE, "max_keep_ckpts": number, **options})


def names(folder):
    return sorted(path.name for path in folder.glob("*.pth*"))


def test_the_oldest_checkpoint_is_removed_after_the_newest_is_named(build, tmp_path, monkeypatch):
    events = []
    replace, remove = os.replace, os.remove
    monkeypatch.setattr(
        atomic.os, "replace", lambda a, b: (events.append(f"+{b.name}"), replace(a, b))
    )
    monkeypatch.setattr(
        os, "remove", lambda path: (events.append(f"-{os.path.basename(path)}"), remove(path))
    )
    build(epochs=1, default_hooks=keep(1), custom_hooks=SAFE).train()
    assert events[:5] == [
        "+iter_1.pth",
        "+last_checkpoint",
        "+iter_2.pth",
        "+last_checkpoint",
        "-iter_1.pth",
    ]
    assert names(tmp_path) == ["iter_4.pth"]
    assert (tmp_path / "last_checkpoint").read_text() == "iter_4.pth"


def test_every_file_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            atomic.os, name, lambda *args, real=real, name=name: (events.append(name), real(*args))
        )
    AtomicBackend().put(b"whole", tmp_path / "new/file.pth")
    assert events == ["fsync", "replace", "fsync"]  # the file, its name, the folder
    assert (tmp_path / "new/file.pth").read_bytes() == b"whole"


def test_unfinished_files_of_a_killed_run_are_removed(build, tmp_path):
    build(epochs=1, default_hooks=keep(2), custom_hooks=SAFE).train()
    (tmp_path / "iter_5.pth.unfinished").write_bytes(b"half")
    (tmp_path / "last_checkpoint.unfinished").write_bytes(b"ha")
    # killed after the new pointer, before the oldest was removed
    torch.save({}, tmp_path / "iter_2.pth")
    saved = torch.load(tmp_path / "iter_4.pth", weights_only=True)
    assert saved["message_hub"]["runtime_info"]["keep_ckpt_ids"] == [2, 3, 4]
    build(epochs=2, default_hooks=keep(2), custom_hooks=SAFE, resume=True).train()
    assert names(tmp_path) == [
        "iter_11.pth",
        "iter_12.pth",
    ]  # MMEngine's loop begins the epoch again
    assert not list(tmp_path.glob("*.unfinished"))


@pytest.mark.parametrize("damage", ["half a file", "missing", "empty pointer", "no pointer"])
def test_only_a_whole_checkpoint_is_resumed_from(build, tmp_path, damage):
    build(epochs=1, default_hooks=keep(3), custom_hooks=SAFE).train()
    newest, pointer = tmp_path / "iter_4.pth", tmp_path / "last_checkpoint"
    if damage == "half a file":
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
        assert unfit(newest) == "is cut off or damaged"
    elif damage == "missing":
        newest.unlink()
    elif damage == "empty pointer":
        pointer.write_text("")
    else:
        pointer.unlink()
    runner = build(epochs=1, default_hooks=keep(3), custom_hooks=SAFE, resume=True)
    start = []
    runner.register_hook(Start(start))
    runner.train()
    assert start == [4 if "pointer" in damage else 3]


class Start(Hook):
    def __init__(self, start):
        self.start = start

    def before_train(self, runner):
        self.start.append(runner.iter)


def test_a_used_folder_is_refused_unless_its_files_may_be_replaced(build, tmp_path):
    build(epochs=1, default_hooks=keep(1), custom_hooks=SAFE).train()
    saved = (tmp_path / "iter_4.pth").read_bytes()
    sentence = r"holds 1 checkpoint\(s\) .* iter_4\.pth\. Add --resume .*checkpoint\.overwrite=True"
    with pytest.raises(ValueError, match=sentence):
        build(epochs=1, default_hooks=keep(1), custom_hooks=SAFE).train()
    assert (tmp_path / "iter_4.pth").read_bytes() == saved
    build(epochs=1, default_hooks=keep(1, overwrite=True), custom_hooks=SAFE).train()


def test_a_damaged_checkpoint_without_another_is_refused(build, tmp_path):
    (tmp_path / "iter_4.pth").write_bytes(b"half")
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "iter_4.pth"))
    with pytest.raises(ValueError, match=r"iter_4\.pth, and there is no whole .* is cut off"):
        build(default_hooks=keep(3), custom_hooks=SAFE, resume=True).train()


def test_resume_without_a_checkpoint_starts_a_new_run(build):
    runner = build(epochs=1, default_hooks=keep(3), custom_hooks=SAFE, resume=True)
    runner.train()
    assert runner.iter == 4


@pytest.fixture
def small_disk(tmp_path):
    """Mount a disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def fills_up(build, folder, **options):
    """Train until a checkpoint does not fit, and return the message."""
    with pytest.raises(OSError) as caught:
        build(work_dir=str(folder), default_hooks=keep(9), custom_hooks=SAFE, **options).train()
    assert caught.value.errno == errno.ENOSPC
    return str(caught.value)


def kept(folder):
    """Check that the last checkpoint is whole and named, without unfinished files beside it."""
    last = folder / (folder / "last_checkpoint").read_text()
    assert torch.load(last, weights_only=True)["meta"]["iter"] == len(names(folder))
    assert last == folder / f"iter_{len(names(folder))}.pth"
    assert not list(folder.glob("*.unfinished"))
    return last.name


def test_a_full_disk_is_reported_and_keeps_the_last_checkpoint(build, small_disk):
    model = build().model
    model.register_buffer("ballast", torch.zeros(2**16))
    sentence = fills_up(build, small_disk, model=model)
    needed, free = re.search(r"needs ([\d,]+) bytes; .* has ([\d,]+) free", sentence).groups()
    assert int(needed.replace(",", "")) > int(free.replace(",", "")) > 0
    assert "No space left on device" in sentence and "max_keep_ckpts" in sentence
    assert kept(small_disk).endswith("iter_3.pth")
    options = dict(model=model, work_dir=str(small_disk), custom_hooks=SAFE, resume=True)
    runner = build(epochs=1, default_hooks=keep(2), **options)  # one less makes room
    runner.train()
    assert runner.iter > 4 and len(names(small_disk)) == 2


def test_a_disk_that_is_full_at_the_flush_is_reported(build, tmp_path, monkeypatch):
    """This needs no root, and covers file systems that allocate late."""
    calls, fsync = [], os.fsync

    def third_fails(handle):
        calls.append(handle)
        if len(calls) == 9:  # file, folder, pointer, folder for each checkpoint
            raise OSError(errno.ENOSPC, "full")
        fsync(handle)

    monkeypatch.setattr(atomic.os, "fsync", third_fails)
    sentence = fills_up(build, tmp_path)
    assert f"{tmp_path}/iter_3.pth could not be written: No space left" in sentence
    assert kept(tmp_path).endswith("iter_2.pth")


@pytest.mark.parametrize(("minutes", "saved"), [(1e-9, 16), (0, 4), (30, 4)])
def test_a_checkpoint_is_saved_after_the_given_minutes(build, tmp_path, minutes, saved):
    saver = dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1, minutes=minutes)
    hooks = [dict(type="xtra_toolkit.SafeResume")]
    build(default_hooks=dict(checkpoint=saver), custom_hooks=hooks).train()
    names = sorted(path.name for path in tmp_path.glob("*.pth"))
    assert len(names) == saved and "epoch_4.pth" in names
    assert ("epoch_0_iter_3.pth" in names) == (saved == 16)
