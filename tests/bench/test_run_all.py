"""Test what the collection of benchmarks runs, and how it refuses, without running one."""

import sys

import bench_cuda_choice
import pytest
import run_all
import torch


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Return a function that runs the collection with arguments; it returns the scripts."""

    def run(*args):
        scripts = []

        def record(command):
            scripts.append(command[0])
            return [dict(what="x", median=1.0, min=1.0, max=1.0, unit="ratio")]

        monkeypatch.setattr(run_all, "run", record)
        monkeypatch.setattr(run_all, "machine", lambda device: {})
        json = ["--json", str(tmp_path / "bench.json")]
        monkeypatch.setattr(sys, "argv", ["run_all.py", *args, *json])
        run_all.main()
        return scripts

    return run


def test_on_a_gpu_the_choice_for_dense_masks_is_measured_first(measured, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert measured("--device", "cuda")[0] == "bench_cuda_choice.py"
    assert measured("--device", "cuda", "--only", "choice") == ["bench_cuda_choice.py"]


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--device", "cuda"], "there is no CUDA device"),
        (["--only", "choice"], "--only choice was given; on cpu there are step, peers, attention"),
    ],
)
def test_a_run_that_is_impossible_is_refused(args, sentence, measured, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        measured(*args)
    assert sentence in capsys.readouterr().err


def test_the_line_to_change_is_printed(monkeypatch):
    monkeypatch.setattr(bench_cuda_choice, "DENSE_ON_CUDA", "xformers")
    faster, slower = bench_cuda_choice.line([1.2, 1.1]), bench_cuda_choice.line([0.9])
    assert "dispatch.py: DENSE_ON_CUDA = \"sdpa\"  (now 'xformers': change it)" in faster
    assert slower.endswith('DENSE_ON_CUDA = "xformers"  (as it stands)')
