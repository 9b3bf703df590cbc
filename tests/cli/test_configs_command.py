"""Test ``xtra configs``: list the shipped configs from any folder."""

from click.testing import CliRunner

from xtra_toolkit.cli import main
from xtra_toolkit.comparison.plan import find_config


def test_the_command_lists_configs_with_size_and_cost_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = CliRunner().invoke(main, ["configs"]).output.splitlines()
    names = [line.split()[0] for line in lines[1:-2]]
    assert {"xtra_vit-b16", "aim_vit-b16", "mae_vit-ti16", "cifar10_xtra"} <= set(names)
    (line,) = [line for line in lines if line.startswith("xtra_vit-ti16 ")]
    assert line.split()[1:] == ["256/16", "5.5", "33.1", "6.10", "GFLOP"]
    assert all(find_config(name).is_file() for name in names)
