"""Take an encoder's sizes from its checkpoint, and refuse a state dict that does not fit.

MMEngine would only warn and go on.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import nn
from torch.distributed.fsdp._common_utils import clean_tensor_name

from xtra_toolkit.models.encoder_mask import KEY, unpack
from xtra_toolkit.models.encoder_record import differences, image_differences, recorded_options

NO_CHECKPOINT = (
    "no checkpoint was given for the encoder; add "
    "--cfg-options model.backbone.init_cfg.checkpoint=/path/to/epoch_800.pth"
)
HINTS = (  # pattern of a name that does not fit, and a hint for the user
    ("register_tokens", "registers is another in this config"),
    ("cls_token", "with_cls_token is another in this config"),
    ("fusion", "fused_layers is another in this config"),
    ("mask_token", "mask_tokens is another in this config"),
    (r"patch_embed\.norm", "AIM's patch norm is patch_cfg=dict(norm_cfg=...)"),
    ("pos_embed", "positions is another in this config"),
    (r"\.(w12|w3|[qk]_norm|ffn\.norm)\.", "layer_cfgs is another in this config"),
    (r"layers\.\d+\..*weight", "arch is another in this config"),
    (r"\.bias", "bias or qkv_bias is another in this config"),
    ("", "the encoder may lie under another prefix, init_cfg.prefix='backbone.'"),
)


def add_recorded_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Add the options of a MaskedViT that are not given from the checkpoint of its ``init_cfg``.

    The checkpoint is read only where the config gives no ``arch``, ``img_size`` or ``patch_size``.

    Args:
        options: The options that the config gives; None stands for one that it does not give.

    Raises:
        ValueError: The config gives no ``arch``, and names no checkpoint or one that does not
            record it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    init = given.get("init_cfg")
    pretrained = isinstance(init, Mapping) and str(init.get("type")).endswith("Pretrained")
    if not pretrained or {"arch", "img_size", "patch_size"} <= given.keys():
        return given
    checkpoint, prefix = init.get("checkpoint"), init.get("prefix")
    record = _read_record(init)
    if record and record.get("encoder"):
        _refuse_unrecorded(record["encoder"]["unrecorded"], given, checkpoint)
        return recorded_options(record["encoder"]) | given
    if "arch" in given:
        return given
    if not checkpoint:
        raise ValueError(
            f"{NO_CHECKPOINT}; the encoder's sizes are read from it. To test a trained probe, give "
            "its own file here, too."
        )
    raise ValueError(
        f"{checkpoint} does not record the sizes of an encoder under {prefix!r}, and the config "
        "does not give them; set model.backbone.arch, img_size and patch_size"
    )


def _refuse_unrecorded(names: list[str], given: Mapping[str, Any], checkpoint: str) -> None:
    """Refuse to fill in the options of a checkpoint that does not record all of them."""
    absent = [name for name in names if name.partition(".")[0] not in given]
    if absent:
        raise ValueError(
            f"{checkpoint} does not record all options of its encoder: {', '.join(absent)}; give "
            "them in the config as in the pretraining, for instance "
            f"model.backbone.{absent[0].partition('.')[0]}"
        )


def _read_record(init_cfg: Mapping[str, Any]) -> dict | None:
    """Read the record of the encoder in the checkpoint that ``init_cfg`` names; None without one.

    Args:
        init_cfg: A config of the type 'Pretrained'.
    """
    checkpoint, prefix = init_cfg.get("checkpoint"), (init_cfg.get("prefix") or "").rstrip(".")
    if not checkpoint:
        return None
    state = CheckpointLoader.load_checkpoint(checkpoint, map_location="cpu")
    return unpack(state.get("state_dict", state).get(f"{prefix}.{KEY}.json".lstrip(".")))


def with_recorded_images(preprocessor: dict | None, backbone: Mapping[str, Any]) -> dict:
    """Add to the config of a data preprocessor what it does not name, from the checkpoint.

    Args:
        preprocessor: The config. ``mean``, ``std`` and ``to_rgb`` are added.
        backbone: Config of the encoder, whose ``init_cfg`` may name a checkpoint.
    """
    given, init = dict(preprocessor or {}), backbone.get("init_cfg")
    pretrained = isinstance(init, Mapping) and str(init.get("type")).endswith("Pretrained")
    if not pretrained or {"mean", "std", "to_rgb"} <= given.keys():
        return given
    images = (_read_record(init) or {}).get("images")
    if images is None:
        return given
    recorded = dict(mean=images["mean"], std=images["std"], to_rgb=images["order"] == "RGB")
    return recorded | given


@contextmanager
def explain_missing_prefix(init_cfg: Mapping) -> Iterator[None]:
    """Explain MMEngine's bare assertion that a checkpoint has no tensor under the prefix.

    Args:
        init_cfg: The ``init_cfg`` that is executed.

    Raises:
        ValueError: The checkpoint has no such tensor.
    """
    try:
        yield
    except AssertionError as error:
        if "is not in the pretrained model" not in str(error):
            raise
        raise ValueError(
            f"{init_cfg['checkpoint']} holds no encoder: no tensor in it begins with "
            f"{init_cfg['prefix']!r}; name a checkpoint of a pretraining run, or set "
            "model.backbone.init_cfg.prefix to that of its encoder"
        ) from error


def drop_mask_token(vit: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Remove the mask token of a checkpoint if this encoder has none, since features need none."""
    if vit.mask_token is None:
        state_dict.pop(f"{prefix}mask_token", None)


def refuse_other_record(vit: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Check before loading that the checkpoint records what the config gives.

    Sizes are compared and, in a classifier, how images are normalised.

    Raises:
        ValueError: It records others; the message gives the key of the config and both values.
    """
    stored = unpack(state_dict.get(f"{prefix}{KEY}.json"))
    if stored is None:
        return
    grid, own = vit.grid, vit.encoder_mask.encoder
    stored_encoder = stored.get("encoder") or dict(
        own, img_size=[n * side for n, side in zip(stored["grid"], grid.patch, strict=True)]
    )
    different = differences(own, stored_encoder, vit.dynamic_img_size)
    different += image_differences(vit.encoder_mask.given_images, stored.get("images"))
    if different:
        raise ValueError(
            f"the checkpoint has another encoder than the config: {'; '.join(different)}. Leave "
            "the keys out of the config, or set the checkpoint's values"
            + (
                "; model.data_preprocessor=None takes its normalisation"
                if any("data_preprocessor" in text for text in different)
                else ""
            )
            + (
                ". If another size of the images is intended, set "
                "model.backbone.dynamic_img_size=True"
                if any("img_size" in text for text in different)
                else ""
            )
        )


def refuse_other_names(vit: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Check before loading that the names of the parameters are those of a MaskedViT.

    The final norms may be absent or left over, since they differ between evaluation protocols.

    Raises:
        ValueError: The checkpoint has other parameters.
    """
    own = {clean_tensor_name(name) for name, _ in vit.named_parameters()}  # also if sharded
    given = {n.removeprefix(prefix) for n in state_dict if n.startswith(prefix) and KEY not in n}
    norms = {f"{norm}.{part}" for norm in ("ln1", "ln2") for part in ("weight", "bias")}
    optional = norms | ({"pos_embed"} if vit.fixed else set())
    unexpected, absent = sorted(given - own - norms), sorted(own - given - optional)
    if not state_dict or not (unexpected or absent):
        return
    hint = next(h for part, h in HINTS if any(re.search(part, n) for n in unexpected + absent))
    if not given & own:
        unexpected, hint = sorted(state_dict), HINTS[-1][1]
    clauses = (
        f"{len(names)} parameters {problem}, the first {names[0]!r}"
        for names, problem in (
            (unexpected, "have no place in it"),
            (absent, "are not in the file"),
        )
        if names
    )
    raise ValueError(f"the checkpoint is not of this encoder: {'; '.join(clauses)}. {hint}")


def refuse_other_shapes(module: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Check before loading that the parameters of the checkpoint have the module's shapes.

    Raises:
        ValueError: A parameter of the checkpoint has another shape than the module's.
    """
    for name, parameter in module.named_parameters():
        given = state_dict.get(prefix + name)
        if given is not None and given.shape != parameter.shape:
            raise ValueError(
                f"{prefix}{name} has shape {tuple(given.shape)} in the checkpoint and "
                f"{tuple(parameter.shape)} in this {type(module).__name__}; load it into the model "
                "that its config describes"
            )
