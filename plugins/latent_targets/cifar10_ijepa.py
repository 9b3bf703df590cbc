"""I-JEPA beside mmconfigs/small/cifar10_xtra.py: the same encoder and a predictor 96 wide, 2 deep.

    pip install ./plugins/latent_targets
    xtra compare plugins/latent_targets/cifar10_ijepa.py --data cifar10 --images 49984 \\
        --labels 5000 -o 'optim_wrapper.devices=[cuda,cpu]'

Four blocks of 3×3 of the 8×8 tokens are predicted from 28 tokens outside all blocks (the paper's
blocks hold 15 to 20 % of an image).

The teacher's momentum grows from 0.996 to 1. Measured as cifar10_xtra.py was
(docs/comparisons/cifar10.md), with two seeds: linear probe 42.5 %, attentive 42.5 %; a random
encoder reaches 38.2 and 39.9 %, and the latter is within noise.
"""

_base_ = ["../../mmconfigs/small/cifar10_xtra.py"]

custom_imports = dict(imports=["xtra_toolkit", "latent_targets"])

model = dict(
    mask=dict(_delete_=True, type="xtra_toolkit.MultiBlock", block_size=3),
    target_generator=dict(_delete_=True, type="xtra_toolkit.LatentPatches"),
    neck=dict(projection=None),
    head=dict(hidden=None, loss="smooth_l1"),
)

custom_hooks = [
    dict(type="xtra_toolkit.SafeResume"),
    dict(type="xtra_toolkit.StopOnNonFiniteLoss"),
    dict(type="xtra_toolkit.UpdateTeacher", begin=0.996, end=1.0),
]
