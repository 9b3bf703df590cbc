"""Every composition and plugin, probes, features and kNN, forward on fake CUDA under autocast.

A tensor that was left on the CPU, a wrong dtype or a read by the host fails here, on any machine.
"""

import copy
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.builds import MASKS, arch
from helpers.fake_cuda import CUDA, fake_cuda
from mmengine.config import Config
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from test_configs import PRETRAINING, ROOT, name
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor

from xtra_toolkit.attention import Pattern, choose, dispatch
from xtra_toolkit.attention import xformers as xf
from xtra_toolkit.evaluation.knn_vote import Bank, unit_feature, vote
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, PrefixCausal, RandomShown, TokenCausal
from xtra_toolkit.models import MaskedViT
from xtra_toolkit.objective.compiler import certify_objective
from xtra_toolkit.targets import MaskedPatches, NextBlock, NextToken

CPU = torch.device("cpu")
WAYS, DTYPES = ("FwOp", "BwOp"), (torch.bfloat16, torch.float32)
TRAINED = [  # (mask, target, image, patch, heads and head widths of encoder and decoder)
    (BlockCausal(4), NextBlock(), 256, 16, [(12, 64), (6, 128)]),
    (BlockCausal(4), NextBlock(), 224, 14, [(16, 80), (8, 80)]),
    (TokenCausal(), NextToken(), 256, 16, [(12, 64), (6, 128)]),
    (PrefixCausal(), NextToken(), 224, 14, [(16, 80)]),
    (RandomShown(), MaskedPatches(), 224, 16, [(12, 64), (16, 32)]),
]
PLUGINS = sorted(p for p in (ROOT.parent / "plugins").iterdir() if (p / "README.md").exists())


@pytest.fixture(autouse=True)
def clusters(tmp_path, monkeypatch):
    """What ``xtra clusters`` would have made, for iGPT."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    np.save("data/clusters.npy", np.random.default_rng(0).uniform(-1, 1, (512, 3)))


def built(config):
    """Build a model on the meta device, with two layers of encoder and decoder."""
    config = copy.deepcopy(config)
    arch = config["backbone"]["arch"]
    arch = MaskedViT.arch_zoo[arch] if isinstance(arch, str) else arch
    config["backbone"]["arch"] = dict(arch, num_layers=2)
    if config.get("neck") and config["neck"].get("depth"):
        config["neck"]["depth"] = min(2, config["neck"]["depth"])
    if config["backbone"].get("fused_layers"):
        config["backbone"]["fused_layers"] = [0]
    if config.get("neck") and config["neck"].get("memory_layers"):
        config["neck"]["memory_layers"] = [0, 1, 2]
    with torch.device("meta"):
        return MODELS.build(config).train()


def warm(model):
    """Compile on the CPU what a teacher of this package attends to; return what was kept."""
    for encoder in (m for m in model.target_generator.modules() if isinstance(m, MaskedViT)):
        encoder._features_of(encoder.grid, CPU)
        yield encoder


def to_cuda(encoders, fake):
    """Put what encoders attend to on fake CUDA."""
    for encoder in encoders:
        kept = encoder._features
        kept.update({(grid, CUDA, mask): fake(f) for (grid, _, mask), f in [*kept.items()]})


def step(model, monkeypatch):
    """Run the preprocessor and the loss of a pretrainer on fake CUDA; return the loss."""
    grid = model.backbone.grid
    size = grid.channels, grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    plan = model.objective(2, torch.device("cpu"), torch.Generator())
    encoders = list(warm(model))
    with fake_cuda(monkeypatch) as fake:
        fake(model).data_preprocessor._device = CUDA
        to_cuda(encoders, fake)
        plan = fake(plan)
        monkeypatch.setattr(model, "plan", lambda *_: plan)
        images = torch.zeros(2, *size, dtype=torch.uint8)  # on the host, as a loader gives them
        data = model.data_preprocessor(dict(inputs=images, data_samples=None), True)
        assert data["inputs"].device == CUDA and data["inputs"].dtype == torch.float32
        return model.loss(data["inputs"])["loss"]


def check(loss):
    assert loss.device == CUDA and loss.dtype == torch.float32
    assert loss.shape == () and loss.requires_grad


@pytest.mark.parametrize("config", PRETRAINING, ids=name)
def test_every_composition(config, monkeypatch):
    check(step(built(Config.fromfile(config).model), monkeypatch))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_every_plugin(plugin, monkeypatch):
    for folder in PLUGINS:  # one may use the orders of another
        monkeypatch.syspath_prepend(folder)
        __import__(folder.name)
    blocks = re.findall(r"```python\n(.*?)```", (plugin / "README.md").read_text(), re.DOTALL)
    space = {}
    exec(next(block for block in blocks if "model = dict(" in block), space)
    check(step(built(space["model"]), monkeypatch))


def classifier(probe, **backbone):
    """A probe on a frozen encoder of two layers."""
    shape = dict(arch=arch(), img_size=64, patch_size=8, frozen_stages=2, out_type="featmap")
    shape |= dict(final_norm=False, mask=MASKS["block"], out_indices=[0, 1])
    head = dict(type="xtra_toolkit.ProbeSweep", num_classes=10, in_channels=48, rates=[1e-3, 1e-2])
    with torch.device("meta"):
        return MODELS.build(
            dict(
                type="mmpretrain.ImageClassifier",
                data_preprocessor=dict(
                    type="mmpretrain.ClsDataPreprocessor", mean=[1] * 3, std=[2] * 3
                ),
                backbone=dict(type="xtra_toolkit.MaskedViT", **(shape | backbone)),
                neck=dict(type=probe[0]),
                head=dict(head, probe=probe[1]),
            )
        )


PROBES = {
    "attentive": (
        "xtra_toolkit.AverageLayers",
        dict(type="xtra_toolkit.AttentiveProbe", num_heads=4),
    ),
    "linear": (
        "mmpretrain.GlobalAveragePooling",
        dict(type="mmpretrain.LinearClsHead", init_cfg=None),
    ),
}


def ready(model, fake):
    """Put a classifier and what its encoder attends to on fake CUDA."""
    model.data_preprocessor._device = CUDA
    to_cuda([model.backbone], fake)
    return fake(model)


@pytest.mark.parametrize("probe", PROBES)
def test_probes(probe, monkeypatch):
    indices = [0, 1] if probe == "attentive" else [1]
    model = classifier(PROBES[probe], out_indices=indices).train()
    model.backbone._features_of(model.backbone.grid, CPU)
    labels = [DataSample().set_gt_label(i) for i in (0, 3)]
    with fake_cuda(monkeypatch) as fake:
        ready(model, fake)
        images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
        for sample in labels:
            sample.gt_label = fake(sample.gt_label)
        data = model.data_preprocessor(dict(inputs=images, data_samples=labels), True)
        losses = model.loss(data["inputs"], data["data_samples"])
        assert {loss.device for loss in losses.values()} == {CUDA}


def test_features_and_neighbours(monkeypatch):
    model = classifier(PROBES["linear"], out_type="avg_featmap", out_indices=[1]).eval()
    model.neck = None
    model.backbone._features_of(model.backbone.grid, CPU)
    with fake_cuda(monkeypatch) as fake, torch.no_grad():
        ready(model, fake)
        queries = unit_feature(model, torch.zeros(4, 3, 64, 64, device=CUDA))
        assert queries.dtype == torch.float32 and queries.shape == (4, 48)
        bank = Bank(torch.zeros(50, 48, device=CUDA), torch.zeros(50, device=CUDA).long())
        share = vote(queries, bank, classes=10, k=20, temperature=0.07, chunk=16)
        assert share.device == CUDA and share.shape == (4, 10)


def test_what_it_finds(monkeypatch):
    """A tensor on the CPU, a dtype that does not fit, and a read of a value."""
    linear = torch.nn.Linear(4, 4)
    with fake_cuda(monkeypatch) as fake:
        fake(linear)
        on_host, on_card = torch.zeros(2, 4), torch.zeros(2, 4, device=CUDA)
        with pytest.raises(RuntimeError, match="device"):
            linear(on_card) + on_host
        torch.set_autocast_enabled("cuda", False)
        half = torch.zeros(1, 1, 4, 4, device=CUDA, dtype=torch.bfloat16)
        with pytest.raises(RuntimeError, match="dtype"):
            torch.nn.functional.scaled_dot_product_attention(half, half.float(), half)
        with pytest.raises(DataDependentOutputException):
            bool(on_card.sum() > 0)


# the first op that takes the inputs of training, forward and backward; None: no op does. flash is
# FlashAttention 2, cutlass the memory-efficient kernel.
FLASH, CUTLASS = ("fa2F@2.5.7-pt", "fa2B@2.5.7-pt"), ("cutlassF-pt", "cutlassB-pt")
NEW = (None, None)
OPS = {  # (mask, dtype): by compute capability 8.0, 9.0, 10.0, 12.0
    ("staircase", "bfloat16"): [CUTLASS, CUTLASS, NEW, NEW],
    ("staircase", "float32"): [CUTLASS, CUTLASS, NEW, NEW],
    ("causal", "bfloat16"): [FLASH] * 4,
    ("causal", "float32"): [CUTLASS, CUTLASS, NEW, NEW],
    ("full", "bfloat16"): [FLASH] * 4,
    ("full", "float32"): [CUTLASS, CUTLASS, NEW, NEW],
}
CAPABILITIES = [(8, 0), (9, 0), (10, 0), (12, 0)]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_ops_of_xformers(capability, monkeypatch):
    """Show training inputs of B/16 at 256 px and H/14 at 224 px to xformers' own checks."""
    fmha = xf.load().fmha
    for op in (getattr(m, k) for m in (fmha.flash3, fmha.flash, fmha.cutlass) for k in WAYS):
        types = op.SUPPORTED_ATTN_BIAS_TYPES
        if torch.Tensor in types:  # the check compares types, and a fake tensor has another
            monkeypatch.setattr(op, "SUPPORTED_ATTN_BIAS_TYPES", (*types, FakeTensor))
    found = {}
    for mask, target, image, patch, shapes in TRAINED:
        objective = certify_objective(mask, target, PatchGrid.of(image, patch), (1, 1))
        plan = objective(2, CPU, torch.Generator())
        with fake_cuda(monkeypatch, capability) as fake:
            for pattern, dtype in product(fake((plan.encoder, plan.decoder)), DTYPES):
                for heads, dim in shapes:
                    shape = 2, pattern.length, 3, heads, dim
                    q = torch.empty(shape, dtype=dtype, device=CUDA).unbind(2)[0]
                    bias = xf.attn_bias(pattern, q.shape, dtype, CUDA)
                    taken = tuple(
                        next((op for op, reasons in ops.items() if not reasons), None)
                        for ops in xf.reasons(q, bias).values()
                    )
                    key = pattern.kind, str(dtype).removeprefix("torch.")
                    found.setdefault(key, set()).add(taken)
    column = CAPABILITIES.index(capability)
    assert found == {key: {ops[column]} for key, ops in OPS.items()}


@pytest.mark.parametrize("setting", ["xformers", "sdpa"])
def test_the_choice_for_dense_masks_is_one_line(setting, monkeypatch):
    monkeypatch.setattr(dispatch, "DENSE_ON_CUDA", setting)
    monkeypatch.setattr(xf, "unsupported_reason", lambda q, pattern: None)
    with fake_cuda(monkeypatch):
        for length, mask in ((256, setting), (1024, setting), (2048, "xformers")):
            q = torch.empty(2, length, 3, 64, device=CUDA, dtype=torch.bfloat16)
            lengths = torch.zeros(1, length, device=CUDA, dtype=torch.long)
            assert choose(q, Pattern("staircase", length, lengths)) == mask
            assert choose(q, Pattern("causal", length)) == "xformers"
