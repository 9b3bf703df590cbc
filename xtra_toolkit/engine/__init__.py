"""Train: the loop, optimizer wrappers, sharding and what resuming needs."""

from xtra_toolkit.engine.autocast import AutocastOptimWrapper
from xtra_toolkit.engine.checked_runner import CheckedRunner
from xtra_toolkit.engine.loop import GlobalBatchLoop
from xtra_toolkit.engine.master_weights import MasterWeightsOptimWrapper
from xtra_toolkit.engine.sharded_runner import ShardedRunner
from xtra_toolkit.engine.sharded_strategy import ShardedStrategy

__all__ = [
    "AutocastOptimWrapper",
    "CheckedRunner",
    "GlobalBatchLoop",
    "MasterWeightsOptimWrapper",
    "ShardedRunner",
    "ShardedStrategy",
]
