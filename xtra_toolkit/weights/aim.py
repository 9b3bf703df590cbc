"""apple/ml-aim, AIM v1 (at bd9e068), to an encoder of ours, or a classifier with its probe head.

Its trunk has no biases but those of the patch convolution and the norms, and a norm behind that
convolution: MaskedViT(bias=False, patch_cfg=dict(norm_cfg=dict(type='LN', eps=1e-6)),
positions='sincos'). The original computes its positions as it runs and stores none, so that the
file does not tell the size of the images either.
"""

from torch import Tensor

from xtra_toolkit.weights.names import IMAGENET, Ours, translate

NAME, MARK = "apple/ml-aim, AIM v1", "trunk.blocks.0.norm_1.weight"
ROWS = [
    ("preprocessor.patchifier.proj.", "backbone.patch_embed.projection."),
    ("preprocessor.patchifier.norm.", "backbone.patch_embed.norm."),
    ("trunk.blocks.{i}.norm_{k}.", "backbone.layers.{i}.ln{k}."),
    ("trunk.blocks.{i}.attn.qkv.", "backbone.layers.{i}.attn.qkv."),
    ("trunk.blocks.{i}.attn.proj.", "backbone.layers.{i}.attn.proj."),
    ("trunk.blocks.{i}.mlp.fc1.", "backbone.layers.{i}.ffn.layers.0.0."),
    ("trunk.blocks.{i}.mlp.fc2.", "backbone.layers.{i}.ffn.layers.1."),
    ("trunk.post_trunk_norm.", "backbone.ln1."),
    ("head.bn.", "head.norm."),
    ("head.cls_token", "head.probes.0.queries"),
    ("head.k.", "head.probes.0.k."),
    ("head.v.", "head.probes.0.v."),
    ("head.linear.", "head.probes.0.fc."),
]


def recognises(state: dict[str, Tensor]) -> bool:
    """Are these names AIM's? AIMv2 shares some, and is refused for the others."""
    return {MARK, "preprocessor.patchifier.proj.weight"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """To a MaskedViT without its positions, and a ProbeSweep of one AttentiveProbe.

    Apple publishes trunk and probe head in files of their own, and no pretraining head.

    Raises:
        ValueError: anything but AIM v1's own parts.
    """
    state = translate(state, ROWS, NAME, "ours")
    queries = "head.probes.0.queries"
    if queries in state:
        state[queries] = state[queries].squeeze(0)  # AIM's has a dimension for the batch
    return Ours(state, dict(type="xtra_toolkit.PrefixCausal"), IMAGENET)
