"""Set what all tests share, so that they give the same result on every machine.

GPUs are hidden from all tests but those of ``make test-gpu``, and from what the tests start.
``PROCESSOR=AMX``, ``PROCESSOR='AVX-512 bf16'`` or ``PROCESSOR=unknown`` before pytest sets what the
CPU claims to have in all tests; the fixture ``processor`` does so in one.
"""

import os
import uuid

import pytest
from helpers.faults import TRIES, fault, table  # noqa: F401  a fixture

# Files of half a minute and more. They come first, so that no worker runs one alone at the end.
LONG = (
    "test_guide.py",
    "test_mmpretrain_benchmarks.py",
    "test_configs.py",
    "test_plugins_ways_in.py",
    "test_mim.py",
    "test_train.py",
    "test_sharded_strategy.py",
    "test_elastic.py",
    "test_new.py",
)


def pytest_collection_modifyitems(items):
    rank = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


def pytest_configure(config):
    """Hide the GPUs before a test imports torch, since the driver reads the variable once."""
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    config.option.loadscopereorder = False  # of xdist: files with many tests first, short or not
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers > 1:  # one thread each, and what the tests start likewise
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1 if workers > 1 else min(2, torch.get_num_threads()))


@pytest.fixture(autouse=True)
def mmpretrains_scope():
    """Set the default scope of MMPretrain's runs, whatever an earlier Runner has set."""
    from mmengine.registry import DefaultScope

    DefaultScope.get_instance(str(uuid.uuid4()), scope_name="mmpretrain")


@pytest.fixture
def processor(monkeypatch):
    """Return a function that sets what the CPU has for bfloat16: a name, or None if unknown."""
    import torch

    from xtra_toolkit.attention.processor import measured

    def claim(name):
        assert name in ("AMX", "AVX-512 bf16", None), name
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: name == "AMX")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: name is not None)
        measured.cache_clear()

    yield claim
    measured.cache_clear()


@pytest.fixture(autouse=True)
def claimed_processor(request):
    """Set what the variable PROCESSOR names; if it is unset, the CPU itself is asked."""
    if name := os.environ.get("PROCESSOR"):
        request.getfixturevalue("processor")(None if name == "unknown" else name)


@pytest.fixture
def one_thread():
    """Use one thread, since small steps are slower with two."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter, config):
    """Print the table of `make test-faults`."""
    if TRIES and config.option.markexpr == "faults":
        terminalreporter.write_line("")
        for line in table():
            terminalreporter.write_line(line)
