"""PromptDecoder: a neck that computes the mask tokens alone and takes the encoder's outputs as is.

Shape legend: B images, C computed positions, H hidden ones, R output positions, W width.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from xtra_toolkit.attention import Pattern
from xtra_toolkit.models.layers import MaskedLayer, gather_tokens
from xtra_toolkit.models.rotary import Rotation
from xtra_toolkit.models.vit_decoder import ViTDecoder
from xtra_toolkit.objective.plan import Plan
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class PromptDecoder(ViTDecoder):
    """Decode as MILAN does (arXiv 2208.06049).

    The projected outputs of the encoder stay as they are in all layers. Only the mask tokens are
    computed; they attend to these outputs, which no layer normalises, and to each other.

    Args:
        **arguments: Those of :class:`ViTDecoder`.

    Raises:
        ValueError: The mask hides nothing, or the encoder holds mask tokens itself.
    """

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        if self.mask_token is None:
            raise ValueError(
                "a PromptDecoder computes mask tokens alone, and there are none: the mask hides no "
                "tokens, or the encoder holds them (mask_tokens=True); take a ViTDecoder"
            )

    def pattern(self, plan: Plan) -> Pattern:
        """Return the attention of the H hidden positions over all computed positions."""
        return self._pattern(plan).cached_rows(plan.hidden_positions)

    @staticmethod
    def _pattern(plan: Plan) -> Pattern:
        """Return the decoder's pattern, whose rows are taken at the hidden positions."""
        own = partial(replace, plan.decoder, output_positions=None, _cache={})
        return plan.decoder.cached(("prompt",), own)

    def forward(self, x: Tensor, plan: Plan) -> Tensor:
        """Map encoder outputs (B, E, D) to (B, R, W) at the positions that the head reads."""
        x, hidden = self.embed(x, plan), plan.hidden_positions
        tokens, pattern, rotation = gather_tokens(x, hidden), self._pattern(plan), self.turn(plan)
        index = hidden[..., None].expand(len(x), -1, self.width)
        for layer in self.layers:
            args = layer, tokens, x, index, hidden, pattern, rotation
            if layer.with_cp and torch.is_grad_enabled():
                tokens = checkpoint(_prompt, *args, use_reentrant=False)
            else:
                tokens = _prompt(*args)
        x = x.scatter(1, index, tokens)
        if plan.output_positions is not None:
            x = gather_tokens(x, plan.output_positions)
        return self.ln1(x)


def _prompt(
    layer: MaskedLayer,
    tokens: Tensor,
    memory: Tensor,
    index: Tensor,
    hidden: Tensor,
    pattern: Pattern,
    rotation: Rotation | None,
) -> Tensor:
    """Run a layer on the mask tokens (B, H, W), among a memory (B, C, W)."""
    keys = memory.scatter(1, index, layer.ln1(tokens).to(memory.dtype))
    tokens = tokens + layer.attn(keys, pattern, hidden, rotation)
    return layer.ffn(layer.ln2(tokens), identity=tokens)
