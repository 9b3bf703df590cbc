"""Test that MMPretrain's model zoo lists the models."""

import torch
from helpers import builds  # noqa: F401, quiet logging
from mmpretrain import get_model, list_models

import xtra_toolkit.models  # noqa: F401, registers them


def test_list_models_and_get_model():
    ours = {"xtra_vit-b16", "xtra_vit-h14", "aim_vit-b16", "aim_vit-600m-p14", "mae_vit-h14"}
    ours |= {"maskfeat_vit-b16", "simmim_vit-b16"}
    assert ours <= set(list_models())
    with torch.device("meta"):
        model = get_model("xtra_vit-b16")
    assert type(model).__name__ == "MaskTargetPretrainer"
