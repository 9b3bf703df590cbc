"""Hooks that refuse a state dict that does not fit; MMEngine would only warn and go on."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp._common_utils import clean_tensor_name

from xtra_toolkit.models.encoder_mask import KEY

HINTS = (  # pattern of a name that does not fit, and a hint for the user
    ("cls_token", "with_cls_token is another in this config"),
    ("mask_token", "mask_tokens is another in this config"),
    (r"patch_embed\.norm", "AIM's patch norm is patch_cfg=dict(norm_cfg=...)"),
    (r"layers\.\d+\..*weight", "arch is another in this config"),
    (r"\.bias", "bias or qkv_bias is another in this config"),
    ("", "the encoder may lie under another prefix, init_cfg.prefix='backbone.'"),
)


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
