"""Test that MMPretrain's model zoo lists the models."""

import pytest
import torch
from helpers import builds  # noqa: F401, quiet logging
from mmpretrain import get_model, list_models

import xtra_toolkit
from xtra_toolkit.models.hub import configs


def test_list_models_and_get_model():
    ours = {"xtra_vit-b16", "xtra_vit-h14", "aim_vit-b16", "aim_vit-600m-p14", "mae_vit-h14"}
    ours |= {"maskfeat_vit-b16", "simmim_vit-b16", "nepa_vit-b14", "pixio_vit-h16"}
    assert ours <= set(list_models())
    with torch.device("meta"):
        model = get_model("xtra_vit-b16")
    assert type(model).__name__ == "MaskTargetPretrainer"


def test_a_folder_that_hides_the_package(monkeypatch):
    """Python takes a folder above the clone for a package without a file."""
    monkeypatch.setattr(xtra_toolkit, "__file__", None)
    monkeypatch.setattr(xtra_toolkit, "__path__", ["/above/xtra_toolkit"])
    with pytest.raises(ValueError, match=r"'/above/xtra_toolkit' for the package .* another fold"):
        configs()
