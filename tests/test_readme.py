"""The configs and the mask in the README work as they are written."""

import difflib
import re
from pathlib import Path

import pytest
import torch
from helpers.builds import pretrainer
from mmpretrain.registry import MODELS
from test_mmpretrain_benchmarks import AT_256, OURS, POOLED

from xtra_toolkit.registry import MASKS

README = (Path(__file__).parents[1] / "README.md").read_text()
CONFIGS = Path(__file__).parents[1] / "mmconfigs"


def block(beginning, language="python"):
    """The one code block that has these words."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
    (found,) = [text for kind, text in blocks if kind == language and beginning in text]
    return found


@pytest.mark.parametrize("changes", [None, "# mmconfigs/mae_vit-b16.py"])
def test_the_compositions(changes):
    space = {}
    exec(block("# mmconfigs/xtra_vit-b16.py"), space)
    if changes:
        exec(block(changes), space)
    with torch.device("meta"):
        model = MODELS.build(space["model"])
    grid = model.backbone.grid
    images = torch.empty(2, 3, 16 * grid.rows, 16 * grid.cols, device="meta")
    model.loss(images)["loss"].backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_from_xtra_to_aim_the_readme_shows_the_files_own_lines():
    shown = block("aim_vit-b16.py", "diff").splitlines()[1:]
    files = [(CONFIGS / f"{n}_vit-b16.py").read_text().splitlines() for n in ("xtra", "aim")]
    changed = [line for line in difflib.unified_diff(*files, n=0) if re.match(r"[+-] ", line)]
    assert shown == changed


def test_the_line_for_mmpretrains_linear_probe_is_the_one_that_is_tested():
    text = block("vit-base-p16_8xb2048-linear", "")
    given = dict(re.findall(r"([\w.]+\.[\w.]+)=(\S+)", text.split("--cfg-options")[1]))
    checkpoint = given.pop("model.backbone.init_cfg.checkpoint")
    tested = {key: str(value) for key, value in (OURS | POOLED | AT_256).items()}
    val = {k.replace("val", "test"): v for k, v in tested.items() if k.startswith("val_")}
    assert given == tested | val and checkpoint.endswith(".pth")


def test_a_mask_of_your_own(monkeypatch):
    monkeypatch.setattr(MASKS, "_module_dict", dict(MASKS.module_dict))
    exec(block("class RowCausal"), {"__name__": "my_masks"})
    model = pretrainer(dict(type="RowCausal"), "block")
    assert (
        model.objective.bounds.num_computed == 56 and "7 predictions" in model.objective.certificate
    )


def test_every_config_and_folder_that_is_named_exists():
    names = re.findall(r"mmconfigs/[\w./-]+\.py", README)
    assert len(names) > 8 and not [n for n in names if not (CONFIGS.parent / n).exists()]
