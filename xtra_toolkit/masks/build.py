"""From a config to a mask factory, with a sentence where that fails."""

import copy
from collections.abc import Callable

from xtra_toolkit.masks.mask import Mask
from xtra_toolkit.registry import MASKS, ORDERS


def build_mask(cfg: dict | Callable) -> Callable[..., Mask]:
    """A mask factory from ``dict(type='BlockCausal', block_size=4)``; a factory is passed on."""
    from xtra_toolkit.plugins import find  # late: it imports plugins, and they this package

    if callable(cfg) and not isinstance(cfg, type):
        return cfg
    if not hasattr(cfg, "get") or not cfg.get("type"):
        raise ValueError(f"a mask must be a dict with a `type`, or a mask factory; given: {cfg!r}")
    args = copy.deepcopy(dict(cfg))
    kind = args.pop("type")
    factory = kind if callable(kind) else find(MASKS, kind)
    if factory is None:
        raise ValueError(f"unknown mask {kind!r}; {known_masks(kind)}")
    try:
        return factory(**args)
    except TypeError as error:
        raise ValueError(
            f"mask {kind!r} cannot be made of {args}: {error}; a config that inherits another "
            "mask's arguments needs _delete_=True"
        ) from error


def check_registered(cfg: object) -> None:
    """Refuse a config out of a file that would build anything but masks known to this process.

    MMEngine takes any dotted path for a `type`, and calls it: from a stranger's checkpoint that
    would be a stranger's command.
    """
    if isinstance(cfg, dict):
        if "type" in cfg and not _registered(str(cfg["type"])):
            raise ValueError(
                f"the config of the checkpoint's mask names {cfg['type']!r}, which is not "
                "registered here; import the plugin that registers it (custom_imports in a config, "
                f"--import of xtra convert); {known_masks()}"
            )
        cfg = list(cfg.values())
    for value in cfg if isinstance(cfg, list) else ():
        check_registered(value)


def _registered(kind: str) -> bool:
    MASKS.import_from_location()
    scope, _, name = kind.rpartition(".")
    return any(
        scope in ("", registry.scope) and name in registry.module_dict
        for root in (MASKS, ORDERS)
        for registry in (root, *root.children.values())
    )


def known_masks(kind: str = "") -> str:
    """The names that a config may use, and what failed to load and may be why ``kind`` is not."""
    from xtra_toolkit.plugins import failures

    names = sorted(MASKS.module_dict)
    for scope, registry in sorted(MASKS.children.items()):
        names += [f"{scope}.{name}" for name in sorted(registry.module_dict)]
    return (
        f"known masks: {', '.join(names)}; a plugin's is known once it is installed, or named in "
        f"custom_imports{failures(kind)}"
    )
