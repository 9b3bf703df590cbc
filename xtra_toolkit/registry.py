"""Define the registries of this package.

``MASKS`` and ``ORDERS`` (orders of units, which ``Reordered`` takes) are root registries. The
others are children of MMEngine's registries, so that a config finds ``type='xtra_toolkit.X'``
without ``custom_imports``, in every process.

Import nothing heavy here: MMEngine ignores an ImportError that this file raises.
"""

from collections.abc import Callable
from typing import Any

from mmengine import registry as mmengine_registry
from mmengine.registry import Registry


def _child(name: str, *locations: str) -> Registry:
    parent = getattr(mmengine_registry, name)
    modules = [f"xtra_toolkit.{m}" for m in (*locations, "weights.loader", "installed_plugins")]
    return Registry(parent.name, parent=parent, scope="xtra_toolkit", locations=modules)


def _build_mask(cfg: dict, *args: Any, **kwargs: Any) -> Callable:
    """Import ``xtra_toolkit.masks``, which replaces this function by its own, and build a mask."""
    MASKS.import_from_location()
    return MASKS.build_func(cfg)


MASKS = Registry(
    "mask",
    build_func=_build_mask,
    scope="xtra_toolkit",
    locations=["xtra_toolkit.masks", "xtra_toolkit.installed_plugins"],
)
ORDERS = Registry("order", scope="xtra_toolkit", locations=["xtra_toolkit.masks"])
MODELS = _child("MODELS", "models", "targets", "evaluation")
DATASETS = _child("DATASETS", "data", "evaluation")
DATA_SAMPLERS = _child("DATA_SAMPLERS", "data")
TRANSFORMS = _child("TRANSFORMS", "data", "evaluation")
FUNCTIONS = _child("FUNCTIONS", "data")  # collate functions
HOOKS = _child("HOOKS", "hooks", "training.console")
METRICS = _child("METRICS", "evaluation")
LOOPS = _child("LOOPS", "engine", "evaluation")
WEIGHT_INITIALIZERS = _child("WEIGHT_INITIALIZERS", "models")
OPTIM_WRAPPERS = _child("OPTIM_WRAPPERS", "engine", "evaluation")
OPTIM_WRAPPER_CONSTRUCTORS = _child("OPTIM_WRAPPER_CONSTRUCTORS", "engine", "evaluation")
RUNNERS = _child("RUNNERS", "engine")
STRATEGIES = _child("STRATEGIES", "engine")
VISUALIZERS = _child("VISUALIZERS", "visualization")
VISBACKENDS = _child("VISBACKENDS", "visualization")
