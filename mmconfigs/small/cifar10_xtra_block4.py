"""cifar10_xtra.py with blocks of 4×4 tokens: three predictions an image. Block size 1 is AIM.

115 MFLOP an image forward. Nothing was measured with it yet.
"""

_base_ = ["cifar10_xtra.py"]

model = dict(mask=dict(block_size=4))
