"""L1 instead of MSE (l1_loss.yaml)."""

_base_ = ["baseline.py"]

model = dict(head=dict(loss="l1"))
