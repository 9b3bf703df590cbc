"""The tiny XTRA, sharded as mmconfigs/xtra_vit-h14_fsdp.py is."""

_base_ = ["xtra_tiny.py"]

runner_type = "xtra_toolkit.ShardedRunner"
strategy = dict(type="xtra_toolkit.ShardedStrategy")
