"""The tiny XTRA on several processes of a machine without GPUs, as docs/cluster.md says."""

_base_ = ["xtra_tiny.py"]

custom_imports = dict(imports=["xtra_toolkit.engine.gloo"])
model_wrapper_cfg = dict(type="MMDistributedDataParallel", device_ids=None)
