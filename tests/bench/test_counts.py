"""Count, without timing, what a step of the published models computes, so that lost work is found.

The models have their full size and are on the meta device, which computes nothing. The formulas
use the papers' numbers, not those of the plan.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from xtra_toolkit.models.layers import MaskedAttention, MaskedLayer
from xtra_toolkit.visualization.objectives import cost

ROOT = Path(__file__).parents[2] / "mmconfigs"
IMAGES = 2


@dataclass
class Work:
    """Hold the positions of encoder and decoder, and what each prediction reads and makes.

    ``last`` is the number of positions that the last decoder layer computes; the others serve it
    only as keys and values.
    """

    config: str
    encoded: int
    decoded: int
    last: int
    predictions: int
    tokens: int
    prefix: bool = False


N, BLOCK = (256 // 16) ** 2, 4 * 4
N_MAE, SHOWN = (224 // 16) ** 2, (224 // 16) ** 2 // 4
WORK = dict(
    # nobody reads the last block, or the last token
    xtra=Work("xtra_vit-b16", N - BLOCK, N - BLOCK, N - BLOCK, N // BLOCK - 1, BLOCK),
    aim=Work("aim_vit-b16", N - 1, N - 1, N - 1, N - 1, 1),
    aim_prefix=Work("aim_vit-b16", N - 1, N - 1, N - 1, N - 1, 1, prefix=True),
    # and a class token; nobody reads what the decoder makes of it and of the shown ones
    mae=Work("mae_vit-b16", SHOWN + 1, N_MAE + 1, N_MAE - SHOWN, N_MAE - SHOWN, 1),
)


@pytest.fixture(params=WORK)
def built(request):
    """Build a pretrainer in training mode, its images and the work that it should do."""
    work = WORK[request.param]
    cfg = Config.fromfile(ROOT / f"{work.config}.py").model
    cfg.backbone.attention = cfg.neck.attention = "sdpa"  # whatever `auto` would take
    if work.prefix:
        cfg.mask = dict(type="xtra_toolkit.PrefixCausal")
    with torch.device("meta"):
        model = MODELS.build(cfg)
    side = cfg.backbone.img_size
    return model.train(), torch.empty(IMAGES, 3, side, side, device="meta"), work, cfg


def linear(rows, *widths):
    """Count the FLOPs of Linears one after another: 2 for a multiplication and an addition."""
    return sum(2 * rows * i * o for i, o in pairwise(widths))


def layer(width, keys, queries=None):
    """Count those of a pre-norm layer: q, k, v, attention, projection, MLP of 4 times the width."""
    queries = keys if queries is None else queries
    into = linear(queries, width, width) + linear(keys, width, 2 * width)
    attention = 2 * (2 * queries * keys * width)
    return (
        into + attention + linear(queries, width, width) + linear(queries, width, 4 * width, width)
    )


def patches(work):
    """Count those of the embedding of one image's patches."""
    return linear(work.encoded, 16 * 16 * 3, 768)


def forward(work, cfg):
    """Count those of one image, in encoder, decoder and head."""
    width, hidden = cfg.neck.width, cfg.head.get("hidden")
    middle = [cfg.neck.projection] if cfg.neck.get("projection") else []
    encoder = patches(work) + 12 * layer(768, work.encoded)
    decoder = linear(work.encoded, 768, *middle, width)
    decoder += (cfg.neck.depth - 1) * layer(width, work.decoded)
    decoder += layer(width, work.decoded, work.last)
    inside = [hidden] if hidden else []
    pixels = work.tokens * 16 * 16 * 3
    head = linear(work.predictions, work.tokens * width, *inside, pixels)
    return encoder, decoder, head


def test_a_step_costs_what_the_formula_says(built):
    model, images, work, cfg = built
    expected = sum(forward(work, cfg))
    with FlopCounterMode(display=False) as ahead:
        loss = model.loss(images)["loss"]
    assert ahead.get_total_flops() == IMAGES * expected
    with FlopCounterMode(display=False) as back:
        loss.backward()
    # two products for each product, of both gradients; the pixels need none
    assert back.get_total_flops() == IMAGES * (2 * expected - patches(work))


def test_xtra_show_reports_the_parts_of_the_formula(built):
    model, _, work, cfg = built
    assert cost.flops(model) == forward(work, cfg)


def test_every_layer_runs_only_the_computed_positions_and_attends_once(built):
    model, images, work, cfg = built
    calls, places = [], {}
    for name, module in model.named_modules():
        if isinstance(module, MaskedLayer):
            module.register_forward_pre_hook(
                lambda _, args, name=name: places.update({name: args[0].shape[1]})
            )
        if isinstance(module, MaskedAttention):
            inner = module.attention
            module.attention = lambda *a, inner=inner, **k: calls.append(1) or inner(*a, **k)
    model.loss(images)["loss"].backward()
    assert len(calls) == 12 + cfg.neck.depth == 20
    assert {n for name, n in places.items() if name.startswith("backbone.")} == {work.encoded}
    assert {n for name, n in places.items() if name.startswith("neck.")} == {work.decoded}
    assert len(places) == 20


def test_the_numbers_of_positions_are_those_of_the_papers(built):
    model, images, work, _ = built
    plan = model.plan(images)
    computed = dict(xtra=(240, 240, 15), aim=(255, 255, 255), mae=(50, 197, 147))
    assert computed[work.config.split("_")[0]] == (work.encoded, work.decoded, work.predictions)
    assert plan.num_computed == work.decoded and plan.encoded_tokens.shape[1] == work.encoded
    assert sum(group.tokens.shape[1] for group in plan.groups) == work.predictions
