"""The cost of probing at 7 learning rates in one run, against one probe alone.

    OMP_NUM_THREADS=2 python -W ignore tests/bench/bench_sweep.py

A training step of the shipped attentive probe, ViT-B/16 at 256 px, in fp32: frozen encoder,
probes, backward, clipping, AdamW. Both sides see the same images and take turns, changing who
goes first; the ratio is taken within a pair.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from spread import cell, row

CONFIG = Path(__file__).parents[2] / "mmconfigs" / "benchmarks" / "_base_" / "attentive.py"


class Side:
    """Hold a sweep of some rates, and the seconds of its steps."""

    def __init__(self, batch: int, rates: slice, depth: int | None):
        config = Config.fromfile(CONFIG)
        config.model.backbone.update(mask=dict(type="xtra_toolkit.BlockCausal", block_size=4))
        config.model.backbone.init_cfg = None
        if depth:
            config.model.backbone.arch = dict(
                embed_dims=768, num_layers=depth, num_heads=12, feedforward_channels=3072
            )
            config.model.backbone.frozen_stages = depth
        config.model.head.update(num_classes=1000, rates=config.model.head.rates[rates])
        self.model = MODELS.build(config.model).train()
        self.optim = build_optim_wrapper(self.model, config.optim_wrapper)
        labels = torch.randint(1000, (batch,))
        samples = [DataSample().set_gt_label(label) for label in labels]
        self.batch = dict(inputs=255 * torch.rand(batch, 3, 256, 256), data_samples=samples)

    def seconds(self) -> float:
        start = time.perf_counter()
        self.model.train_step(self.batch, self.optim)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--depth", type=int, help="encoder layers, at least 6; ViT-B has 12")
    parser.add_argument("--json", type=Path, help="write the figure to this file too")
    args = parser.parse_args()
    MMLogger.get_instance("bench", log_level="ERROR")  # MMEngine lists every parameter's options
    sides = [Side(args.batch, rates, args.depth) for rates in (slice(3, 4), slice(None))]
    for side in sides:
        side.seconds()
    pairs = []
    for pair in range(args.pairs):
        order = sides if pair % 2 == 0 else sides[::-1]
        times = {side: side.seconds() for side in order}
        pairs.append([times[side] for side in sides])
    ratios = [sweep / single for single, sweep in pairs]
    single, sweep = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{len(sides[1].model.head.rates)} probes / 1 probe: {cell(ratios)}, "
        f"{args.pairs} pairs; "
        f"{single:.2f} s and {sweep:.2f} s a step of {args.batch} images"
    )
    if args.json:
        what = f"{len(sides[1].model.head.rates)} probes' step / one probe's"
        args.json.write_text(json.dumps(dict(name="sweep", rows=[row(what, ratios, "ratio")])))


if __name__ == "__main__":
    main()
