"""Test that the core needs no MMPretrain, and that rooms import each other in one direction."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ("grid", "objective", "masks", "targets", "attention")
BUILDERS = {"xtra_toolkit.masks.build_mask", "xtra_toolkit.targets.build_target"}


def test_the_core_imports_neither_mmpretrain_nor_mmcv():
    code = (
        "import sys, importlib\n"
        f"for name in {CORE}: importlib.import_module('xtra_toolkit.' + name)\n"
        "assert not {'mmpretrain', 'mmcv', 'xformers'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@cache
def imported_names():
    """Return what each module imports from the package, also inside functions."""
    names = {}
    for path in sorted((ROOT / "xtra_toolkit").rglob("*.py")):
        if "templates" in path.parts:
            continue
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        names[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names[module] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names[module] |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports():
    """Return the modules of the package that each module imports."""
    names = imported_names()
    return {
        module: {name if name in names else name.rpartition(".")[0] for name in found}
        & (names.keys() - {module})
        for module, found in names.items()
    }


def room(module):
    return module.split(".")[1] if "." in module else module


def test_no_module_imports_itself_through_others():
    below = imports()
    while True:  # remove modules that import nothing that is left: a cycle stays
        leaves = {module for module, others in below.items() if not others & below.keys()}
        if not leaves:
            break
        below = {module: others for module, others in below.items() if module not in leaves}
    assert sorted(below) == []


def test_rooms_import_each_other_in_one_direction():
    between = {
        (room(module), room(other))
        for module, others in imports().items()
        for other in others
        if room(module) != room(other) and "xtra_toolkit" not in (room(module), room(other))
    }
    assert len(between) > 20
    assert sorted(pair for pair in between if pair[::-1] in between) == []


@pytest.mark.parametrize("name", ["masks", "targets"])
def test_models_reach_masks_and_targets_only_through_the_compiled_objective(name):
    """The models build them from configs and read no member of any of them."""
    used = {
        found
        for module, names in imported_names().items()
        if room(module) == "models"
        for found in names
        if found.startswith(f"xtra_toolkit.{name}.")
    }
    used = {found for found in used if not found.startswith("xtra_toolkit.masks.rng.")}  # no mask
    assert used - BUILDERS <= {"xtra_toolkit.masks.build.check_registered"}
