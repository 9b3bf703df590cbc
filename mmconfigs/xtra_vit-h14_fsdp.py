"""XTRA ViT-H/14 as in xtra_vit-h14.py, with weights and optimizer sharded over the processes.

    mim train mmpretrain mmconfigs/xtra_vit-h14_fsdp.py --launcher pytorch --gpus 8

The two lines below shard any other config too. Its checkpoints are those of an unsharded run.
"""

_base_ = ["xtra_vit-h14.py"]

runner_type = "xtra_toolkit.ShardedRunner"
strategy = dict(type="xtra_toolkit.ShardedStrategy")
