"""One training step of MaskFeat and of BEiT, B/16 at 224 px: this package's against MMPretrain's.

    python tests/bench/bench_mask_tokens.py
    python tests/bench/bench_mask_tokens.py --depth 12 --dtype fp32

A step is forward, backward and a fused AdamW update on the same images, by turns; the ratio is
taken within a round. Ours draws its masks in the step; MMPretrain's are drawn before, as its data
workers do. BEiT's tokenizer is a narrow DALL-E with 8,192 classes on both sides. In bf16 both run
under autocast, but for MMPretrain's histograms, which fail in it on a CPU. The default depth is
cut so that two CPU cores finish in minutes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.datasets.transforms import BEiTMaskGenerator
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from spread import row
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "frozen_teacher"))
import frozen_teacher  # noqa: E402, F401, registers

PREPROCESSOR = dict(type="mmpretrain.SelfSupDataPreprocessor")


def arch(depth: int) -> dict:
    return dict(embed_dims=768, num_layers=depth, num_heads=12, feedforward_channels=3072)


def maskfeat(depth: int) -> tuple[nn.Module, nn.Module]:
    """MMPretrain's as its configs/maskfeat builds it, and ours."""
    config = Config.fromfile(ROOT / "mmconfigs" / "maskfeat_vit-b16.py").model
    config.backbone.arch = arch(depth)
    loss = dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2")
    theirs = dict(
        type="mmpretrain.MaskFeat",
        data_preprocessor=PREPROCESSOR,
        backbone=dict(type="mmpretrain.MaskFeatViT", arch=arch(depth)),
        neck=dict(type="mmpretrain.LinearNeck", in_channels=768, out_channels=108, norm_cfg=None),
        head=dict(type="mmpretrain.MIMHead", loss=loss),
        target_generator=dict(type="mmpretrain.HOGGenerator"),
    )
    theirs = MODELS.build(theirs)
    histograms = theirs.target_generator
    histograms.forward = torch.autocast("cpu", enabled=False)(histograms.forward)
    return theirs, MODELS.build(config)


def beit(depth: int) -> tuple[nn.Module, nn.Module]:
    """MMPretrain's as its configs/beit builds it, and ours, without drop path."""
    tokenizer = dict(type="mmpretrain.DALL-E", n_hid=16, n_blk_per_group=1)
    head = dict(type="mmpretrain.BEiTV1Head", embed_dims=768, num_embed=8192)
    theirs = dict(
        type="mmpretrain.BEiT",
        data_preprocessor=PREPROCESSOR,
        backbone=dict(type="mmpretrain.BEiTPretrainViT", arch=arch(depth)),
        head=head | dict(loss=dict(type="mmpretrain.CrossEntropyLoss")),
        target_generator=tokenizer,
    )
    theirs = MODELS.build(theirs)
    config = Config.fromfile(ROOT / "plugins" / "frozen_teacher" / "beit_vit-b16.py").model
    config.backbone.update(arch=arch(depth), drop_path_rate=0.0)
    with tempfile.NamedTemporaryFile() as file:
        for p in theirs.target_generator.parameters():
            nn.init.normal_(p, std=0.05)
        torch.save(theirs.target_generator.state_dict(), file.name)
        init = dict(type="Pretrained", checkpoint=file.name)
        config.target_generator.teacher = tokenizer | dict(init_cfg=init)
        return theirs, MODELS.build(config)


def stepper(model: nn.Module, loss: Callable[[], torch.Tensor], bf16: bool) -> Callable[[], float]:
    """Return a function that takes one step and returns its seconds."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def sides(build: Callable, depth: int, batch: int, bf16: bool) -> dict[str, Callable[[], float]]:
    theirs, ours = build(depth)
    theirs.init_weights()
    ours.init_weights()
    images, samples = torch.randn(batch, 3, 224, 224), [DataSample() for _ in range(batch)]
    generator = BEiTMaskGenerator(14, 75, 16)
    for sample in samples:
        sample.set_field(torch.from_numpy(generator.transform({})["mask"]), "mask")
    small = images[:, :, ::2, ::2].contiguous()
    inputs = [images, small] if build is beit else images
    return {
        "MMPretrain's": stepper(theirs, lambda: theirs.loss(inputs, samples)["loss"], bf16),
        "ours": stepper(ours, lambda: ours.loss(images)["loss"], bf16),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--depth", type=int, default=4, help="layers; the encoders have 12")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    args = parser.parse_args()
    MMLogger.get_instance("mmengine", log_level="ERROR")  # MMPretrain's lists all parameters
    print("| what | median | min | max |\n|---|---|---|---|")
    for build in (maskfeat, beit):
        for dtype in args.dtype:
            steps = sides(build, args.depth, args.batch, dtype == "bf16")
            for step in steps.values():
                step()
            times = {name: [] for name in steps}
            for i in range(args.rounds):
                for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
                    times[name].append(steps[name]())
            theirs, ours = times.values()
            found = row("", [a / b for a, b in zip(theirs, ours, strict=True)], "ratio")
            cells = " | ".join(f"{found[key]:.2f}" for key in ("median", "min", "max"))
            print(f"| {build.__name__}, {dtype}: throughput over MMPretrain's | {cells} |")


if __name__ == "__main__":
    main()
