"""Build a mask factory from its config, and explain why if that fails."""

import copy
from collections.abc import Iterable
from typing import Any

from mmengine.registry import Registry

from xtra_toolkit.objective.mask import MaskFactory
from xtra_toolkit.plugins import failures, find
from xtra_toolkit.registry import MASKS, ORDERS


def build_mask(cfg: dict | MaskFactory) -> MaskFactory:
    """Build a mask factory from a config such as ``dict(type='BlockCausal', block_size=4)``.

    A factory is returned as it is.

    Raises:
        ValueError: No mask can be built of the config; the message says why.
    """
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


MASKS.build_func = _build_from_registry  # set here, since the registry cannot import this module


def check_registered(
    cfg: object, what: str = "checkpoint's mask", registries: Iterable[Registry] = (MASKS, ORDERS)
) -> None:
    """Check that a config from a file builds only what is registered in this process.

    MMEngine imports and calls any dotted path that it finds as a `type`, so a file of unknown
    origin could run any code. It also imports the package that a `_scope_` names.

    Args:
        cfg: The config. It may hold other configs at any depth.
        what: What the config describes, for the message.
        registries: Each `type` must be registered in one of these or in one of their children.

    Raises:
        ValueError: A `type` is not registered there, or there is a `_scope_`.
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
    """Return whether ``kind`` is a name in one of the registries or, with scope, in a child."""
    if not isinstance(kind, str):
        return False
    scope, _, name = kind.rpartition(".")
    for root in registries:
        root.import_from_location()
        for registry in (root, *root.children.values()):
            matches = scope == registry.scope or (not scope and registry.parent is None)
            if matches and name in registry.module_dict:
                return True
    return False


def known_masks(kind: str = "") -> str:
    """Return clauses that list the known masks, and the plugins that failed to load.

    Args:
        kind: The name that was not found; its scope is tried, see ``failures``.
    """
    names = sorted(MASKS.module_dict)
    for scope, registry in sorted(MASKS.children.items()):
        names += [f"{scope}.{name}" for name in sorted(registry.module_dict)]
    return (
        f"known masks: {', '.join(names)}; a plugin's is known once it is installed, or named in "
        f"custom_imports{failures(kind)}"
    )
