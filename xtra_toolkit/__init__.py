"""Composable masks and targets for pretraining image models, on MMPretrain."""

import warnings
from typing import Any

# A user cannot act on these warnings: mmcv-lite lacks an operation that nothing here uses, and a
# data loader with pin_memory=True does not pin memory on a machine without a GPU.
for message in (
    "Fail to import ``MultiScaleDeformableAttention``",
    "'pin_memory' argument is set as true but no accelerator is found",
):
    warnings.filterwarnings("ignore", message, UserWarning)

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import ``load`` on first use, so that importing the package stays light."""
    if name == "load":
        from xtra_toolkit.weights.encoder import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
