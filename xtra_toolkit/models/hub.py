"""Makes the shipped models known to MMPretrain's ``list_models`` and ``get_model``."""

from pathlib import Path

from mmpretrain.apis import ModelHub

import xtra_toolkit


def configs() -> Path:
    """The folder of the shipped configs: in a checkout beside the package, in a wheel inside."""
    package = Path(xtra_toolkit.__file__).parent
    inside = package / "mmconfigs"
    return inside if inside.is_dir() else package.parent / "mmconfigs"


def register() -> None:
    """Register once; importing ``xtra_toolkit.models`` does it."""
    if not ModelHub.has("xtra_vit-b16"):
        ModelHub.register_model_index(configs() / "model-index.yml", config_prefix=configs())
