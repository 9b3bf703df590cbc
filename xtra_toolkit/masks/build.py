"""From a config to a mask factory, with a sentence where that fails."""

import copy
from collections.abc import Callable

from xtra_toolkit.masks.mask import Mask
from xtra_toolkit.registry import MASKS


def build_mask(cfg: dict | Callable) -> Callable[..., Mask]:
    """A mask factory from ``dict(type='BlockCausal', block_size=4)``; a factory is passed on."""
    if callable(cfg) and not isinstance(cfg, type):
        return cfg
    if not hasattr(cfg, "get") or not cfg.get("type"):
        raise ValueError(f"a mask must be a dict with a `type`, or a mask factory; given: {cfg!r}")
    args = copy.deepcopy(dict(cfg))
    kind = args.pop("type")
    factory = kind if callable(kind) else MASKS.get(kind)
    if factory is None:
        raise ValueError(f"unknown mask {kind!r}; {known_masks()}")
    try:
        return factory(**args)
    except TypeError as error:
        raise ValueError(f"mask {kind!r} cannot be made of {args}: {error}") from error


def known_masks() -> str:
    """The names that a config may use, and the plugins that failed to load."""
    from xtra_toolkit.masks.plugins import FAILED

    text = f"known masks: {', '.join(sorted(MASKS.module_dict))}"
    return text + "".join(
        f"; plugin {name!r} failed to load: {why}" for name, why in FAILED.items()
    )
