"""Run several processes on a machine without GPUs. A config imports this before MMEngine starts.

    custom_imports = dict(imports=["xtra_toolkit.engine.gloo"])
    model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)

MMEngine 0.10.7's launcher calls ``torch.cuda.set_device`` for every backend
(``_init_dist_pytorch`` in dist/utils.py). Where there is no GPU, this module replaces it by a
launcher without that call. ``env_cfg.dist_cfg`` is used as before, except for its ``backend``.
"""

from typing import Any

import torch
from mmengine.dist import utils


def start(backend: str = "gloo", init_backend: str = "torch", **kwargs: Any) -> None:
    """Join the processes that torchrun has started.

    Args:
        backend, init_backend: Not used, since only gloo runs without GPUs.
        **kwargs: Arguments of ``torch.distributed.init_process_group``, such as ``timeout``.
    """
    torch.distributed.init_process_group("gloo", **kwargs)


if not torch.cuda.is_available():
    utils._init_dist_pytorch = start
