"""Record in a checkpoint the shape of its encoder, and how images enter it.

The record is JSON in the small buffer that holds the mask (``encoder_mask.py``). A checkpoint may
be of unknown origin, so every value is checked before it is used, and no name in it is imported.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid, pair
from xtra_toolkit.models.layer_parts import KEYS, LayerParts, fused_width
from xtra_toolkit.models.rotary import RotaryPositions

ARCH = ("embed_dims", "num_layers", "num_heads", "feedforward_channels")
FLAGS = ("with_cls_token", "bias", "qkv_bias", "pre_norm")
CHOICES = dict(
    positions=("learned", "sincos", "relative", "none"),
    interpolate_mode=("bicubic", "bilinear", "nearest", "area"),
)
ORDERS = {"RGB": 3, "BGR": 3, "gray": 1}
LIMIT = 1 << 20  # of any size; sizes are also compared with the tensors of the file
NORM_EPS = 1e-6  # default of MMPretrain's VisionTransformer
# options of a MaskedViT that are recorded, or do not change its features in evaluation
FREE = {"arch", "img_size", "patch_size", "in_channels", "out_indices", "drop_rate"}
FREE |= {"drop_path_rate", "final_norm", "frozen_stages", "init_cfg", "norm_cfg", "patch_cfg"}
FREE |= {"layer_scale_init_value", "layer_cfgs", "rope", *FLAGS, *CHOICES}
NORMS = {"LN": "LN", "mmengine.LN": "LN", "RMSNorm": "RMSNorm", "xtra_toolkit.RMSNorm": "RMSNorm"}
NORM_CONFIGS = {"LN": "LN", "RMSNorm": "xtra_toolkit.RMSNorm"}


def describe_encoder(grid: PatchGrid, arch: Mapping, options: Mapping) -> dict:
    """Build the record of a MaskedViT.

    Args:
        grid: The grid of its images.
        arch: Its ``arch_settings``.
        options: The arguments that it was built with.

    Returns:
        A dict of plain values. ``unrecorded`` lists the options that cannot be recorded; the
        encoder of such a checkpoint can only be loaded by its config.
    """
    norm, norm_eps = _norm(options.get("norm_cfg", dict(type="LN", eps=NORM_EPS)))
    patch_norm, patch_norm_eps = _norm(dict(options.get("patch_cfg") or {}).get("norm_cfg"))
    record = dict(
        arch={name: int(arch[name]) for name in ARCH},
        img_size=list(grid.img_size),
        patch_size=list(grid.patch),
        in_channels=grid.channels,
        norm_eps=norm_eps,
        patch_norm_eps=patch_norm_eps,
        layer_scale=float(options.get("layer_scale_init_value", 0.0)),
        with_cls_token=bool(grid.placed),
        bias=bool(options.get("bias", True)),
        qkv_bias=bool(options.get("qkv_bias", True)),
        pre_norm=bool(options.get("pre_norm", False)),
        positions=options.get("positions", "learned"),
        interpolate_mode=options.get("interpolate_mode", "bicubic"),
    )
    unrecorded = {name for name, value in options.items() if name not in FREE and value}
    unrecorded |= {f"arch.{name}" for name in arch if name not in ARCH}
    if record["norm_eps"] is None:
        unrecorded.add("norm_cfg")
    if set(options.get("patch_cfg") or {}) - {"norm_cfg"}:
        unrecorded.add("patch_cfg")
    layer_cfgs = options.get("layer_cfgs") or {}
    if isinstance(layer_cfgs, list | tuple) and all(cfg == layer_cfgs[0] for cfg in layer_cfgs):
        layer_cfgs = layer_cfgs[0]  # the same for all layers
    if not isinstance(layer_cfgs, Mapping) or set(layer_cfgs) - set(KEYS):
        unrecorded.add("layer_cfgs")
        layer_cfgs = {}
    record |= _parts(norm, patch_norm, layer_cfgs, options.get("rope"), grid.registers)
    return dict(record, unrecorded=sorted(unrecorded))


def _parts(
    norm: str | None,
    patch_norm: str | None,
    layer_cfgs: Mapping,
    rope: RotaryPositions | None,
    registers: int,
) -> dict:
    """Return ``dict(parts=...)``: what the encoder has beside a plain ViT's; {} if nothing."""
    parts = dict(norm=norm, patch_norm=patch_norm) | asdict(LayerParts(**layer_cfgs))
    plain = dict(norm="LN", patch_norm="LN") | asdict(LayerParts())
    parts = {name: value for name, value in parts.items() if value not in (None, plain[name])}
    if rope is not None:
        parts["rope"] = asdict(rope)
    if registers:
        parts["registers"] = registers
    return dict(parts=parts) if parts else {}


def _norm(config: Mapping | None) -> tuple[str | None, float | None]:
    """Return the kind, of :data:`NORMS`, and the eps of a norm; None and None of any other."""
    if not config or config.get("type") not in NORMS or set(config) - {"type", "eps"}:
        return None, None
    return NORMS[config["type"]], float(config.get("eps", 1e-5))


def _check_parts(parts: Any) -> None:
    """Check what a file says of the parts that a plain ViT lacks."""
    known = {"norm", "patch_norm", "rope", "registers", *KEYS}
    _require(isinstance(parts, dict) and not set(parts) - known, "parts", parts)
    for name in ("norm", "patch_norm"):
        _require(parts.get(name, "LN") in NORM_CONFIGS, name, parts.get(name))
    for name in ("sub_ln", "qk_norm"):
        _require(type(parts.get(name, False)) is bool, name, parts.get(name))
    _require(_sizes([parts.get("registers", 1)], 1), "registers", parts.get("registers"))
    try:
        LayerParts(**{key: parts[key] for key in KEYS if key in parts})
        RotaryPositions.of(parts.get("rope"))
    except (ValueError, TypeError) as error:
        _require(False, f"parts ({error})", parts)


def describe_images(preprocessor: nn.Module, channels: int) -> dict | None:
    """Record how a data preprocessor of MMPretrain converts pixels to the input of the encoder.

    Args:
        preprocessor: A data preprocessor of images as they are read from files: uint8, BGR or grey.
        channels: Number of channels of the encoder's images.

    Returns:
        ``mean`` and ``std`` of each channel, for pixels from 0 to 255, and ``order``, a key of
        :data:`ORDERS`. None if the encoder takes neither grey nor colour images.
    """
    if channels not in ORDERS.values():
        return None
    to_rgb = getattr(preprocessor, "_channel_conversion", getattr(preprocessor, "to_rgb", False))
    mean, std = [0.0] * channels, [1.0] * channels
    if getattr(preprocessor, "_enable_normalize", False):
        if preprocessor.mean.is_meta:  # tensors on the meta device hold no numbers
            return None
        if preprocessor.mean.numel() not in (1, channels):
            return None
        mean, std = (
            [round(float(v), 6) for v in buffer.flatten().expand(channels)]
            for buffer in (preprocessor.mean, preprocessor.std)
        )
    order = "gray" if channels == 1 else "RGB" if to_rgb else "BGR"
    return dict(mean=mean, std=std, order=order)


def parse_record(data: bytes) -> dict:
    """Read a record and check every value in it.

    Raises:
        ValueError: It is not JSON, or a value is invalid.
    """
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            "the checkpoint's record of its encoder cannot be read: it is no JSON"
        ) from error
    has_mask = isinstance(record, dict) and isinstance(record.get("mask"), dict)
    _require(has_mask and _sizes(record.get("grid"), 2), "mask and grid", record)
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
    _check_parts(encoder.get("parts", {}))
    names = encoder.get("unrecorded")
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _require(strings, "unrecorded", names)


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
            f"the checkpoint's record of its encoder has no valid {name}: {str(given)[:100]}; use "
            "a file that this toolkit wrote"
        )


def _sizes(values: Any, count: int) -> bool:
    """Return whether the values are a list of ``count`` integers from 1 to :data:`LIMIT`."""
    valid = isinstance(values, list) and all(type(v) is int and 0 < v <= LIMIT for v in values)
    return valid and len(values) == count


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def encoder_options(record: dict, state: Mapping[str, Tensor] | None = None) -> dict:
    """Return the arguments of a MaskedViT from a record.

    Args:
        record: What :func:`parse_record` returns, with an ``encoder``.
        state: The encoder's tensors, without a prefix. If they are given, every size in the record
            is compared with them, so that a record cannot allocate more memory than the file has.

    Raises:
        ValueError: The encoder has options that are not recorded, or its sizes are not those of
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
    return recorded_options(encoder) | {name: encoder[name] for name in CHOICES}


def recorded_options(encoder: dict) -> dict:
    """Return the arguments of a MaskedViT that decide which tensors it has.

    Args:
        encoder: The record of an encoder, see :func:`describe_encoder`.
    """
    parts = encoder.get("parts", {})
    norms = {name: NORM_CONFIGS[parts.get(name, "LN")] for name in ("norm", "patch_norm")}
    options = dict(
        arch=dict(encoder["arch"]),
        img_size=_int_if_square(encoder["img_size"]),
        patch_size=_int_if_square(encoder["patch_size"]),
        in_channels=encoder["in_channels"],
        norm_cfg=dict(type=norms["norm"], eps=encoder["norm_eps"]),
        layer_scale_init_value=encoder["layer_scale"],
        **{name: encoder[name] for name in FLAGS},
    )
    if encoder["patch_norm_eps"] is not None:
        norm_cfg = dict(type=norms["patch_norm"], eps=encoder["patch_norm_eps"])
        options["patch_cfg"] = dict(norm_cfg=norm_cfg)
    if encoder["positions"] in ("relative", "none"):
        options["positions"] = encoder["positions"]
    if layer_cfgs := {key: parts[key] for key in KEYS if key in parts}:
        options["layer_cfgs"] = layer_cfgs
    if "rope" in parts:
        options["rope"] = dict(parts["rope"])
    if "registers" in parts:
        options["registers"] = parts["registers"]
    return options


def _int_if_square(size: list[int]) -> int | tuple[int, ...]:
    return size[0] if size[0] == size[1] else tuple(size)


def _check_tensors(encoder: dict, state: Mapping[str, Tensor]) -> None:
    arch = encoder["arch"]
    grid = PatchGrid.of(
        tuple(encoder["img_size"]), tuple(encoder["patch_size"]), encoder["in_channels"]
    )
    width, hidden = arch["embed_dims"], arch["feedforward_channels"]
    tokens = grid.tokens + encoder["with_cls_token"]
    ffn_type = encoder.get("parts", {}).get("ffn_type", "origin")
    ffn = "ffn.layers.0.0.weight" if ffn_type == "origin" else "ffn.w12.weight"
    rows = dict(origin=hidden, swiglu=2 * hidden, swiglu_fused=2 * fused_width(hidden))[ffn_type]
    expected = {
        "patch_embed.projection.weight": (width, grid.channels, *grid.patch),
        "pos_embed": (1, tokens, width),
        f"layers.0.{ffn}": (rows, width),
        f"layers.{arch['num_layers'] - 1}.{ffn}": (rows, width),
    }
    if encoder["positions"] in ("relative", "none"):
        del expected["pos_embed"]
    if registers := encoder.get("parts", {}).get("registers"):
        expected["register_tokens"] = (1, registers, width)
    for name, shape in expected.items():
        found = tuple(state[name].shape) if name in state else None
        if found != shape:
            raise ValueError(
                f"the checkpoint records an encoder whose {name} has the shape {shape}, and holds "
                f"{found or 'none'}; use a file that this toolkit wrote"
            )


def differences(own: dict, stored: dict, any_size: bool = False) -> list[str]:
    """Return in what two records of encoders differ: the key of the config and both values.

    Args:
        own: Record of the config's encoder.
        stored: Record of the checkpoint's encoder.
        any_size: Whether ``img_size`` may differ.
    """
    sizes = [*(["img_size"] * (not any_size)), "patch_size", "in_channels"]
    found = [(f"arch ({n})", own["arch"][n], stored["arch"][n]) for n in ARCH]
    found += [(n, _short(own[n]), _short(stored[n])) for n in sizes]
    parts = own.get("parts", {}), stored.get("parts", {})
    found += [(n, *(part.get(n) for part in parts)) for n in sorted({*parts[0], *parts[1]})]
    norms = dict(norm_eps="norm_cfg.eps", patch_norm_eps="patch_cfg.norm_cfg.eps")
    found += [
        (key, own[n], stored[n]) for n, key in norms.items() if None not in (own[n], stored[n])
    ]
    return [
        f"model.backbone.{key} is {mine} in the config and {other} in the checkpoint"
        for key, mine, other in found
        if mine != other
    ]


def image_differences(own: dict | None, stored: dict | None) -> list[str]:
    """Return in what two records of images differ: the key of the config and both values.

    Args:
        own: Record of the config's data preprocessor, see :func:`describe_images`; None if there
            is none.
        stored: Record of the checkpoint's images; None if it has none.
    """
    if own is None or stored is None or len(own["mean"]) != len(stored["mean"]):
        return []
    found = [
        (name, *([float(f"{v:.6g}") for v in record[name]] for record in (own, stored)))
        for name in ("mean", "std")
        if not all(map(_close, own[name], stored[name]))
    ]
    if own["order"] != stored["order"]:
        orders = (f"{record['order'] == 'RGB'} ({record['order']})" for record in (own, stored))
        found.append(("to_rgb", *orders))
    return [
        f"model.data_preprocessor.{key} is {mine} in the config and {other} in the checkpoint"
        for key, mine, other in found
    ]


def _close(mine: float, other: float) -> bool:
    return math.isclose(mine, other, rel_tol=1e-3, abs_tol=0.05)


def _short(size: int | list[int]) -> int | tuple[int, ...]:
    return _int_if_square(size) if isinstance(size, list) else size


def sides(size: int | tuple[int, int]) -> str:
    """Return '256×256' for 256 or for (256, 256)."""
    return "×".join(map(str, pair(size)))
