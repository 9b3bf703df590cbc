"""The runs of ``make compare``: what costs as much as XTRA, and where the probes compute."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config

from xtra_toolkit.show.build import build
from xtra_toolkit.show.cost import flops

PATH = Path(__file__).parents[2] / "mmconfigs" / "compare" / "compare.py"
SPEC = importlib.util.spec_from_file_location("compare_runs", PATH)
compare = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(compare)


def test_equal_compute_is_equal_flops_in_whole_batches(monkeypatch):
    monkeypatch.setattr(compare, "BUDGET", 480)
    kinds = ("xtra", "aim", "aim_prefix", "mae")
    cost = {o: sum(flops(build(Config.fromfile(PATH.with_name(f"{o}.py"))))) for o in kinds}
    runs = [run for run in compare.plan() if run["images"] != 52_800]
    assert {(run["objective"], run["seed"]) for run in runs} == {
        (objective, seed) for objective in kinds[1:] for seed in range(2)
    }
    for run in runs:
        total = run["images"] * cost[run["objective"]]
        assert total == pytest.approx(52_800 * cost["xtra"], rel=0.005)
        epochs = -(-run["images"] // 60_000)
        assert run["images"] % (64 * epochs) == 0
    assert compare.equal(52_800, "xtra") == 52_800


def test_the_probes_compute_where_the_encoder_is(monkeypatch):
    """``meta`` stands for a GPU: nothing is refused before results are copied to the host."""
    monkeypatch.setattr(compare, "DEVICE", "meta")
    encoder, copied = compare.encoder_of("xtra", None, 0, full=False), "copy out of meta"
    with pytest.raises(NotImplementedError, match=copied):
        compare.features(encoder, torch.zeros(2, 1, 32, 32))
    tokens, labels = torch.zeros(4, 256, 96, device="meta", dtype=torch.half), np.zeros(4, int)
    with pytest.raises(NotImplementedError, match=copied):
        compare.attentive((tokens, labels), (tokens, labels), epochs=1, batch=2)


@pytest.mark.gpu
def test_on_a_gpu_token_features_stay_there_and_pooled_ones_do_not():
    encoder = compare.encoder_of("xtra", None, 0, full=False)
    tokens, pooled = compare.features(encoder, torch.rand(4, 1, 32, 32))
    assert tokens.is_cuda and isinstance(pooled, np.ndarray)
    labels = np.array([0, 1, 0, 1])
    assert 0 <= compare.attentive((tokens, labels), (tokens, labels), epochs=1, batch=2) <= 100
