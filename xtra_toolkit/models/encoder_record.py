"""What a checkpoint records of its encoder: its shape, and how images enter it.

The record is JSON in the small buffer that holds the mask (``encoder_mask.py``). A checkpoint may
come from a stranger, so every value is checked before it is used, and no name in it is looked up.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid, pair

ARCH = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")
FLAGS = ("with_cls_token", "bias", "qkv_bias", "pre_norm")
CHOICES = dict(
    positions=("learned", "sincos"), interpolate_mode=("bicubic", "bilinear", "nearest", "area")
)
ORDERS = {"RGB": 3, "BGR": 3, "gray": 1}
LIMIT = 1 << 20  # of any size; what is built is also held against the tensors of the file
NORM_EPS = 1e-6  # of MMPretrain's VisionTransformer
# options of a MaskedViT that change neither its weights nor its features in evaluation
FREE = {"arch", "img_size", "patch_size", "in_channels", "out_indices", "drop_rate"}
FREE |= {"drop_path_rate", "final_norm", "frozen_stages", "init_cfg", "norm_cfg", "patch_cfg"}
FREE |= {"layer_scale_init_value", *FLAGS, *CHOICES}


def describe_encoder(grid: PatchGrid, arch: Mapping, options: Mapping) -> dict:
    """Describe a MaskedViT as its checkpoint records it.

    Args:
        grid: of its images.
        arch: its ``arch_settings``.
        options: the arguments that it was built with.

    Returns:
        A dict of plain values. ``unrecorded`` names the options that a record has no place for; a
        checkpoint with such an encoder is only loaded by its config.
    """
    record = dict(
        arch={name: int(arch[name]) for name in ARCH},
        img_size=[grid.rows * grid.patch[0], grid.cols * grid.patch[1]],
        patch_size=list(grid.patch),
        in_channels=grid.channels,
        norm_eps=_norm_eps(options.get("norm_cfg", dict(type="LN", eps=NORM_EPS))),
        patch_norm_eps=_norm_eps(dict(options.get("patch_cfg") or {}).get("norm_cfg")),
        layer_scale=float(options.get("layer_scale_init_value", 0.0)),
        with_cls_token=bool(grid.extra),
        bias=bool(options.get("bias", True)),
        qkv_bias=bool(options.get("qkv_bias", True)),
        pre_norm=bool(options.get("pre_norm", False)),
        positions=options.get("positions", "learned"),
        interpolate_mode=options.get("interpolate_mode", "bicubic"),
    )
    odd = {name for name, value in options.items() if name not in FREE and value}
    odd |= {f"arch.{name}" for name in arch if name not in ARCH}
    if record["norm_eps"] is None:
        odd.add("norm_cfg")
    if set(options.get("patch_cfg") or {}) - {"norm_cfg"}:
        odd.add("patch_cfg")
    return dict(record, unrecorded=sorted(odd))


def _norm_eps(config: Mapping | None) -> float | None:
    """The eps of a LayerNorm; None where the config is of another norm, or of none."""
    if not config or config.get("type") != "LN" or set(config) - {"type", "eps"}:
        return None
    return float(config.get("eps", 1e-5))


def describe_images(preprocessor: nn.Module, channels: int) -> dict | None:
    """Describe how a data preprocessor of MMPretrain's turns pixels into the encoder's input.

    Args:
        preprocessor: of images as files are read, uint8 in the order BGR, or grey.
        channels: of the encoder's images.

    Returns:
        ``mean`` and ``std`` of a channel, in the pixels' 0 to 255, and ``order``, a key of
        :data:`ORDERS`; None where the encoder takes neither grey nor colour.
    """
    if channels not in ORDERS.values():
        return None
    turned = getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "to_rgb", False))
    mean, std = [0.0] * channels, [1.0] * channels
    if getattr(preprocessor, "_enable_normalize", False):
        # built on the meta device there are no numbers
        if preprocessor.mean.is_meta:
            return None
        mean, std = (
            [round(float(v), 6) for v in buffer.flatten().expand(channels)]
            for buffer in (preprocessor.mean, preprocessor.std)
        )
    order = "gray" if channels == 1 else "RGB" if turned else "BGR"
    return dict(mean=mean, std=std, order=order)


def parse_record(data: bytes) -> dict:
    """Read a record and check every value in it.

    Raises:
        ValueError: it is not JSON, or a value is not of its kind.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "the checkpoint's record of its encoder cannot be read: it is no JSON"
        ) from error
    known = isinstance(record, dict) and isinstance(record.get("mask"), dict)
    _require(known and _sizes(record.get("grid"), 2), "mask and grid", record)
    encoder, images = record.get("encoder"), record.get("images")
    if encoder is not None:
        _check_encoder(encoder)
    if images is not None:
        _check_images(images)
        fits = encoder is None or encoder["in_channels"] == len(images["mean"])
        _require(fits, "channels", images)
    return record


def _check_encoder(encoder: Any) -> None:
    _require(isinstance(encoder, dict), "encoder", encoder)
    arch = encoder.get("arch")
    sizes = isinstance(arch, dict) and _sizes([arch.get(name) for name in ARCH], len(ARCH))
    _require(sizes and arch["embed_dims"] % arch["num_heads"] == 0, "arch", arch)
    for name, count in (("img_size", 2), ("patch_size", 2)):
        _require(_sizes(encoder.get(name), count), name, encoder.get(name))
    _require(_sizes([encoder.get("in_channels")], 1), "in_channels", encoder.get("in_channels"))
    for name in FLAGS:
        _require(isinstance(encoder.get(name), bool), name, encoder.get(name))
    for name, choices in CHOICES.items():
        _require(encoder.get(name) in choices, name, encoder.get(name))
    for name in ("norm_eps", "patch_norm_eps", "layer_scale"):
        value = encoder.get(name)
        _require(value is None or (_number(value) and value >= 0), name, value)
    odd = encoder.get("unrecorded")
    _require(isinstance(odd, list) and all(isinstance(n, str) for n in odd), "unrecorded", odd)


def _check_images(images: Any) -> None:
    _require(isinstance(images, dict) and images.get("order") in tuple(ORDERS), "order", images)
    for name in ("mean", "std"):
        values = images.get(name)
        numbers = isinstance(values, list) and all(map(_number, values))
        _require(numbers and len(values) == ORDERS[images["order"]], name, values)
    _require(min(images["std"]) > 0, "std", images["std"])


def _require(valid: bool, name: str, given: Any) -> None:
    if not valid:
        raise ValueError(
            f"the checkpoint's record of its encoder has no valid {name}: {str(given)[:100]}; take "
            "a file that this toolkit wrote"
        )


def _sizes(values: Any, count: int) -> bool:
    """Are these so many whole numbers from 1 to a million?"""
    whole = isinstance(values, list) and all(type(v) is int and 0 < v <= LIMIT for v in values)
    return whole and len(values) == count


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def encoder_options(record: dict, state: Mapping[str, Tensor] | None = None) -> dict:
    """Turn a record into the arguments of a MaskedViT.

    Args:
        record: as :func:`parse_record` returns it, with an ``encoder``.
        state: the encoder's tensors without prefix. With them, every size of the record is held
            against the file, so that a record cannot ask for more memory than the file has.

    Raises:
        ValueError: the encoder has options that are not recorded, or its sizes are not those of
            the tensors.
    """
    encoder = record["encoder"]
    if encoder["unrecorded"]:
        raise ValueError(
            "the checkpoint does not record all of its encoder: "
            f"{', '.join(encoder['unrecorded'])}; load it by the config that it was trained with"
        )
    if state is not None:
        _check_tensors(encoder, state)
    same = lambda sides: sides[0] if sides[0] == sides[1] else tuple(sides)  # noqa: E731
    options = dict(
        arch=dict(encoder["arch"]),
        img_size=same(encoder["img_size"]),
        patch_size=same(encoder["patch_size"]),
        in_channels=encoder["in_channels"],
        norm_cfg=dict(type="LN", eps=encoder["norm_eps"]),
        layer_scale_init_value=encoder["layer_scale"],
        **{name: encoder[name] for name in (*FLAGS, *CHOICES)},
    )
    if encoder["patch_norm_eps"] is not None:
        options["patch_cfg"] = dict(norm_cfg=dict(type="LN", eps=encoder["patch_norm_eps"]))
    return options


def _check_tensors(encoder: dict, state: Mapping[str, Tensor]) -> None:
    arch = encoder["arch"]
    grid = PatchGrid.of(
        tuple(encoder["img_size"]), tuple(encoder["patch_size"]), encoder["in_channels"]
    )
    width, hidden = arch["embed_dims"], arch["feedforward_channels"]
    tokens = grid.tokens + encoder["with_cls_token"]
    expected = {
        "patch_embed.projection.weight": (width, grid.channels, *grid.patch),
        "pos_embed": (1, tokens, width),
        "layers.0.ffn.layers.0.0.weight": (hidden, width),
        f"layers.{arch['num_layers'] - 1}.ffn.layers.0.0.weight": (hidden, width),
    }
    for name, shape in expected.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise ValueError(
                f"the checkpoint records an encoder whose {name} has the shape {shape}, and holds "
                f"{found or 'none'}; take a file that this toolkit wrote"
            )


def differences(own: dict, stored: dict) -> list[str]:
    """Name what two records of encoders differ in, though their tensors have the same names."""
    pairs = [("num_heads", own["arch"]["num_heads"], stored["arch"]["num_heads"])]
    pairs += [(n, own[n], stored[n]) for n in ("norm_eps", "patch_norm_eps")]
    return [f"{name}={there} and the config {here}" for name, here, there in pairs if here != there]


def sides(size: int | tuple[int, int]) -> str:
    """'256×256' of 256 or of (256, 256)."""
    return "×".join(map(str, pair(size)))
