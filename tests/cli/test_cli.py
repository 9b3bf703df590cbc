"""Test what the commands write and print, and how they refuse bad input."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from helpers.commands import xtra
from safetensors import safe_open
from safetensors.torch import load_file

from xtra_toolkit.cli import main
from xtra_toolkit.cli.env import versions
from xtra_toolkit.weights import checkpoint
from xtra_toolkit.weights.checkpoint import LAYOUTS, MASK

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS, OTHER = GOLDEN / "xtra_k2_weights.safetensors", GOLDEN / "ijepa.safetensors"
JSON = '{"type": "BlockCausal", "block_size": 4}'


def test_convert_writes_a_file_that_loads_with_weights_only(tmp_path):
    result = xtra("convert", WEIGHTS, tmp_path / "x.pth")
    assert result.exit_code == 0, result.output
    assert "64 tensors, layout pretrainer, a grid of 8×8 tokens" in result.output
    assert "BlockCausal" in result.output
    content = torch.load(tmp_path / "x.pth", weights_only=True)
    assert MASK in content["state_dict"]
    assert content["meta"]["encoder_mask"]["block_size"] == 2


def test_files_for_stock_vits_record_full_attention(tmp_path):
    args = ("--to", "timm", "--full-attention")
    result = xtra("convert", WEIGHTS, tmp_path / "x.safetensors", *args)
    assert result.exit_code == 0 and "full attention" in result.output
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        meta, names = file.metadata(), set(file.keys())
    assert json.loads(meta["attention"]) == "full" and "BlockCausal" in meta["encoder_mask"]
    assert {"pos_embed", "blocks.1.mlp.fc2.bias", "norm.weight"} <= names


def test_a_converted_file_can_be_converted_again(tmp_path):
    assert xtra("convert", WEIGHTS, tmp_path / "a.pth").exit_code == 0
    assert xtra("convert", tmp_path / "a.pth", tmp_path / "b.pth", "--to", "encoder").exit_code == 0
    names = torch.load(tmp_path / "b.pth", weights_only=True)["state_dict"]
    assert all(name.startswith("backbone.") for name in names)


@pytest.mark.parametrize("given", ["TokenCausal", "xtra_toolkit.TokenCausal", JSON])
def test_a_mask_is_named_or_given_as_json(tmp_path, given):
    assert xtra("convert", WEIGHTS, tmp_path / "x.pth", "--mask", given).exit_code == 0
    mask = torch.load(tmp_path / "x.pth", weights_only=True)["meta"]["encoder_mask"]
    assert mask["type"].startswith("xtra_toolkit.")
    assert mask.get("block_size", 4) == 4


def aims(folder):
    """Write AIM's trunk and its probe head in two files, as Apple publishes them."""
    golden = load_file(GOLDEN / "aim_trunk.safetensors")
    trunk = {n.removeprefix("weight/"): v for n, v in golden.items() if n.startswith("weight/")}
    head = {"head.cls_token": torch.ones(1, 1, 48), "head.linear.weight": torch.ones(10, 48)}
    torch.save(trunk, folder / "trunk.pth")
    torch.save(head, folder / "head.pth")
    return folder / "trunk.pth", folder / "head.pth"


def test_the_trunk_and_the_head_of_aim_become_a_classifier(tmp_path):
    trunk, head = aims(tmp_path)
    args = ("convert", trunk, tmp_path / "x.pth", "--head", head, "--to", "classifier")
    result = xtra(*args, "--img-size", 64, 64)
    assert result.exit_code == 0, result.output
    assert "a grid of 8×8 tokens" in result.output and "PrefixCausal" in result.output
    state = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    assert state["head.probes.0.queries"].shape == (1, 48)
    assert state["backbone.pos_embed"].shape == (1, 64, 48)
    refused = xtra("convert", trunk, tmp_path / "y.pth", "--head", trunk, "--to", "classifier")
    assert refused.exit_code == 2 and "SOURCE and --head both hold 'preproc" in refused.output


def test_the_output_names_what_the_conversion_left_out(tmp_path):
    import timm

    shape = dict(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=3, num_classes=10)
    model = timm.models.VisionTransformer(**shape)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "timm.pth")
    result = xtra("convert", tmp_path / "timm.pth", tmp_path / "x.pth", "--to", "encoder")
    assert result.exit_code == 0, result.output
    assert "Bidirectional" in result.output and "the classifier (head) is left" in result.output


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        ((WEIGHTS, "x.pth", "--to", "timm"), 1, "would run it with full attention"),
        ((OTHER, "x.pth"), 1, "Error: no encoder was found"),
        ((WEIGHTS, "x.pth", "--mask", "Spiral"), 1, "unknown mask"),
        ((WEIGHTS, "x.pth", "--mask", "{"), 2, "a mask is a name like TokenCausal, or JSON"),
        ((WEIGHTS, "x.pth", "--mask", "{}"), 2, "a mask is a name like TokenCausal, or JSON"),
        (("absent.pth", "x.pth"), 2, "'absent.pth' does not exist"),
        ((WEIGHTS, WEIGHTS), 2, "exists; name another file, or overwrite it with --force"),
    ],
)
def test_invalid_input_is_refused_with_a_message(args, code, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = xtra("convert", *args)
    assert not Path("x.pth").exists()
    assert result.exit_code == code
    assert sentence in " ".join(result.output.split())
    assert isinstance(result.exception, SystemExit)  # no traceback


def test_force_overwrites_the_target(tmp_path):
    (tmp_path / "x.pth").write_text("old")
    assert xtra("convert", WEIGHTS, tmp_path / "x.pth", "--force").exit_code == 0
    assert torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]


def test_a_file_can_be_converted_in_place(tmp_path):
    path = shutil.copy(WEIGHTS, tmp_path / "x.safetensors")
    assert xtra("convert", path, path, "--to", "timm", "--full-attention", "--force").exit_code == 0
    assert torch.equal(load_file(path)["norm.weight"], load_file(WEIGHTS)["enc.norm.weight"])
    assert list(tmp_path.iterdir()) == [path]


def test_an_unexpected_error_keeps_its_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.Checkpoint, "of", lambda *_: int("not ours"))
    assert isinstance(xtra("convert", OTHER, tmp_path / "x.pth").exception, ValueError)


@pytest.mark.parametrize("name", ["AMX", "AVX-512 bf16", None])
def test_env_names_versions_devices_back_ends_and_plugins(name, processor, monkeypatch):
    processor(name)
    monkeypatch.setattr("xtra_toolkit.attention.processor._measure", lambda: 0.5)
    output = xtra("env").output
    for part in ("torch ", "CUDA build", "CPU ", "attention", "plugin "):
        assert part in output
    lines = output.splitlines()
    assert any(line.split() == ["eager", "all:", "serves"] for line in lines)
    takes = next(line for line in lines if line.startswith("  auto") and "takes sdpa" in line)
    assert "full fp32, causal fp32, staircase fp32" in takes if name else "all:" in takes
    assert any(line.split() == ["staircase", "all:", "serves"] for line in lines)
    assert any("xformers" in line and "cannot serve" in line for line in lines)
    why = f"matmul, since the processor has {name}" if name else "0.50 times as fast as sdpa"
    assert any("auto, bf16, up to 384 tokens" in line and why in line for line in lines)


@pytest.mark.parametrize("given", ["mmpretrain", "onedl-mmpretrain", "both", "none"])
def test_env_names_the_original_or_the_fork_of_a_package(given, monkeypatch):
    packages = {"both": ("mmpretrain", "onedl-mmpretrain"), "none": ()}.get(given, (given,))

    def version(name):
        if name not in packages:
            raise PackageNotFoundError
        return "1.2.3"

    monkeypatch.setattr("xtra_toolkit.cli.env.version", version)
    lines = [line.split(maxsplit=1) for line in versions()]
    found = {name: text for name, text in lines if "mmpretrain" in name}
    assert found == (dict.fromkeys(packages, "1.2.3") or {"mmpretrain": "not installed"})


def test_env_names_a_plugin_that_failed(monkeypatch):
    from importlib.metadata import EntryPoint

    from xtra_toolkit import plugins

    point = EntryPoint("spiral", "absent", "xtra_toolkit.plugins")
    monkeypatch.setattr(plugins, "installed", lambda: {"spiral": point})
    monkeypatch.setitem(plugins.FAILED, "spiral", "ImportError: no such module")
    assert "plugin           spiral, failed: ImportError: no such module" in xtra("env").output


def test_help_lists_the_commands_without_heavy_imports():
    code = (
        "import sys; from click.testing import CliRunner; from xtra_toolkit.cli import main\n"
        "print(CliRunner().invoke(main, ['--help']).output)\n"
        "print(sorted({'torch', 'mmengine', 'mmpretrain', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "convert" in run.stdout and "env" in run.stdout
    assert run.stdout.endswith("[]\n")


def test_the_help_says_how_the_conversion_was_tested():
    text = " ".join(xtra("convert", "--help").output.split())
    assert "not tested on released checkpoints" in text


def test_the_command_line_offers_every_layout():
    option = next(p for p in main.get_command(None, "convert").params if p.name == "layout")
    assert tuple(option.type.choices) == LAYOUTS


def test_the_mask_of_a_plugin_is_converted_if_its_module_is_named(tmp_path, monkeypatch):
    from helpers.builds import pretrainer

    from xtra_toolkit.models.encoder_mask import pack
    from xtra_toolkit.registry import MASKS

    monkeypatch.setattr(MASKS, "_module_dict", dict(MASKS.module_dict))
    (tmp_path / "my_snail.py").write_text(
        "from xtra_toolkit.masks import TokenCausal\n"
        "from xtra_toolkit.registry import MASKS\n"
        "MASKS.register_module(name='Snail', module=type('Snail', (TokenCausal,), {}))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = pretrainer("token", "token")
    state = model.state_dict()
    state["backbone.xtra_toolkit_attention_mask.json"] = pack(
        dict(type="Snail"), model.backbone.grid
    )
    torch.save(dict(state_dict=state), tmp_path / "snail.pth")
    command = ["convert", str(tmp_path / "snail.pth"), str(tmp_path / "out.pth")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1 and "--import of xtra convert" in refused.output
    done = CliRunner().invoke(main, [*command, "--import", "my_snail"])
    assert done.exit_code == 0 and "Snail" in done.output, done.output
