"""From a config to a mask factory, with a sentence where that fails."""

import copy
from collections.abc import Iterable
from typing import Any

from mmengine.registry import Registry

from xtra_toolkit.objective.mask import MaskFactory
from xtra_toolkit.plugins import failures, find
from xtra_toolkit.registry import MASKS, ORDERS


def build_mask(cfg: dict | MaskFactory) -> MaskFactory:
    """A mask factory from ``dict(type='BlockCausal', block_size=4)``; a factory is passed on."""
    if isinstance(cfg, MaskFactory):
        return cfg
    if not isinstance(cfg, dict) or not cfg.get("type"):
        raise ValueError(f"a mask must be a dict with a `type`, or a mask factory; given: {cfg!r}")
    args = copy.deepcopy(dict(cfg))
    kind = args.pop("type")
    factory = kind if callable(kind) else find(MASKS, kind)
    if factory is None:
        raise ValueError(f"unknown mask {kind!r}; {known_masks(kind)}")
    if not (isinstance(factory, type) and issubclass(factory, MaskFactory)):
        raise ValueError(
            f"{kind!r} is registered as a mask but does not extend xtra_toolkit.masks.MaskFactory, "
            "which declares what the toolkit asks of a mask; derive it from that class"
        )
    try:
        return factory(**args)
    except TypeError as error:
        raise ValueError(
            f"mask {kind!r} cannot be made of {args}: {error}; a config that inherits another "
            "mask's arguments needs _delete_=True"
        ) from error


def _build_from_registry(cfg: dict, *args: Any, **kwargs: Any) -> MaskFactory:
    return build_mask(cfg)


MASKS.build_func = _build_from_registry  # the registry cannot import this module


def check_registered(
    cfg: object, what: str = "checkpoint's mask", registries: Iterable[Registry] = (MASKS, ORDERS)
) -> None:
    """Refuse a config out of a file that would build anything but parts known to this process.

    MMEngine takes any dotted path for a `type`, and calls it: from a stranger's file that would be
    a stranger's command. It imports the package that a `_scope_` names.

    Args:
        cfg: the config, with other configs at any depth in it.
        what: it describes, for the sentence.
        registries: in which, or in the children of which, each `type` must be registered.

    Raises:
        ValueError: a `type` is not registered there, or there is a `_scope_`.
    """
    if isinstance(cfg, dict):
        if "_scope_" in cfg:
            raise ValueError(f"the config of the {what} names a _scope_, {cfg['_scope_']!r}")
        if "type" in cfg and not _registered(cfg["type"], registries):
            raise ValueError(
                f"the config of the {what} names {cfg['type']!r}, which is not "
                "registered here; import the plugin that registers it (custom_imports in a config, "
                f"--import of xtra convert); {known_masks()}"
            )
        cfg = list(cfg.values())
    for value in cfg if isinstance(cfg, list | tuple) else ():
        check_registered(value, what, registries)


def _registered(kind: object, registries: Iterable[Registry]) -> bool:
    """Is this a name in one of the registries or their children? A child's needs its scope."""
    if not isinstance(kind, str):
        return False
    scope, _, name = kind.rpartition(".")
    for root in registries:
        root.import_from_location()
        for registry in (root, *root.children.values()):
            reached = scope == registry.scope or (not scope and registry.parent is None)
            if reached and name in registry.module_dict:
                return True
    return False


def known_masks(kind: str = "") -> str:
    """The names that a config may use, and what failed to load and may be why ``kind`` is not."""
    names = sorted(MASKS.module_dict)
    for scope, registry in sorted(MASKS.children.items()):
        names += [f"{scope}.{name}" for name in sorted(registry.module_dict)]
    return (
        f"known masks: {', '.join(names)}; a plugin's is known once it is installed, or named in "
        f"custom_imports{failures(kind)}"
    )
