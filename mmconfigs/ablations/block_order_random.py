"""Fixed random block orders, one drawn for each batch (pesudo_random.yaml, spelt so there)."""

_base_ = ["baseline.py"]

model = dict(mask=dict(order="random"))
