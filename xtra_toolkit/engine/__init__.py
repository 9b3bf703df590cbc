"""The training loop and the optimizer wrapper."""

from xtra_toolkit.engine.loop import GlobalBatchLoop
from xtra_toolkit.engine.optim import AutocastOptimWrapper

__all__ = ["AutocastOptimWrapper", "GlobalBatchLoop"]
