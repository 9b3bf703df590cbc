"""XTRA with blocks of 2×2 tokens beside tiny_imagenet_xtra.py.

750 MFLOP an image forward. Nothing was measured with it yet.
"""

_base_ = ["tiny_imagenet_xtra.py"]

model = dict(mask=dict(block_size=2))
