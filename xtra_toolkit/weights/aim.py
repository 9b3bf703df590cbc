"""Convert AIM v1 (apple/ml-aim at bd9e068) to our encoder, or to a classifier with its probe head.

In AIM's trunk only the patch convolution and the norms have biases, and a norm follows the patch
convolution: MaskedViT(bias=False, patch_cfg=dict(norm_cfg=dict(type='LN', eps=1e-6)),
positions='sincos'). The original computes its positions in the forward pass and does not store
them, so the file does not tell the size of the images.
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
    """Return whether the names are AIM's. AIMv2 shares some of them; its others are refused."""
    return {MARK, "preprocessor.patchifier.proj.weight"} <= state.keys()


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Convert the trunk to a MaskedViT without positions, or the head to a ProbeSweep of one probe.

    Apple publishes the trunk and the probe head in separate files, and no pretraining head.

    Raises:
        ValueError: The file holds a parameter that AIM v1 does not have.
    """
    state = translate(state, ROWS, NAME, "ours")
    queries = "head.probes.0.queries"
    if queries in state:
        state[queries] = state[queries].squeeze(0)  # AIM stores a batch dimension
    return Ours(state, dict(type="xtra_toolkit.PrefixCausal"), IMAGENET)
