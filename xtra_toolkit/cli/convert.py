"""``xtra convert``: convert checkpoints of other repositories to ours, and ours to stock ViTs."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xtra_toolkit.utils.atomic import replacing
from xtra_toolkit.utils.progress import progress
from xtra_toolkit.utils.quiet_imports import quiet_imports

if TYPE_CHECKING:
    from xtra_toolkit.weights.checkpoint import Checkpoint

FILE = click.Path(dir_okay=False, path_type=Path)
SOURCE = click.Path(exists=True, dir_okay=False, path_type=Path)


class MaskConfig(click.ParamType):
    """Read a mask, given by its name or as a config in JSON."""

    name = "mask"

    def convert(
        self, value: str | dict, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict:
        """Turn 'TokenCausal' or '{"type": "BlockCausal", "block_size": 4}' into a config."""
        try:
            mask = json.loads(value) if value.startswith("{") else dict(type=value)
            kind = str(mask["type"])
        except (ValueError, KeyError):
            self.fail(
                f"{value!r} was given; a mask is a name like TokenCausal, or JSON like "
                '\'{"type": "BlockCausal", "block_size": 4}\'',
                param,
                ctx,
            )
        # a config has no default scope, so a bare name gets ours
        return mask if "." in kind else dict(mask, type=f"xtra_toolkit.{kind}")


class Channels(click.ParamType):
    """Read one number for each channel, separated by commas."""

    name = "numbers"

    def convert(
        self, value: str | list, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[float]:
        """Turn '0.5,0.5,0.5' into three numbers, or '0.5' into one for grey images."""
        try:
            numbers = value if isinstance(value, list) else [float(v) for v in value.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3) or not all(0 <= number <= 1 for number in numbers):
            self.fail(f"{value!r} was given; write 0.5,0.5,0.5, or one for grey", param, ctx)
        return numbers


@click.command()
@click.argument("source", type=SOURCE)
@click.argument("target", type=FILE)
@click.option(
    "--to",
    "layout",
    type=click.Choice(["pretrainer", "encoder", "classifier", "mmpretrain", "timm"]),
    default="pretrainer",
    show_default=True,
    help="pretrainer: everything, for load_from. encoder: a MaskedViT. classifier: with AIM's "
    "probe head. mmpretrain, timm: a stock ViT, which has no mask.",
)
@click.option(
    "--mask",
    type=MaskConfig(),
    help="The encoder's mask, if SOURCE does not tell it: a name, or JSON like "
    '\'{"type": "BlockCausal", "block_size": 4}\'.',
)
@click.option(
    "--img-size",
    nargs=2,
    type=click.IntRange(1),
    metavar="HEIGHT WIDTH",
    help="Size of the images in pixels, if SOURCE does not tell it and they are not square; for "
    "AIM, which stores no positions, if they are not 224 px.",
)
@click.option(
    "--heads", type=click.IntRange(1), help="Number of heads, if SOURCE does not tell it."
)
@click.option(
    "--mean",
    type=Channels(),
    help="Mean of the images that the encoder was trained with, if SOURCE does not tell it: "
    "0.5,0.5,0.5, of RGB from 0 to 1.",
)
@click.option("--std", type=Channels(), help="Standard deviation, as --mean.")
@click.option(
    "--head", type=SOURCE, help="File of AIM's probe head, which is published separately."
)
@click.option(
    "--full-attention",
    is_flag=True,
    help="Allow a stock ViT, which has full attention, for an encoder that was trained with a "
    "mask. TARGET's metadata records it.",
)
@click.option("--force", is_flag=True, help="Overwrite TARGET.")
@click.option(
    "--import",
    "plugins",
    multiple=True,
    help="A module that registers the mask, if it belongs to a plugin that is not installed.",
)
def convert(
    source: Path,
    target: Path,
    layout: str,
    mask: dict | None,
    img_size: tuple[int, int] | None,
    heads: int | None,
    mean: list[float] | None,
    std: list[float] | None,
    head: Path | None,
    full_attention: bool,
    force: bool,
    plugins: tuple[str, ...],
) -> None:
    """Convert a checkpoint: ours, XTRA's, AIM's, MAE's, MMPretrain's MAE's or timm's.

    SOURCE has the names of elad-amrani/xtra, apple/ml-aim (v1), facebookresearch/mae, MMPretrain's
    MAE, timm's VisionTransformer, or ours. It is a PyTorch Lightning or MMEngine file, DeepSpeed's
    mp_rank_00_model_states.pt, a dict with the weights under 'model', a plain state dict or
    .safetensors. Only tensors are read: nothing in the file is executed.

    TARGET is a .pth file that MMEngine and torch.load(weights_only=True) read, or .safetensors,
    which timm, our configs and commands read too. It holds the encoder's mask: the one that SOURCE
    tells, or else full attention for timm's, PrefixCausal for AIM's and RandomShown with a ratio of
    0.75 for MAE's. MMPretrain's benchmark configs take it as init_cfg=dict(type='Pretrained',
    checkpoint=TARGET, prefix='backbone.').

    AIM's trunk loads into MaskedViT(bias=False, positions='sincos',
    patch_cfg=dict(norm_cfg=dict(type='LN', eps=1e-6)), ...), MAE's into one with_cls_token=True.

    timm reads an encoder strictly with timm.create_model('vit_base_patch16_224', img_size=256,
    class_token=False, global_pool='', num_classes=0, checkpoint_path=TARGET). AIM's also needs
    qkv_bias=False, proj_bias=False, embed_norm_layer='layernorm'.

    The conversion was tested against the names and outputs of the original code with random
    weights; it was not tested on released checkpoints.
    """
    if target.exists() and not force:
        raise click.UsageError(f"{target} exists; name another file, or overwrite it with --force")
    with quiet_imports():
        from xtra_toolkit.weights.checkpoint import Checkpoint
        from xtra_toolkit.weights.read import read_state

    for plugin in plugins:
        importlib.import_module(plugin)
    with progress(f"reading {source.name}"):
        state = read_state(source)
        if head is not None:
            state = merge_states(state, read_state(head))
    checkpoint = Checkpoint.of(state, mask, img_size, heads, image_record(mean, std))
    content = checkpoint.layout(layout, full_attention)
    with progress(f"writing {target.name}"):
        save(content, target)
    for line in describe(checkpoint, content, target):
        click.echo(line)


def describe(checkpoint: "Checkpoint", content: dict, target: Path) -> Iterator[str]:
    """Yield what was written, how images are normalised, and what is not known."""
    from xtra_toolkit.weights.checkpoint import STOCK
    from xtra_toolkit.weights.record import normalisation

    layout, images = content["meta"]["layout"], checkpoint.images
    attends = "full attention" if "attention" in content["meta"] else f"mask {checkpoint.mask}"
    yield (
        f"{target}: {len(content['state_dict'])} tensors, layout {layout}, {checkpoint.grid}, "
        f"{attends}" + (f"; {checkpoint.note}" if checkpoint.note else "")
    )
    yield "normalisation: " + (normalisation(images) if images else "not known (--mean, --std)")
    if layout == "timm" and images:
        yield (
            "timm's default for its model may be another: timm.create_model(..., "
            f"pretrained_cfg_overlay=dict({normalisation(images)}))"
        )
    if layout not in STOCK and checkpoint.encoder_record is None:
        yield "its number of heads is not known, which xtra_toolkit.load needs (--heads)"


def image_record(mean: list[float] | None, std: list[float] | None) -> dict | None:
    """Return the record of how images are normalised; None if neither option was given."""
    if mean is None and std is None:
        return None
    if mean is None or std is None or len(mean) != len(std) or min(std) <= 0:
        raise click.UsageError("--mean and --std go together, with as many numbers; --std above 0")
    scaled = dict(mean=[255 * v for v in mean], std=[255 * v for v in std])
    return dict(scaled, order="RGB" if len(mean) == 3 else "gray")


def merge_states(state: dict, head: dict) -> dict:
    """Merge the weights of two files; a usage error if both hold the same parameter."""
    both = sorted(state.keys() & head.keys())
    if both:
        raise click.UsageError(f"SOURCE and --head both hold {both[0]!r}; SOURCE alone has a head")
    return {**state, **head}


def save(content: dict, target: Path) -> None:
    """Write the format of the suffix, first to a temporary file, as TARGET may be SOURCE."""
    import torch
    from safetensors.torch import save_file

    with replacing(target) as file:
        if target.suffix == ".safetensors":
            state = {name: value.contiguous() for name, value in content["state_dict"].items()}
            meta = {key: json.dumps(value) for key, value in content["meta"].items()}
            save_file(state, file.name, meta)
        else:
            torch.save(content, file)
