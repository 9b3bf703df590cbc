"""Register the shipped models for MMPretrain's ``list_models`` and ``get_model``."""

from pathlib import Path

from mmpretrain.apis import ModelHub

import xtra_toolkit


def configs() -> Path:
    """Return the folder of the shipped configs: inside the package in a wheel, else beside it."""
    package = Path(xtra_toolkit.__file__).parent
    inside = package / "mmconfigs"
    return inside if inside.is_dir() else package.parent / "mmconfigs"


def register() -> None:
    """Register the models once. Importing ``xtra_toolkit.models`` calls this."""
    if not ModelHub.has("xtra_vit-b16"):
        ModelHub.register_model_index(configs() / "model-index.yml", config_prefix=configs())
