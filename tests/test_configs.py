"""Test every shipped config: build and step it at full size on the meta device."""

import difflib
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    builds,  # noqa: F401, sets the scope
    photographs,
)
from mmengine.config import Config
from mmpretrain.registry import DATASETS, MODELS

from xtra_toolkit.engine.config_keys import refuse_unknown_arguments

ROOT = Path(__file__).parents[1] / "mmconfigs"
CONFIGS = sorted(p for p in ROOT.rglob("*.py") if "_base_" not in p.parts)
RECIPES = [p for p in CONFIGS if "def main" not in p.read_text()]
OTHERS = ROOT / "benchmarks" / "mmpretrain"  # inherit MMPretrain's configs, whose types are bare
PRETRAINING = [p for p in RECIPES if Config.fromfile(p).model.type.endswith("Pretrainer")]


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(autouse=True)
def clusters(tmp_path, monkeypatch):
    """Write clusters for iGPT, as ``xtra clusters`` makes them."""
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
    loss = model.loss(torch.empty(2, grid.channels, *grid.img_size, device="meta"))["loss"]
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


@pytest.mark.parametrize("config", RECIPES, ids=name)
def test_every_key_of_a_config_is_known(config):
    refuse_unknown_arguments(Config.fromfile(config))


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
def test_parameter_counts_are_those_of_the_papers(config, encoder, decoder, head):
    """Counts are in millions: 85M, 632M, AIM's 681M (600M in its tables) and iGPT-S's 76M."""
    model = on_meta(ROOT / config)
    neck = model.neck if model.with_neck else torch.nn.Identity()
    for part, count in ((model.backbone, encoder), (neck, decoder), (model.head, head)):
        assert millions(part) == pytest.approx(count, rel=0.01)


def test_xtra_and_aim_differ_in_two_lines():
    """Compare the files as they are: the line of the mask and that of the target differ."""
    xtra, aim = ((ROOT / f"{n}_vit-b16.py").read_text().splitlines() for n in ("xtra", "aim"))
    changed = [line for line in difflib.unified_diff(xtra, aim, n=0) if line[1] == " "]
    assert [line.split("=")[0].split() for line in changed] == [
        ["-", "mask"],
        ["-", "target_generator"],
        ["+", "mask"],
        ["+", "target_generator"],
    ]


@pytest.mark.parametrize("config", [p for p in PRETRAINING if p.parent == ROOT], ids=name)
def test_the_pipeline_of_every_main_config_runs(config, tmp_path):
    photographs.write(tmp_path / "photos", 1)
    dataset = Config.fromfile(config).train_dataloader.dataset
    sample = DATASETS.build(dict(dataset, data_root=str(tmp_path / "photos")))[0, 0, 0]
    backbone = Config.fromfile(config).model.backbone
    assert sample["inputs"].shape == (3, backbone.img_size, backbone.img_size)


RECIPES_OF_THE_PAPERS = {
    # epochs, batch, warm-up, rate, end, decay, clip, crop, what only this one has
    "xtra_vit-b16": (800, 2048, 15, 1e-3, 1e-6, 0.05, 1.0, (0.3, 1.0), "drop_path_rate=0.1"),
    "xtra_vit-h14": (100, 2048, 3, 1e-3, 1e-6, 0.05, 1.0, (0.3, 1.0), "drop_path_rate=0.2"),
    "aim_vit-b16": (800, 2048, 15, 1e-3, 1e-6, 0.05, 1.0, (0.3, 1.0), "drop_path_rate=0.1"),
    "aim_vit-600m-p14": (400, 4096, 10, 1e-3, 0, 0.05, 1.0, (0.4, 1.0), "hue=0.1 brightness=0.4"),
    "mae_vit-b16": (800, 4096, 40, 2.4e-3, 0, 0.05, None, (0.2, 1.0), "mask_ratio=0.75"),
    "mae_vit-l16": (800, 4096, 40, 2.4e-3, 0, 0.05, None, (0.2, 1.0), "mask_ratio=0.75"),
    "mae_vit-h14": (800, 4096, 40, 2.4e-3, 0, 0.05, None, (0.2, 1.0), "mask_ratio=0.75"),
    "igpt_s": (100, 128, 1, 3e-3, 0, 0.0, None, None, "crop_size=224"),
}


def values_of(node, name):
    """Return all values under a name, anywhere in a config."""
    if isinstance(node, dict):
        yield from ([node[name]] if name in node else [])
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        yield from values_of(child, name)


@pytest.mark.parametrize("recipe", RECIPES_OF_THE_PAPERS)
def test_recipes_are_those_of_the_papers(recipe):
    """The numbers are those of the papers, the released checkpoints and their recipes."""
    config = Config.fromfile(ROOT / f"{recipe}.py")
    warm_up, cosine = config.param_scheduler
    wrapper = config.optim_wrapper
    crop = list(values_of(config.train_dataloader, "crop_ratio_range"))
    assert (
        config.train_cfg.max_epochs,
        config.train_cfg.global_batch,
        warm_up.end,
        wrapper.optimizer.lr,
        cosine.get("eta_min", 0),
        wrapper.optimizer.weight_decay,
        wrapper.clip_grad and wrapper.clip_grad.max_norm,
        crop[0] if crop else None,
    ) == RECIPES_OF_THE_PAPERS[recipe][:-1]
    assert wrapper.optimizer.betas == (0.9, 0.95)
    assert (cosine.begin, cosine.end) == (warm_up.end, config.train_cfg.max_epochs)
    for part in RECIPES_OF_THE_PAPERS[recipe][-1].split():
        name, value = part.split("=")
        assert list(values_of(config._cfg_dict, name)) == [float(value)], part


@pytest.mark.parametrize("config", PRETRAINING, ids=name)
def test_every_loss_is_the_mean_over_the_whole_batch(config):
    """The heads are built, since most configs leave ``reduction`` to its default."""
    head = MODELS.build(dict(Config.fromfile(config).model.head, shapes=[(1, 1)]))
    assert head.reduction == "batch"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("xtra_vit-b16.py", dict(qkv=0.02, conv=(2 / 768) ** 0.5, pos=0.02)),
        (
            "mae_vit-b16.py",
            dict(qkv=(2 / (4 * 768)) ** 0.5, conv=(2 / (2 * 768)) ** 0.5, cls=0.02, mask=0.02),
        ),
        (
            "aim_vit-600m-p14.py",
            dict(qkv=(2 / (4 * 96)) ** 0.5, conv=(2 / (96 + 588)) ** 0.5),
        ),
        ("igpt_s.py", dict(qkv=0.02, conv=0.02, pos=0.02, cls=0.02)),
    ],
)
def test_parameters_are_initialised_as_in_the_original_code(config, expected):
    """Compare standard deviations: truncated normal and kaiming of XTRA, xavier of MAE and AIM."""
    model = Config.fromfile(ROOT / config).model
    if "600m" in config:  # as wide as fits a test
        model.backbone.arch.update(
            embed_dims=96, num_layers=2, num_heads=3, feedforward_channels=384
        )
        model.neck.update(width=64, depth=1)
    else:
        arch = dict(embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=768)
        arch.update(embed_dims=512, num_heads=8) if "igpt" in config else None
        model.backbone.arch = Config(dict(arch=arch)).arch
    model.head.hidden = None
    torch.manual_seed(0)
    model = MODELS.build(model)
    model.init_weights()
    vit = model.backbone
    found = dict(
        qkv=vit.layers[0].attn.qkv.weight,
        conv=vit.patch_embed.projection.weight,
        pos=vit.pos_embed if vit.pos_embed.requires_grad else None,
        cls=vit.cls_token,
        mask=model.neck.mask_token if model.with_neck else None,
    )
    assert {name for name, value in found.items() if value is not None} == expected.keys()
    for name, deviation in expected.items():
        assert float(found[name].std()) == pytest.approx(deviation, rel=0.08), name


def test_weight_decay_applies_to_position_tables_and_not_to_biases_and_norms():
    from mmengine.optim import build_optim_wrapper

    config = Config.fromfile(Path(__file__).parent / "configs" / "xtra_tiny.py")
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    decay = {id(g["params"][0]): g["weight_decay"] for g in wrapper.optimizer.param_groups}
    for n, p in model.named_parameters():
        assert decay[id(p)] == (0.0 if p.ndim == 1 else 0.05), n


@pytest.mark.parametrize("config", RECIPES, ids=name)
def test_every_config_accepts_trackers_by_name(config):
    config = Config.fromfile(config)
    config.merge_from_dict({"visualizer.vis_backends": "tensorboard"})
    assert config.visualizer.type == "xtra_toolkit.Visualizer"
