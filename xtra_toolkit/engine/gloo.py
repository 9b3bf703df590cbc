"""Several processes on a machine without GPUs: to be imported by a config, before MMEngine starts.

    custom_imports = dict(imports=["xtra_toolkit.engine.gloo"])
    model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)

MMEngine 0.10.7's launcher calls ``torch.cuda.set_device``, whatever the backend
(``_init_dist_pytorch`` in dist/utils.py). This module puts a launcher without that call in its
place where there is no GPU; ``env_cfg.dist_cfg`` holds for it too, its ``backend`` excepted.
"""

from typing import Any

import torch
from mmengine.dist import utils


def start(backend: str = "gloo", init_backend: str = "torch", **kwargs: Any) -> None:
    """Join the processes that torchrun has started.

    Args:
        backend, init_backend: not used, as only gloo runs without GPUs.
        **kwargs: of ``torch.distributed.init_process_group``, such as ``timeout``.
    """
    torch.distributed.init_process_group("gloo", **kwargs)


if not torch.cuda.is_available():
    utils._init_dist_pytorch = start
