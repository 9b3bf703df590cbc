"""Test that a branched, copied, moved or damaged run resumes from its own checkpoints."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Vectors
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from xtra_toolkit.data import SeededSamples
from xtra_toolkit.utils.newest_checkpoint import newest, unfit
from xtra_toolkit.weights.read import damage

SAFE = [dict(type="xtra_toolkit.SafeResume")]
SAVER = dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1, by_epoch=False)


class Keyed(SeededSamples, Vectors):
    pass


class Scores(BaseMetric):
    """Report given scores, one for each validation."""

    default_prefix = "val"

    def __init__(self, *scores):
        super().__init__()
        self.scores = list(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"loss": self.scores.pop(0)}


def validated(*scores):
    """Return the parts of a config that validate after each epoch and keep the best checkpoint."""
    return dict(
        val_dataloader=dict(
            dataset=Vectors(),
            sampler=dict(type="DefaultSampler"),
            batch_size=8,
            collate_fn=dict(type="default_collate"),
        ),
        val_cfg=dict(),
        val_evaluator=[Scores(*scores)],
        saver=dict(save_best="val/loss", rule="less"),
    )


def trained(build, folder, **changes):
    """Train in ``folder``; return the weights and the iteration at which the run began."""
    began = []

    class Begin(Hook):
        def before_train(self, runner):
            began.append(runner.iter)

    saver = dict(SAVER, **changes.pop("saver", {}))
    collate = dict(type="default_collate")
    runner = build(
        train_dataloader=dict(dataset=Keyed(), batch_size=2, collate_fn=collate),
        train_cfg=dict(
            type="xtra_toolkit.GlobalBatchLoop", max_epochs=changes.pop("epochs"), global_batch=2
        ),
        work_dir=str(folder),
        default_hooks=dict(checkpoint=saver),
        custom_hooks=[*SAFE, Begin()],
        **changes,
    )
    model = runner.train()
    return torch.cat([param.detach().flatten() for param in model.parameters()]), began[0]


def log_of(folder):
    return "".join(path.read_text() for path in sorted(Path(folder).glob("*/*.log")))


@pytest.mark.faults
def test_a_branch_leaves_the_best_checkpoint_of_its_source(build, tmp_path, fault):
    trained(build, tmp_path / "a", epochs=2, **validated(3.0, 2.0))
    (kept,) = (tmp_path / "a").glob("best_*.pth")
    before = kept.read_bytes()
    with fault("a branch improves on its source"):
        source = dict(load_from=str(tmp_path / "a/iter_8.pth"), resume=True)
        trained(build, tmp_path / "b", epochs=3, **source, **validated(1.0))
        assert len(list((tmp_path / "b").glob("best_*.pth"))) == 1
        assert kept.read_bytes() == before


def test_a_moved_run_replaces_its_best_checkpoint(build, tmp_path):
    trained(build, tmp_path / "a", epochs=2, **validated(3.0, 2.0))
    (tmp_path / "a").rename(tmp_path / "b")
    trained(build, tmp_path / "b", epochs=3, resume=True, **validated(1.0))
    (only,) = (tmp_path / "b").glob("best_*.pth")
    assert torch.load(only, weights_only=True)["meta"]["iter"] > 8


def flip(path):
    """Flip a bit in the middle of the file's largest tensor."""
    largest = max(
        torch.load(path, weights_only=True)["state_dict"].values(), key=lambda v: v.numel()
    )
    data = bytearray(path.read_bytes())
    at = bytes(data).index(largest.numpy().tobytes())
    data[at + largest.numel() * 2] ^= 0x40
    path.write_bytes(data)


def zeros(path):
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4096] = bytes(min(4096, len(data) - middle))
    path.write_bytes(data)


def directory(path):
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the last entry of the directory
    data[at : at + 4] = b"XXXX"
    path.write_bytes(data)


DAMAGES = {
    "a flipped bit in the largest tensor": flip,
    "4 kB of zeros": zeros,
    "a damaged directory of the zip": directory,
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "no meta": lambda path: torch.save({"state_dict": {}}, path),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "last_checkpoint is not UTF-8": lambda path: (
        (path.parent / "last_checkpoint").write_bytes(b"\xff\xfe\x00" * 200)
    ),
    "last_checkpoint is empty": lambda path: (path.parent / "last_checkpoint").write_text(""),
    "last_checkpoint is missing": lambda path: (path.parent / "last_checkpoint").unlink(),
}


@pytest.mark.faults
@pytest.mark.parametrize("name", DAMAGES)
def test_a_run_with_a_damaged_checkpoint_ends_like_a_whole_run(build, tmp_path, name, fault):
    whole, _ = trained(build, tmp_path, epochs=2)
    for path in tmp_path.glob("iter_[5678].pth"):
        path.unlink()
    (tmp_path / "last_checkpoint").write_text("iter_4.pth")
    with fault(f"newest checkpoint: {name}"):
        DAMAGES[name](tmp_path / "iter_4.pth")
        weights, began = trained(build, tmp_path, epochs=2, resume=True)
        assert began == (4 if "last_checkpoint" in name else 3)
        assert "the newest whole checkpoint of this run" in log_of(tmp_path)
        assert torch.equal(weights, whole)


def test_a_damaged_file_in_load_from_is_refused(build, tmp_path):
    trained(build, tmp_path / "a", epochs=1)
    flip(tmp_path / "a/iter_4.pth")
    named = dict(load_from=str(tmp_path / "a/iter_4.pth"), resume=True)
    with pytest.raises(ValueError, match=r"iter_4\.pth is damaged .* does not match its checksum"):
        trained(build, tmp_path / "b", epochs=2, **named)


def test_damage_at_any_byte_is_found_or_harmless(build, tmp_path):
    """Damage every 64th byte in turn; a file that passes must load like the whole one."""
    trained(build, tmp_path, epochs=1)
    whole = (tmp_path / "iter_4.pth").read_bytes()
    expected = torch.load(tmp_path / "iter_4.pth", weights_only=True)
    found = passed = 0
    for at in range(0, len(whole), 64):
        data = bytearray(whole)
        data[at] ^= 1
        path = tmp_path / f"damaged_{at}.pth"
        path.write_bytes(data)
        if damage(path) or unfit(path):
            found += 1
        else:
            passed += 1
            content = torch.load(path, weights_only=True)
            for part in ("state_dict", "optimizer"):
                torch.testing.assert_close(content[part], expected[part], rtol=0, atol=0)
        path.unlink()
    assert found > passed > 0, (found, passed)


@pytest.mark.faults
@pytest.mark.parametrize("pointer", ["relative", "absolute"])
def test_a_moved_run_resumes(build, tmp_path, pointer, fault):
    """Earlier versions, and MMEngine, wrote absolute paths."""
    whole, _ = trained(build, tmp_path / "whole", epochs=2)
    trained(build, tmp_path / "a", epochs=1)
    if pointer == "absolute":
        (tmp_path / "a/last_checkpoint").write_text(str(tmp_path / "a/iter_4.pth"))
    with fault(f"a moved run, {pointer} path"):
        (tmp_path / "a").rename(tmp_path / "b")
        weights, began = trained(build, tmp_path / "b", epochs=2, resume=True)
        assert began == 4 and torch.equal(weights, whole)


@pytest.mark.faults
@pytest.mark.parametrize("pointer", ["relative", "absolute"])
def test_a_copied_run_resumes_from_its_own_checkpoint(build, tmp_path, pointer, fault):
    trained(build, tmp_path / "a", epochs=1)
    if pointer == "absolute":
        (tmp_path / "a/last_checkpoint").write_text(str(tmp_path / "a/iter_4.pth"))
    with fault(f"a copy whose source went on, {pointer} path"):
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        trained(build, tmp_path / "a", epochs=2, resume=True)
        for path in (tmp_path / "a").glob("iter_4.pth"):
            path.unlink()
        _, began = trained(build, tmp_path / "b", epochs=2, resume=True)
        assert began == 4


def test_the_newest_checkpoint_is_found_by_its_number(tmp_path):
    content = dict(meta=dict(epoch=0, iter=0))
    for name in ("epoch_2", "epoch_10", "epoch_10_iter_53", "epoch_9_iter_49"):
        torch.save(content, tmp_path / f"{name}.pth")
    path, passed = newest(tmp_path, tmp_path, "epoch_*.pth")
    assert path.name == "epoch_10_iter_53.pth" and not passed


def test_checkpoints_of_another_folder_are_found_again(build, tmp_path):
    """``out_dir`` is a setting of CheckpointHook."""
    other = dict(saver=dict(out_dir=str(tmp_path / "elsewhere")))
    trained(build, tmp_path / "run", epochs=1, **other)
    _, began = trained(build, tmp_path / "run", epochs=2, resume=True, **other)
    assert began == 4
