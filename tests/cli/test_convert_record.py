"""Test what ``xtra convert`` says of the encoder's record, and the options that complete it."""

from pathlib import Path

import pytest
import torch
from helpers.commands import xtra
from safetensors.torch import load_file

import xtra_toolkit

GOLDEN = Path(__file__).parents[1] / "golden" / "xtra_k2_weights.safetensors"
IMAGES = ("--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "xtra.pth"
    torch.save(load_file(GOLDEN), path)
    return path


def convert(source, target, *args):
    result = xtra("convert", source, target, "--to", "encoder", *args)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_output_names_what_the_source_does_not_tell(source, tmp_path):
    output = convert(source, tmp_path / "x.pth")
    assert "std=(0.229, 0.224, 0.225)" in output  # all runs of the original share it
    assert "heads is not known, which xtra_toolkit.load needs (--heads)" in output
    with pytest.raises(ValueError, match="does not tell the sizes of its encoder"):
        xtra_toolkit.load(tmp_path / "x.pth")


def test_heads_mean_and_std_make_a_file_that_loads(source, tmp_path):
    output = convert(source, tmp_path / "x.pth", "--heads", 3, *IMAGES)
    assert "not known" not in output and "normalisation: mean=" in output
    encoder, transform = xtra_toolkit.load(tmp_path / "x.pth")
    assert encoder.vit.layers[0].attn.num_heads == 3
    assert transform.mean == (127.5,) * 3 and transform.std == (63.75,) * 3
    assert transform.order == "RGB" and transform.size == (64, 64)
