"""Fixed random block orders, one drawn a batch (pesudo_random.yaml, as it is spelt there)."""

_base_ = ["baseline.py"]

model = dict(mask=dict(order="random"))
