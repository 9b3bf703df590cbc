"""The configs and the mask in the README work as they are written."""

import re
from pathlib import Path

import pytest
import torch
from builds import pretrainer
from mmpretrain.registry import MODELS

from xtra_toolkit.registry import MASKS

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("name", ["XTRA", "AIM", "MAE"])
def test_the_three_objectives(name):
    space = {}
    for block in BLOCKS[:3]:
        exec(block, space)
        if block.startswith(f"# {name}"):
            break
    with torch.device("meta"):
        model = MODELS.build(space["model"])
    grid = model.backbone.grid
    images = torch.empty(2, 3, 16 * grid.rows, 16 * grid.cols, device="meta")
    model.loss(images)["loss"].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_a_mask_of_your_own(monkeypatch):
    monkeypatch.setattr(MASKS, "_module_dict", dict(MASKS.module_dict))
    exec(BLOCKS[4], {"__name__": "my_masks"})
    model = pretrainer(dict(type="RowCausal"), "block")
    assert model.planner.bounds.keep == 56 and "7 predictions" in model.planner.certificate
