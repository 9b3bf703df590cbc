"""Test what ``xtra show`` prints and draws, and how it refuses bad input."""

import contextlib
import functools
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import words, xtra

from xtra_toolkit.cli import main

ROOT = Path(__file__).parents[2] / "mmconfigs"
DIGITS = ROOT / "demo" / "xtra_digits.py"
LEAK = "model.target_generator.type=xtra_toolkit.NextToken"


show = functools.partial(xtra, "show", columns=100)


def test_show_prints_and_draws_xtra_b(tmp_path):
    result = show(ROOT / "xtra_vit-b16.py", "--out", tmp_path / "x.pdf", "--predict", 0)
    assert result.exit_code == 0, result.output
    output = words(result)
    for part in (
        "BlockCausal(block_size=4) × NextBlock(normalise=True) on a grid of 16×16 tokens (256×256",
        "16 of 256 positions (6.2 %) are read by no prediction and never computed",
        "prediction 0 (of 0 to 14): the outputs at positions 0 to 15, patches (0, 0) to (3, 3)",
        "encoder 240 of 256 staircase, sdpa 85.8 M 43.2 G",
        "decoder 240 of 256 staircase, sdpa 63.2 M 31.6 G",
        "head 15 predictions 151.0 M 4.5 G",
        "counted by torch.utils.flop_counter on the meta device",
        "252 253 254 255 attention in sequence order in raster order ⣿⣿",
    ):
        assert part in output
    assert all(len(line) <= 100 for line in result.output.splitlines())
    assert (tmp_path / "x.pdf").read_bytes().startswith(b"%PDF")


def test_show_takes_the_overrides_of_mim_train(tmp_path):
    """Several overrides may follow one flag, or each has its own."""
    one = show(DIGITS, "--cfg-options", "model.mask.block_size=4", "model.neck.depth=1")
    assert "3 predictions, each of 16 tokens" in words(one)
    two = "--cfg-options", "model.mask.block_size=4", "--cfg-options", "model.neck.depth=1"
    assert show(*two[:2], DIGITS, *two[2:]).output == one.output


def test_show_draws_a_random_mask_from_its_seed(tmp_path):
    config = tmp_path / "mae.py"
    config.write_text(
        f"_base_ = [{str(DIGITS)!r}]\n"
        "model = dict(mask=dict(_delete_=True, type='xtra_toolkit.RandomShown'),\n"
        "    target_generator=dict(_delete_=True, type='xtra_toolkit.MaskedPatches',\n"
        "        normalise=False))\n"
    )
    first, again, other = (show(config, "--seed", seed) for seed in (1, 1, 2))
    picture = tmp_path / "x.svg"
    assert show(config, "--seed", 2, "--out", picture).exit_code == 0
    assert "the mask is random; this is one draw of it, seed 2" in picture.read_text()
    assert "<!-- 16 visible -->" in picture.read_text()
    assert "the mask is random; this is one draw of it, seed 1" in words(first)
    assert first.output == again.output
    grids = [r.output.partition("order\n")[2] for r in (first, other)]
    assert grids[0] != grids[1] and grids[0].count("?") == 48 + 1 and grids[0].count("*") == 16 + 1
    assert "every position attends to every one, in the encoder of the visible ones" in grids[0]


@pytest.mark.filterwarnings("error:.*has been created")
def test_overrides_change_the_config_before_them_and_cfg_options_all(tmp_path):
    args = ("xtra_vit-b16", "model.mask.block_size=2", "aim_vit-b16", "--panels", "attention,order")
    result = show(*args, "--cfg-options", "model.backbone.img_size=64", "--out", tmp_path / "x.svg")
    assert result.exit_code == 0, result.output
    assert "BlockCausal(block_size=2) × NextBlock(normalise=True) on a grid of 4×4" in words(result)
    assert "TokenCausal × NextToken(normalise=True) on a grid of 4×4" in words(result)
    drawn = re.findall("<!-- (.*?) -->", (tmp_path / "x.svg").read_text())  # texts, in their order
    assert drawn.index("xtra_vit-b16") < drawn.index("aim_vit-b16")
    titles = [text for text in drawn if text.startswith(("attention in", "order on"))]
    orders = ["order on the image, units framed", "order on the image"]
    assert titles == ["attention in sequence order", "attention in sequence order", *orders]


def test_the_picture_is_written_though_nobody_reads_the_text(tmp_path):
    read, write = os.pipe()
    os.close(read)  # as head does once it has its lines
    closed = os.fdopen(write, "w")
    with contextlib.redirect_stdout(closed), pytest.raises(SystemExit) as left:
        main(["show", str(DIGITS), "--out", str(tmp_path / "x.png")])
    with contextlib.suppress(BrokenPipeError):  # of what is left in its buffer
        closed.close()
    assert left.value.code == 1
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_show_works_without_a_decoder_and_on_a_wide_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    np.save("data/clusters.npy", np.random.default_rng(0).uniform(-1, 1, (512, 3)))
    result = show(ROOT / "igpt_s.py", "model.backbone.arch.num_layers=2", "--out", "igpt.png")
    assert result.exit_code == 0, result.output
    assert "(32×32 tokens are too wide for this terminal; --out draws them)" in result.output
    assert "encoder 1024 of 1025" in words(result) and "decoder 1" not in words(result)
    assert Path("igpt.png").read_bytes().startswith(b"\x89PNG")


def test_a_leak_is_refused_and_shown(tmp_path):
    result = show(
        DIGITS, LEAK, "model.target_generator.normalise=False", "--out", tmp_path / "x.svg"
    )
    assert result.exit_code == 1
    output = words(result)
    assert (
        "refused BlockCausal × NextToken: the prediction of patch (0, 1) from position 0" in output
    )
    assert "leak prediction 0 (of 0 to 62): the output at position 0, patch (0, 0)" in output
    assert "parameters" not in output and "certificate" not in output
    picture = (tmp_path / "x.svg").read_text()
    assert "target that it sees" in picture and "BlockCausal(block_size=2)" in picture
    assert "the prediction of patch (0, 1) from position 0" in picture


def test_the_picture_does_not_depend_on_the_machine(tmp_path):
    result = show(DIGITS, "--out", tmp_path / "x.svg")
    picture = (tmp_path / "x.svg").read_text()
    assert "15 predictions, each of 4 tokens from 4 outputs" in picture
    assert "of training on this machine" in words(result)
    assert "machine" not in picture and "flop_counter" not in picture


def test_a_target_that_the_mask_cannot_serve_is_refused_with_the_mask():
    result = show(DIGITS, "model.target_generator.type=xtra_toolkit.MaskedPatches")
    assert result.exit_code == 1
    assert "refused MaskedPatches predicts hidden tokens" in words(result)
    assert "48 49 52 53" in words(result)


@pytest.mark.parametrize(
    ("args", "code", "sentence"),
    [
        (("absent.py",), 1, "'absent.py' is neither a config file nor the name of one shipped"),
        (("model.mask.block_size=2",), 2, "name a config before KEY=VALUE"),
        ((DIGITS, "--panels", "order,links"), 2, "there is no panel 'links'; name some of order,"),
        ((ROOT / "demo" / "probe_digits.py",), 1, "only a pretraining config has a mask and a"),
        ((ROOT / "_base_" / "runtime.py",), 1, "has no `model`; only a pretraining config"),
        (("broken.py",), 1, "broken.py cannot be read as a config: "),
        ((DIGITS, "model.mask"), 1, "'model.mask' is neither a config file nor the name of"),
        ((DIGITS, "--cfg-options", "model.mask"), 1, "'model.mask' was given; an override is KEY"),
        ((DIGITS, "model.mask.block_size=3"), 1, "blocks of 3×3 tokens do not tile a grid of 8×8"),
        ((DIGITS, "model.mask.type=Spiral"), 1, "unknown mask 'Spiral'; known masks: "),
        ((DIGITS, "model.neck.type=Spiral"), 1, "cannot be built: Spiral is not in the"),
        ((DIGITS, "model.neck.spiral=1"), 1, "unexpected keyword argument 'spiral'"),
        ((DIGITS, "--predict", 15), 1, "makes 15 predictions an image, 0 to 14"),
        ((DIGITS, "--out", "x.gif"), 2, "x.gif: name a file that ends in .pdf, .png, .svg"),
        ((DIGITS, "--out", "nowhere/x.png"), 2, "nowhere/x.png: there is no folder"),
    ],
)
def test_invalid_input_is_refused_with_a_message(args, code, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("model = dict(\n")
    result = show(*args)
    assert sentence in words(result)
    assert result.exit_code == code
    assert isinstance(result.exception, SystemExit)  # no traceback
