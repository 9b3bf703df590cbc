"""MMPretrain's own model zoo knows the models."""

import builds  # noqa: F401, quiet logging
import torch
from mmpretrain import get_model, list_models

import xtra_toolkit.models  # noqa: F401, registers them


def test_list_models_and_get_model():
    assert {"xtra_vit-b16", "xtra_vit-h14"} <= set(list_models("*xtra*"))
    with torch.device("meta"):
        model = get_model("xtra_vit-b16")
    assert type(model).__name__ == "MaskTargetPretrainer"
