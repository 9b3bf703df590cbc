"""Check that a model from an untrusted config has only known parts before it is built."""

from mmengine.registry import Registry

from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.plugins import packages
from xtra_toolkit.registry import MASKS, MODELS, ORDERS, WEIGHT_INITIALIZERS

OPENMMLAB = ("", "mmengine", "mmcv", "mmpretrain")
HARMLESS = frozenset(  # parts of OpenMMLab that open no file and load nothing
    (
        *("LN", "LN2d", "BN", "SyncBN", "GN", "RMSNorm", "GELU", "ReLU", "SiLU", "Swish"),
        *("Linear", "Conv2d", "SelfSupDataPreprocessor", "ClsDataPreprocessor"),
        *("Constant", "Normal", "TruncNormal", "Uniform", "Xavier", "Kaiming", "Pretrained"),
    )
)


def check_parts(model: dict) -> None:
    """Refuse a model config with a part that is not registered by this package or its plugins.

    Norms, activations, initialisers and preprocessors of OpenMMLab are allowed. Its models are
    not, because some of them download files that their config names.

    Raises:
        ValueError: If a part is not registered, or sets the scope in which it is looked up.
    """
    plugins = [r for r in MODELS.parent.children.values() if r.scope in packages()]
    registries: list[Registry] = [MASKS, ORDERS, MODELS, WEIGHT_INITIALIZERS, *plugins]
    check_registered(_without_harmless(model), "model", registries)


def _without_harmless(cfg: object) -> object:
    """Return the config without the types of harmless parts."""
    if isinstance(cfg, list | tuple):
        return [_without_harmless(value) for value in cfg]
    if not isinstance(cfg, dict):
        return cfg
    scope, _, name = str(cfg.get("type")).rpartition(".")
    known = scope in OPENMMLAB and name in HARMLESS
    return {
        key: _without_harmless(value) for key, value in cfg.items() if not (known and key == "type")
    }
