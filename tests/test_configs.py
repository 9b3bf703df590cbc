"""Every shipped config: built and stepped at full size on the meta device; types prefixed."""

import difflib
from pathlib import Path

import builds  # noqa: F401, sets the scope
import numpy as np
import photographs
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import DATASETS, MODELS

ROOT = Path(__file__).parents[1] / "mmconfigs"
CONFIGS = sorted(p for p in ROOT.rglob("*.py") if "_base_" not in p.parts)
RECIPES = [p for p in CONFIGS if "def main" not in p.read_text()]
OTHERS = ROOT / "benchmarks" / "mmpretrain"  # inherit MMPretrain's configs, whose types are bare
PRETRAINING = [p for p in RECIPES if Config.fromfile(p).model.type.endswith("Pretrainer")]


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def clusters(tmp_path, monkeypatch):
    """What ``xtra clusters`` would have made, for iGPT."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    np.save("data/clusters.npy", np.random.default_rng(0).uniform(-1, 1, (512, 3)))


def on_meta(config):
    with torch.device("meta"):
        return MODELS.build(Config.fromfile(config).model)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("config", PRETRAINING, ids=name)
def test_every_pretraining_config_steps_and_every_parameter_has_a_gradient(config):
    model = on_meta(config)
    grid = model.backbone.grid
    size = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    loss = model.loss(torch.empty(2, grid.channels, *size, device="meta"))["loss"]
    loss.backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("config", [p for p in RECIPES if OTHERS not in p.parents], ids=name)
def test_every_type_in_a_config_is_prefixed(config):
    def types(node):
        if isinstance(node, dict):
            if isinstance(node.get("type"), str):
                yield node["type"]
            node = list(node.values())
        if isinstance(node, list | tuple):
            for child in node:
                yield from types(child)

    bare = {t for t in types(Config.fromfile(config)._cfg_dict) if "." not in t}
    assert bare <= {"Pretrained"}  # MMEngine compares this one by its name


@pytest.mark.parametrize(
    ("config", "encoder", "decoder", "head"),
    [
        ("xtra_vit-b16.py", 85.7, 63.3, 151.0),
        ("xtra_vit-h14.py", 630.8, 49.6, 184.9),
        ("mae_vit-b16.py", 85.8, 25.8, 0.394),
        ("mae_vit-l16.py", 303.3, 25.9, 0.394),
        ("mae_vit-h14.py", 630.8, 26.0, 0.302),
        ("aim_vit-600m-p14.py", 681, 407, 1.2),
        ("igpt_s.py", 76.2, 0, 0.263),
    ],
)
def test_parameter_counts(config, encoder, decoder, head):
    """In millions. 85M and 632M encoders, AIM's 681M (600M in its tables), iGPT-S's 76M."""
    model = on_meta(ROOT / config)
    neck = model.neck if model.with_neck else torch.nn.Identity()
    for part, count in ((model.backbone, encoder), (neck, decoder), (model.head, head)):
        assert millions(part) == pytest.approx(count, rel=0.01)


def test_from_xtra_to_aim_two_lines_change():
    """The mask line and the target line, in the files as they are."""
    xtra, aim = ((ROOT / f"{n}_vit-b16.py").read_text().splitlines() for n in ("xtra", "aim"))
    changed = [line for line in difflib.ndiff(xtra, aim) if line[0] in "+-"]
    assert [line.split("=")[0].strip() for line in changed] == [
        "-     mask",
        "-     target_generator",
        "+     mask",
        "+     target_generator",
    ] or [line[0] + line.split("=")[0][1:].strip() for line in changed] == [
        "-mask",
        "+mask",
        "-target_generator",
        "+target_generator",
    ]


@pytest.mark.parametrize("config", [p for p in PRETRAINING if p.parent == ROOT], ids=name)
def test_the_pipeline_of_every_main_config_runs(config, tmp_path):
    photographs.write(tmp_path / "photos", 1)
    dataset = Config.fromfile(config).train_dataloader.dataset
    sample = DATASETS.build(dict(dataset, data_root=str(tmp_path / "photos")))[0, 0, 0]
    backbone = Config.fromfile(config).model.backbone
    assert sample["inputs"].shape == (3, backbone.img_size, backbone.img_size)


def test_the_recipe_of_xtra_b():
    """What the facts say of the released checkpoint."""
    config = Config.fromfile(ROOT / "xtra_vit-b16.py")
    assert config.train_cfg.max_epochs == 800 and config.train_cfg.global_batch == 2048
    assert config.model.backbone.drop_path_rate == 0.1
    assert [s.end for s in config.param_scheduler] == [15, 800]
    assert config.optim_wrapper.optimizer.betas == (0.9, 0.95)


def test_weight_decay_spares_one_dimensional_parameters_and_takes_position_tables():
    from mmengine.optim import build_optim_wrapper

    config = Config.fromfile(Path(__file__).parent / "configs" / "xtra_tiny.py")
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    decay = {id(g["params"][0]): g["weight_decay"] for g in wrapper.optimizer.param_groups}
    for n, p in model.named_parameters():
        assert decay[id(p)] == (0.0 if p.ndim == 1 else 0.05), n
