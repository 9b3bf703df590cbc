"""Which parts of a stranger's model are built to show its objective: none but known ones."""

from mmengine.registry import Registry

from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.plugins import packages
from xtra_toolkit.registry import MASKS, MODELS, ORDERS, WEIGHT_INITIALIZERS

OPENMMLAB = ("", "mmengine", "mmcv", "mmpretrain")
HARMLESS = frozenset(  # of OpenMMLab's parts: they open no file and load nothing
    (
        *("LN", "LN2d", "BN", "SyncBN", "GN", "RMSNorm", "GELU", "ReLU", "SiLU", "Swish"),
        *("Linear", "Conv2d", "SelfSupDataPreprocessor", "ClsDataPreprocessor"),
        *("Constant", "Normal", "TruncNormal", "Uniform", "Xavier", "Kaiming", "Pretrained"),
    )
)


def check_parts(model: dict) -> None:
    """Refuse a model's config with a part that this package and its plugins did not register.

    Norms, activations, initialisers and preprocessors of OpenMMLab may be in it; its models may
    not, since some of them download what their config names.

    Raises:
        ValueError: a part is not registered, or names the scope to look in.
    """
    theirs = [r for r in MODELS.parent.children.values() if r.scope in packages()]
    registries: list[Registry] = [MASKS, ORDERS, MODELS, WEIGHT_INITIALIZERS, *theirs]
    check_registered(_without_harmless(model), "model", registries)


def _without_harmless(cfg: object) -> object:
    """The config without the types of harmless parts."""
    if isinstance(cfg, list | tuple):
        return [_without_harmless(value) for value in cfg]
    if not isinstance(cfg, dict):
        return cfg
    scope, _, name = str(cfg.get("type")).rpartition(".")
    known = scope in OPENMMLAB and name in HARMLESS
    return {
        key: _without_harmless(value) for key, value in cfg.items() if not (known and key == "type")
    }
