"""Register the shipped models for MMPretrain's ``list_models`` and ``get_model``."""

from pathlib import Path

from mmpretrain.apis import ModelHub

import xtra_toolkit


def configs() -> Path:
    """Return the folder of the shipped configs: inside the package in a wheel, else beside it.

    Raises:
        ValueError: Python took a folder of the same name, without an ``__init__.py``, for the
            package. An editable install is hidden in this way by the clone in the current folder.
    """
    if xtra_toolkit.__file__ is None:
        raise ValueError(
            f"Python took the folder {next(iter(xtra_toolkit.__path__))!r} for the package "
            "xtra_toolkit and did not find the installed one: run the command from another folder."
        )
    package = Path(xtra_toolkit.__file__).parent
    inside = package / "mmconfigs"
    return inside if inside.is_dir() else package.parent / "mmconfigs"


def register() -> None:
    """Register the models once. Importing ``xtra_toolkit.models`` calls this."""
    if not ModelHub.has("xtra_vit-b16"):
        ModelHub.register_model_index(configs() / "model-index.yml", config_prefix=configs())
