"""One training step of MAE-B/16 at 224 px: this package's composition against MMPretrain's MAE.

    python tests/bench/bench_peers.py
    python tests/bench/bench_peers.py --depth 12 --decoder-depth 8 --dtype fp32

A step is forward, backward and a fused AdamW update, from the same weights on the same images and
by turns; the ratio is taken within a round. In bf16 theirs runs under autocast, ours under
autocast and with bf16 weights and fp32 masters. The defaults cut the depths so that two CPU cores
finish in minutes.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from bench_step import Case, Trainer
from einops import rearrange
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from spread import row
from torch import Tensor, nn

CONFIG = Path(__file__).parents[2] / "mmconfigs" / "mae_vit-b16.py"
IMAGE, PATCH = 224, 16


def arch(depth: int) -> dict:
    return dict(embed_dims=768, num_layers=depth, num_heads=12, feedforward_channels=3072)


def theirs(depth: int, decoder_depth: int) -> nn.Module:
    """Build MMPretrain's model as its configs/mae does."""
    loss = dict(type="mmpretrain.PixelReconstructionLoss", criterion="L2")
    return MODELS.build(
        dict(
            type="mmpretrain.MAE",
            data_preprocessor=dict(type="mmpretrain.SelfSupDataPreprocessor"),
            backbone=dict(
                type="mmpretrain.MAEViT", arch=arch(depth), patch_size=PATCH, mask_ratio=0.75
            ),
            neck=dict(
                type="mmpretrain.MAEPretrainDecoder",
                patch_size=PATCH,
                embed_dim=768,
                decoder_embed_dim=512,
                decoder_depth=decoder_depth,
                decoder_num_heads=16,
            ),
            head=dict(
                type="mmpretrain.MAEPretrainHead", norm_pix=True, patch_size=PATCH, loss=loss
            ),
        )
    )


def ours(depth: int, decoder_depth: int) -> nn.Module:
    """Build the shipped config with other depths."""
    model = Config.fromfile(CONFIG).model
    model.backbone.arch, model.neck.depth = arch(depth), decoder_depth
    return MODELS.build(model)


def our_name(name: str) -> str:
    for old, new in (
        ("neck.decoder_embed.", "neck.projection."),
        ("neck.decoder_pos_embed", "neck.pos_embed"),
        ("neck.decoder_blocks.", "neck.layers."),
        ("neck.decoder_pred.", "head.predictors.0."),
    ):
        name = name.replace(old, new)
    return name


def our_pixels(name: str, value: Tensor) -> Tensor:
    """Sort the values of a patch from (row, column, channel) to our (channel, row, column)."""
    if "decoder_pred" in name:
        return rearrange(value, "(p q c) ... -> (c p q) ...", p=PATCH, q=PATCH)
    return value


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    state = {our_name(n): our_pixels(n, p.detach()) for n, p in source.named_parameters()}
    missing, unexpected = target.load_state_dict(state, strict=False)
    if odd := [*unexpected, *({n for n, _ in target.named_parameters()} & set(missing))]:
        raise ValueError(f"parameters that only one side has: {', '.join(odd)}")


class Peer(Trainer):
    """Train on one side; a step draws its masks from a seed, its number, as the other sides do."""

    steps = 0

    def step(self) -> None:
        torch.manual_seed(self.steps)
        self.steps += 1
        super().step()


def loss_under_seed(peer: Peer, seed: int = 5) -> float:
    """Return the loss; all sides shuffle by the same numbers and so have the same masks."""
    generator = torch.Generator(peer.images.device).manual_seed(seed)
    torch.manual_seed(seed)
    model = peer.model
    if hasattr(model, "objective"):
        plan = model.objective(len(peer.images), peer.images.device, generator)
        model.plan = lambda *_: plan
    loss = peer.first_loss()
    vars(model).pop("plan", None)
    return loss


def measure(sides: dict[str, Peer], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each side in each round, after a step that is not counted."""
    for peer in sides.values():
        peer.seconds(1)
    names, times = list(sides), {name: [] for name in sides}
    for i in range(rounds):
        for name in names if i % 2 == 0 else names[::-1]:
            times[name].append(sides[name].seconds(1))
    return times


def rows(dtype: str, times: dict[str, list[float]]) -> list[dict]:
    base, found = times["MMPretrain's MAE"], []
    for name, seconds in times.items():
        values = {"ms": [1000 * s for s in seconds]}
        if seconds is not base:
            values["ratio"] = [theirs / mine for theirs, mine in zip(base, seconds, strict=True)]
        found += [
            row(
                f"{dtype}: {name}" + ", throughput over MMPretrain's" * (unit == "ratio"),
                each,
                unit,
            )
            for unit, each in values.items()
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="at least 5 (default 6)")
    parser.add_argument("--depth", type=int, default=4, help="encoder layers; MAE-B has 12")
    parser.add_argument("--decoder-depth", type=int, default=3, help="MAE-B has 8")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--dtype", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error(f"--rounds must be at least 5, got {args.rounds}")
    MMLogger.get_instance("mmengine", log_level="ERROR")  # MMPretrain's lists all parameters
    found = []
    for dtype in args.dtype:
        case = Case(dtype, args.device, args.batch, args.depth, args.decoder_depth, size=IMAGE)
        torch.manual_seed(0)
        peer = case.model(theirs)
        peer.init_weights()
        sides = {"MMPretrain's MAE": Peer(case, peer, plain=True)}
        for masters in (False, True)[: 1 + (dtype == "bf16")]:
            model = case.model(ours)
            copy_weights(peer, model)
            own = Case(**{**vars(case), "masters": masters})
            sides["ours" + ", bf16 weights" * masters] = Peer(own, model)
        losses = [loss_under_seed(side) for side in sides.values()]
        print(f"{dtype}: losses before training {', '.join(f'{loss:.6f}' for loss in losses)}")
        if dtype == "fp32" and not math.isclose(*losses, rel_tol=1e-5):
            raise ValueError(f"losses on the same weights, images and masks differ: {losses}")
        found += rows(dtype, measure(sides, args.rounds))
    print(f"\nbatch {args.batch}, encoder {args.depth} layers, decoder {args.decoder_depth}\n")
    print("| what | median | min | max |\n|---|---|---|---|")
    for each in found:
        digits = 2 if each["unit"] == "ratio" else 0
        cells = (f"{each[key]:.{digits}f}" for key in ("median", "min", "max"))
        print(f"| {each['what']}, {each['unit']} | {' | '.join(cells)} |")
    if args.json:
        args.json.write_text(json.dumps(dict(name="peers", rows=found), indent=2))


if __name__ == "__main__":
    main()
