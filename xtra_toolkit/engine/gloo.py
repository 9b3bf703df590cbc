"""Several processes on a machine without GPUs: to be imported by a config, before MMEngine starts.

    custom_imports = dict(imports=["xtra_toolkit.engine.gloo"])
    model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)

MMEngine 0.10.7's launcher calls ``torch.cuda.set_device``, whatever the backend
(``_init_dist_pytorch`` in dist/utils.py), unless a process group is there already.
"""

import os

import torch


def start() -> bool:
    """Joins the processes that torchrun has started, where no GPU can; whether it did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or torch.cuda.is_available():
        return False
    if torch.distributed.is_initialized():
        return False
    torch.distributed.init_process_group("gloo")
    return True


start()
