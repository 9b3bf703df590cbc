"""Test the three ways to register a plugin that docs/plugins.md describes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine import registry as mmengine_registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmpretrain.registry import MODELS as MMPRETRAIN
from test_mim import mim, scalars

from xtra_toolkit import plugins
from xtra_toolkit.cli import env
from xtra_toolkit.masks import build_mask
from xtra_toolkit.registry import MASKS, MODELS, ORDERS
from xtra_toolkit.targets import build_target

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "plugins.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\S+\.\w+)\n(.*?)```", PAGE, re.DOTALL))
STEPS = [  # two of them
    "train_dataloader.batch_size=32",
    "train_cfg.global_batch=32",
    "train_dataloader.dataset.indices=64",
    "train_cfg.max_epochs=1",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Write every file of the page into a folder beside mmconfigs/, on the import path."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "mmconfigs").symlink_to(ROOT / "mmconfigs")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (MASKS, MODELS, ORDERS):
        registry.import_from_location()
        monkeypatch.setattr(registry, "_module_dict", dict(registry.module_dict))
    for registry in (MASKS, mmengine_registry.MODELS):
        monkeypatch.setattr(registry, "_children", dict(registry.children))
    monkeypatch.setattr(plugins, "FAILED", {})
    yield tmp_path
    for name in [n for n in sys.modules if n.split(".")[0] in ("row_causal", "their_lab")]:
        del sys.modules[name]


def install(source, target):
    """Install a package into a folder as ``pip install .`` does."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", target, source], check=True)


def built(config):
    return MMPRETRAIN.build(Config.fromfile(config).model)


def test_the_page_shows_every_file_of_the_test():
    assert len(FILES) == 9


def test_a_plugin_in_a_file_is_found(place):
    objective = built(place / "row_digits.py").objective
    assert objective.name == "RowCausal × NextBlock" and objective.bounds.num_computed == 56


def test_a_plugin_in_an_installed_package_is_found(place, monkeypatch):
    install(place, place / "site")
    (place / "row_causal.py").unlink()
    monkeypatch.syspath_prepend(place / "site")
    plugins.load_plugins()
    assert not plugins.FAILED
    assert built(place / "installed_digits.py").objective.name == "RowCausal × NextBlock"


def test_a_plugin_in_a_scope_is_found(place):
    assert built(place / "scope_digits.py").objective.name == "Columns × NextContrast"


def test_the_documented_test_of_a_plugin_passes(place):
    space = {}
    exec(FILES["test_row_causal.py"], space)
    space["test_it_keeps_its_contract"]()


def test_plugins_in_a_file_and_a_scope_train_through_mim_with_a_worker(place):
    options = [*STEPS, "model.target_generator.type=their_lab.NextContrast"]
    options.append("train_dataloader.num_workers=1")
    output = mim(place / "row_digits.py", "--cfg-options", *options, work_dir=place / "run")
    assert "RowCausal × NextContrast on a grid of 8×8 tokens" in output
    assert (place / "run" / "epoch_1.pth").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("config", ["row_digits.py", "installed_digits.py", "scope_digits.py"])
def test_a_plugin_trains_on_two_processes_with_workers(config, start, place, monkeypatch):
    """On a CPU, MMEngine needs the group before it looks for GPUs, and no device ids."""
    if config == "installed_digits.py":
        install(place, place / "site")
        monkeypatch.setenv("PYTHONPATH", f"{place / 'site'}{os.pathsep}{place}")
    (place / "gloo.py").write_text(
        "import os, torch\n"
        "if 'RANK' in os.environ and not torch.distributed.is_initialized():\n"
        "    torch.distributed.init_process_group('gloo')\n"
    )
    text = (place / config).read_text()
    imports = re.search(r'imports=\["(\w+)"\]', text)
    named = [*(imports.groups() if imports else ()), "gloo"]
    (place / "two.py").write_text(
        f"_base_ = ['{config}']\ncustom_imports = dict(imports={named})\n"
        "model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)\n"
        f"env_cfg = dict(mp_cfg=dict(mp_start_method='{start}'))\n"
    )
    tool = Path(sys.modules["mmpretrain"].__file__).parent / ".mim" / "tools" / "train.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--standalone", tool, place / "two.py", "--launcher", "pytorch"]
    options = ["train_dataloader.batch_size=16", "train_dataloader.num_workers=1", *STEPS[1:]]
    command += ["--work-dir", place / "run", "--cfg-options", *options]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "32 images a step = 2 processes x 16 images" in done.stdout + done.stderr
    assert all(0 < line["loss"] < 10 for line in scalars(place / "run") if "loss" in line)


def test_a_broken_plugin_breaks_no_other_and_is_named(place):
    info = place / "two-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: two\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[xtra_toolkit.plugins]\nspirals = spirals\nrow_causal = row_causal\n"
    )
    (place / "spirals.py").write_text("import vortex\n")
    plugins.load_plugins()
    assert build_mask(dict(type="xtra_toolkit.RowCausal")).random is False
    said = "plugin 'spirals' failed to load: ModuleNotFoundError: No module named 'vortex'"
    with pytest.raises(ValueError, match=f"unknown mask 'xtra_toolkit.Spiral'.*; {said}"):
        build_mask(dict(type="xtra_toolkit.Spiral"))
    with pytest.raises(ValueError, match=f"unknown target 'xtra_toolkit.Spiral'.*; {said}"):
        build_target(dict(type="xtra_toolkit.Spiral"))


def test_a_plugin_that_fails_at_its_last_line_registers_nothing(place):
    """It also replaces no name that was taken; what it imported from others stays."""
    info = place / "half-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: half\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[xtra_toolkit.plugins]\nhalf = half.spirals\n")
    (place / "half").mkdir()
    (place / "half" / "__init__.py").write_text("")
    (place / "half" / "spirals.py").write_text(
        "from xtra_toolkit.registry import MASKS, MODELS, ORDERS\nimport row_causal\n"
        "@MODELS.register_module()\n@ORDERS.register_module()\n@MASKS.register_module()\n"
        "class Whirl: ...\n"
        "@MASKS.register_module(force=True)\nclass BlockCausal: ...\n"
        "import vortex\n"
    )
    taken = MASKS.get("BlockCausal")
    plugins.load_plugins()
    assert not any("Whirl" in registry.module_dict for registry in (MASKS, MODELS, ORDERS))
    assert MASKS.module_dict["BlockCausal"] is taken
    assert "RowCausal" in MASKS.module_dict
    said = "plugin 'half' failed to load: ModuleNotFoundError: No module named 'vortex'"
    with pytest.raises(ValueError, match=f"unknown mask 'xtra_toolkit.Whirl'.*; {said}"):
        build_mask(dict(type="xtra_toolkit.Whirl"))
    with pytest.raises(ValueError, match=f"unknown target 'xtra_toolkit.Whirl'.*; {said}"):
        build_target(dict(type="xtra_toolkit.Whirl"))


def write_plugin(place, name, text):
    """Write an installed plugin of one module."""
    info = place / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[xtra_toolkit.plugins]\n{name} = {name}\n")
    (place / f"{name}.py").write_text(text)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt: "),
    ],
)
def test_a_plugin_that_exits_is_named_and_does_not_end_the_process(text, cause, place, monkeypatch):
    write_plugin(place, "exits", text)
    plugins.load_plugins()
    assert plugins.FAILED["exits"] == cause
    with pytest.raises(ValueError, match="plugin 'exits' failed to load"):
        build_mask(dict(type="xtra_toolkit.Nothing"))


def test_an_interrupt_of_the_user_is_not_swallowed(place):
    write_plugin(place, "slow", "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    # set the handler, since a shell lets its background jobs ignore the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            plugins.load_plugins()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("text", ["[xtra_toolkit.plugins]\nbroken\n", "[other]\n= = =\nx"])
def test_a_malformed_file_of_entry_points_is_named_and_breaks_no_other(text, place):
    write_plugin(place, "broken", "")
    (place / "broken-1.dist-info" / "entry_points.txt").write_text(text)
    write_plugin(place, "row_causal", FILES["row_causal.py"])
    plugins.load_plugins()
    assert "entry_points.txt cannot be read" in plugins.FAILED["broken"]
    assert build_mask(dict(type="xtra_toolkit.RowCausal")).random is False
    visible = list(env.plugins())
    assert [line for line in visible if "broken, failed: its entry_points.txt" in line]


def test_an_entry_point_that_names_no_module_is_named(place):
    write_plugin(place, "odd", "")
    (place / "odd-1.dist-info" / "entry_points.txt").write_text(
        "[xtra_toolkit.plugins]\nodd = no module!\n"
    )
    plugins.load_plugins()
    assert "odd" in plugins.FAILED


def test_a_plugin_that_replaces_a_built_in_is_left_out_and_named(place):
    """Its class may belong to another package; nothing else of the plugin is registered either."""
    write_plugin(
        place,
        "usurper",
        "from functools import partial\nfrom xtra_toolkit.registry import MASKS\n"
        "@MASKS.register_module()\nclass Whirl: ...\n"
        "MASKS.register_module(name='BlockCausal', module=int, force=True)\n",
    )
    taken = MASKS.get("BlockCausal")
    plugins.load_plugins()
    assert MASKS.module_dict["BlockCausal"] is taken and "Whirl" not in MASKS.module_dict
    assert "replaces the mask 'BlockCausal'" in plugins.FAILED["usurper"]


def test_a_plugin_that_registers_first_replaces_no_built_in(tmp_path, monkeypatch):
    """Nothing has been read from the registry yet, as in a run that builds its hooks first."""
    write_plugin(
        tmp_path,
        "early",
        "from xtra_toolkit.registry import MASKS\n"
        "MASKS.register_module(name='BlockCausal', module=int, force=True)\n",
    )
    code = (
        "from xtra_toolkit.registry import HOOKS, MASKS\nHOOKS.get('xtra_toolkit.SafeResume')\n"
        "from xtra_toolkit.plugins import FAILED\nassert 'early' in FAILED\n"
        "assert MASKS.get('BlockCausal').__module__ == 'xtra_toolkit.masks.block_causal'"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@pytest.mark.parametrize("build", [build_mask, build_target])
def test_a_scope_that_cannot_be_imported_is_named(build, place):
    (place / "their_lab" / "registry.py").write_text("import vortex\n")
    with pytest.raises(ValueError, match=r"; their_lab.registry cannot be imported: .*'vortex'"):
        build(dict(type="their_lab.Columns"))


def test_a_scopes_module_that_cannot_be_imported_is_named(place):
    for module in ("masks", "targets"):
        (place / "their_lab" / f"{module}.py").write_text("import vortex\n")
    with pytest.raises(ValueError, match=r"'their_lab.Columns' cannot be imported: .*'vortex'"):
        build_mask(dict(type="their_lab.Columns"))
    with pytest.raises(ValueError, match=r"'their_lab.Next' cannot be imported: .*'vortex'"):
        build_target(dict(type="their_lab.Next"))


def test_a_file_that_cannot_be_imported_is_named(place):
    (place / "row_causal.py").write_text("import vortex\n")
    with pytest.raises(ImportError, match="row_causal"):
        Config.fromfile(place / "row_digits.py")


@pytest.mark.parametrize(
    ("first", "theirs"), [("targets", "targets import NextBlock"), ("models", "models import *")]
)
def test_a_plugin_may_import_any_part_of_the_package(first, theirs, tmp_path, monkeypatch):
    info = tmp_path / "greedy-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: greedy\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[xtra_toolkit.plugins]\ngreedy = greedy\n")
    (tmp_path / "greedy.py").write_text(
        f"from xtra_toolkit.{theirs}\nfrom xtra_toolkit.masks import build_mask\n"
        "from xtra_toolkit.registry import MASKS\n@MASKS.register_module()\nclass Greedy: ...\n"
    )
    code = (
        f"import xtra_toolkit.{first}\nfrom xtra_toolkit.registry import MASKS\n"
        "assert MASKS.get('xtra_toolkit.Greedy')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    subprocess.run([sys.executable, "-W", "error::UserWarning:xtra", "-c", code], check=True)


def test_a_plugin_may_have_a_child_registry(place):
    """This is not the documented place for models, but a target is found there."""
    child = Registry("model", parent=MODELS, scope="below")
    try:
        child.register_module(name="Next", module=MODELS.get("NextBlock"))
        assert type(build_target(dict(type="below.Next"))).__name__ == "NextBlock"
    finally:
        del MODELS._children["below"]
