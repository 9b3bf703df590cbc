"""Test that activation checkpointing (``model.with_cp=True``) saves memory; gradients are equal."""

import copy
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tiny_runs
from helpers.builds import AIM, MAE, XTRA, arch, pretrainer, randomise
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch.nn.parallel import DistributedDataParallel

from xtra_toolkit.engine import AutocastOptimWrapper, MasterWeightsOptimWrapper

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "mmconfigs").glob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*/README.md"))
SEEDS = [DataSample(metainfo=dict(draw_seed=seed, step_seed=5)) for seed in (11, 12)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write the files that the configs of iGPT and FrozenTeacher name."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    np.save("data/clusters.npy", np.random.default_rng(0).uniform(-1, 1, (16, 3)))
    teacher = dict(type="VisionTransformer", arch=arch(24, 2, 2), img_size=32, patch_size=4)
    teacher["arch"]["feedforward_channels"] = 48
    torch.save(MODELS.build(teacher).state_dict(), "teacher.pth")


def tiny(file):
    """Return the model of a config or a plugin's README with smaller widths and depths."""
    if file.suffix == ".py":
        config = copy.deepcopy(Config.fromfile(file).model)
    else:
        space = {}
        for code in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL):
            exec(code, space)
        config = space["model"]
    config["backbone"].update(arch=arch(24, 3, 2), drop_path_rate=0.4)
    small = dict(width=24, depth=3, heads=2, projection=48, hidden=48)
    for part in filter(None, (config["neck"], config["head"])):
        part.update({key: small[key] for key in small if part.get(key)})
    if config["backbone"].get("fused_layers"):
        config["backbone"]["fused_layers"] = [0, 1]
    if config["neck"] and config["neck"].get("memory_layers"):
        config["neck"]["memory_layers"] = [0, 1, 2, 3]
    return config


def step(model, images):
    """Return loss, gradients, and the bytes that autograd keeps between forward and backward."""
    held = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.loss(images, SEEDS)["loss"]
    for parameter in model.parameters():
        held.pop(parameter.untyped_storage().data_ptr(), None)
    loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads, sum(held.values())


def same(one, other):
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("file", [*SHIPPED, *PLUGINS], ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_composition_keeps_its_loss_and_gradients_and_holds_less(file, files, monkeypatch):
    if file in PLUGINS:
        monkeypatch.syspath_prepend(file.parent)
        importlib.import_module(file.parent.name)
    config = tiny(file)
    model, recomputed = (MODELS.build(dict(config, with_cp=cp)) for cp in (False, True))
    recomputed.load_state_dict(randomise(model).state_dict())
    grid = model.backbone.grid
    images = torch.randn(2, 3, *grid.img_size)
    loss, grads, held = step(model.train(), images)
    again, others, less = step(recomputed.train(), images)
    assert torch.equal(loss, again)
    same(grads, others)
    # a diffusion head, which is not computed again, keeps more than these narrow layers
    assert less < (1 if model.head.random else 0.6) * held


def twice(pair=XTRA, **backbone):
    """Train the same model without and with activation checkpointing, with drop path."""
    model = randomise(pretrainer(*pair, drop_path_rate=0.5, **backbone)).train()
    recomputed = copy.deepcopy(model)
    layers = [layer for layer in recomputed.modules() if hasattr(layer, "with_cp")]
    assert len(layers) == 4
    for layer in layers:
        layer.with_cp = True
    return model, recomputed


@pytest.mark.parametrize("attention", ["eager", "sdpa", "matmul", "staircase"])
def test_every_attention_on_this_machine(attention):
    results = [step(model, torch.ones(2, 3, 64, 64)) for model in twice(attention=attention)]
    assert torch.equal(results[0][0], results[1][0])
    same(results[0][1], results[1][1])


@pytest.mark.parametrize("masters", [False, True])
def test_accumulated_in_bfloat16_and_distributed(masters, tmp_path):
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/s", rank=0, world_size=1)
    weights, kind = [], MasterWeightsOptimWrapper if masters else AutocastOptimWrapper
    options = dict(accumulative_counts=2) | ({} if masters else dict(devices=["cpu"]))
    try:
        for model in twice(AIM):
            ddp = DistributedDataParallel(model)
            adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
            optim = kind(optimizer=adamw, clip_grad=dict(max_norm=1), **options)
            torch.manual_seed(0)
            for _ in range(4):
                with optim.optim_context(ddp):
                    loss = ddp(torch.randn(2, 3, 64, 64), SEEDS, mode="loss")["loss"]
                optim.update_params(loss)
            weights.append(model.state_dict())
    finally:
        torch.distributed.destroy_process_group()
    same(*weights)


@pytest.mark.parametrize(
    "pair", [XTRA, *(pytest.param(pair, marks=pytest.mark.slow) for pair in (AIM, MAE))]
)
def test_compiled_as_one_graph(pair):
    model, recomputed = twice(pair)
    compiled = torch.compile(recomputed._loss, fullgraph=True, backend="aot_eager")
    recomputed._loss = lambda *args: compiled(*args)
    (loss, grads, _), (again, others, _) = (
        step(one, torch.ones(2, 3, 64, 64)) for one in (model, recomputed)
    )
    torch.testing.assert_close(again, loss, rtol=1e-6, atol=0)
    for name, grad in grads.items():
        assert (others[name] - grad).norm() <= 1e-6 * grad.norm(), name


def test_nothing_is_kept_where_there_is_no_backward():
    _, model = twice()
    with torch.no_grad():
        loss = model.loss(torch.ones(2, 3, 64, 64), SEEDS)["loss"]
    assert not loss.requires_grad


def test_mmengines_option_which_would_do_nothing_is_refused(tmp_path):
    options = Config(dict(activation_checkpointing=["backbone"]))
    with pytest.raises(ValueError, match=r"activation_checkpointing=\['backbone'\] .*with_cp=True"):
        tiny_runs.run(tmp_path, "XTRA", cfg=options)
