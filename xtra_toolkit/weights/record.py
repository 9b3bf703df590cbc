"""Make the record of an encoder whose file has none, from its tensors and the given options."""

from torch import Tensor

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.encoder_record import ARCH, NORM_EPS

HEADS = {  # number of heads by width and depth; no file stores it
    (192, 12): 3,  # ViT-Ti, S, B, L, H
    (384, 12): 6,
    (768, 12): 12,
    (1024, 24): 16,
    (1280, 32): 16,
    (1536, 24): 12,  # AIM-600M, 1B, 3B, 7B
    (2048, 24): 16,
    (3072, 24): 24,
    (4096, 32): 32,
}


def describe_state(encoder: dict[str, Tensor], grid: PatchGrid, heads: int | None) -> dict | None:
    """Describe an encoder by its tensors, as a checkpoint records it.

    Args:
        encoder: The encoder's tensors under our names, without prefix.
        grid: The grid of its images.
        heads: Number of heads of its attention. None: that of the published model of this width
            and depth.

    Returns:
        The record; None if the number of heads is not known.

    Raises:
        ValueError: The number of heads does not divide the width.
    """
    width = len(encoder["patch_embed.projection.weight"])
    depth = len({name.split(".")[1] for name in encoder if name.startswith("layers.")})
    heads = heads or HEADS.get((width, depth))
    if heads is None:
        return None
    if width % heads:
        raise ValueError(f"{heads} heads do not divide the encoder's width of {width}")
    hidden = len(encoder["layers.0.ffn.layers.0.0.weight"])
    registers = encoder.get("register_tokens")
    parts = {} if registers is None else dict(parts=dict(registers=registers.shape[1]))
    return dict(
        arch=dict(zip(ARCH, (width, depth, heads, hidden), strict=True)),
        img_size=list(grid.img_size),
        patch_size=list(grid.patch),
        in_channels=grid.channels,
        norm_eps=NORM_EPS,
        patch_norm_eps=NORM_EPS if "patch_embed.norm.weight" in encoder else None,
        layer_scale=float("layers.0.attn.gamma1.weight" in encoder),
        with_cls_token="cls_token" in encoder,
        bias="layers.0.attn.proj.bias" in encoder,
        qkv_bias="layers.0.attn.qkv.bias" in encoder,
        pre_norm=any(name.startswith("pre_norm.") for name in encoder),
        positions="learned",
        interpolate_mode="bicubic",
        unrecorded=[],
        **parts,
    )


def normalisation(images: dict) -> str:
    """Return ``'mean=(0.485, ...), std=(0.229, ...)'``, for pixel values of 0 to 1 as in timm."""
    parts = (
        f"{name}=({', '.join(f'{v / 255:.4g}' for v in images[name])})" for name in ("mean", "std")
    )
    order = "" if images["order"] == "RGB" else f", channels in the order {images['order']}"
    return ", ".join(parts) + order
