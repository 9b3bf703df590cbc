"""Test that a stopped process does not keep the others waiting without end."""

import os
import signal
import socket
from pathlib import Path

import pytest
from forked import ends, fork, losses, train, until
from mmengine.config import Config

ROOT = Path(__file__).parents[2]
DDP = dict(model_wrapper_cfg=dict(type="MMDistributedDataParallel", device_ids=None))


def of_two(rank, folder, port, timeout):
    from xtra_toolkit.engine import gloo  # noqa: F401  as custom_imports does

    place = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE="2")
    os.environ.update(place, RANK=str(rank), LOCAL_RANK=str(rank))
    env = dict(dist_cfg=dict(backend="nccl", timeout=timeout))
    try:
        train(folder, ballast=1, pause=0.01, launcher="pytorch", env_cfg=env, cfg=DDP)
    except TimeoutError as error:
        (folder / "sentence.txt").write_text(str(error))
        return 3


@pytest.mark.faults
def test_a_stopped_process_ends_the_other_with_a_message(tmp_path, fault):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with fault("SIGSTOP of one of two processes"):
        children = [fork(of_two, rank, tmp_path, port, 4) for rank in (0, 1)]
        try:
            until(lambda: len(losses(tmp_path)) >= 6)
            os.kill(children[1], signal.SIGSTOP)
            assert ends(children[0]) == 3
        finally:
            os.kill(children[1], signal.SIGKILL)
            ends(children[1])
        sentence = (tmp_path / "sentence.txt").read_text()
        assert "env_cfg.dist_cfg.timeout" in sentence and "--resume" in sentence


def test_shipped_configs_have_a_timeout():
    cfg = Config.fromfile(ROOT / "mmconfigs" / "xtra_vit-b16.py")
    assert cfg.env_cfg.dist_cfg.timeout == 600
