"""Hooks before a state dict is loaded: MMEngine only warns of what does not fit, and goes on."""

import re

from torch import nn
from torch.distributed.fsdp._common_utils import clean_tensor_name

from xtra_toolkit.models.encoder_mask import KEY

HINTS = (  # patterns of the names that do not fit, and what that says of the config
    ("cls_token", "with_cls_token is another in this config"),
    (r"patch_embed\.norm", "AIM's patch norm is patch_cfg=dict(norm_cfg=...)"),
    (r"layers\.\d+\..*weight", "arch is another in this config"),
    (r"\.bias", "bias or qkv_bias is another in this config"),
    ("", "the encoder may lie under another prefix, init_cfg.prefix='backbone.'"),
)


def refuse_strangers(vit: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """A hook before loading: MMEngine only warns of names that do not fit, and a probe goes on."""
    own = {clean_tensor_name(name) for name, _ in vit.named_parameters()}  # also where sharded
    given = {n.removeprefix(prefix) for n in state_dict if n.startswith(prefix) and KEY not in n}
    norms = {f"{norm}.{part}" for norm in ("ln1", "ln2") for part in ("weight", "bias")}
    free = norms | ({"pos_embed"} if vit.fixed else set())  # final norms differ between protocols
    odd, absent = sorted(given - own - norms), sorted(own - given - free)
    if not state_dict or not (odd or absent):
        return
    hint = next(text for part, text in HINTS if any(re.search(part, n) for n in odd + absent))
    if not given & own:
        odd, hint = sorted(state_dict), HINTS[-1][1]
    raise ValueError(
        "the checkpoint is not of this encoder: "
        + "; ".join(
            f"{len(names)} parameters {what}, the first {names[0]!r}"
            for names, what in ((odd, "have no place in it"), (absent, "are not in the file"))
            if names
        )
        + f". {hint}"
    )


def refuse_other_shapes(module: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """A hook before loading: MMEngine only warns of another shape, and trains on.

    Raises:
        ValueError: a parameter of the checkpoint has another shape than the module's.
    """
    for name, parameter in module.named_parameters():
        given = state_dict.get(prefix + name)
        if given is not None and given.shape != parameter.shape:
            raise ValueError(
                f"{prefix}{name} has shape {tuple(given.shape)} in the checkpoint and "
                f"{tuple(parameter.shape)} in this {type(module).__name__}; load it into the model "
                "that its config describes"
            )
