"""Test that the wheel holds every module and config."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_wheel_holds_every_module_and_config(tmp_path):
    source = tmp_path / "source"
    for name in ("xtra_toolkit", "mmconfigs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    code = [*(source / "xtra_toolkit").rglob("*.py"), *(source / "xtra_toolkit").rglob("page.*")]
    for path in code:
        assert str(path.relative_to(source)) in held
    for path in (source / "mmconfigs").rglob("*"):
        if path.suffix in (".py", ".yml"):
            assert f"xtra_toolkit/{path.relative_to(source)}" in held
