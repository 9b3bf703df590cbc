"""The attentive probe of AIM (arXiv 2401.08541) and XTRA: AverageLayers, then AttentiveProbe.

Shape legend: B images, L layers, N tokens, D width, Q queries, H heads, d = D / H, C classes.
"""

import torch
from mmengine.model import BaseModule
from mmpretrain.models import LinearClsHead
from torch import Tensor, nn

from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class AverageLayers(BaseModule):
    """The neck: the mean over an encoder's layers, token by token.

    The encoder's ``out_indices`` says which layers; ``final_norm=False`` gives them as they are,
    and ``out_type='featmap'`` leaves a class token out.
    """

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """L feature maps (B, D, rows, cols) to (B, N, D), in a tuple as MMPretrain's necks."""
        if feats[0].ndim != 4:
            raise ValueError(
                "AverageLayers takes feature maps (B, D, rows, cols), and the encoder gave "
                f"{tuple(feats[0].shape)}: set backbone.out_type='featmap'."
            )
        return (torch.stack(feats).mean(0).flatten(2).transpose(1, 2),)


@MODELS.register_module()
class AttentiveProbe(LinearClsHead):
    """The head: learned queries attend to the tokens; their mean goes through a linear layer.

    Keys and values are linear without bias; there is no projection of the query or the output.
    The tokens are to be normalised before, as ProbeSweep does.

    Args:
        num_classes, in_channels: C and D.
        num_heads: H. XTRA takes 16, AIM those of its trunk.
        num_queries: Q.
        bias: of the linear layer. XTRA has one, AIM none.
        **head: of MMPretrain's ClsHead, among them ``loss``.

    Raises:
        ValueError: the heads do not divide the width.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_heads: int,
        num_queries: int = 1,
        bias: bool = True,
        init_cfg: dict | None = None,  # torch's own for linear layers, as the originals
        **head,  # noqa: ANN003
    ):
        if in_channels % num_heads:
            raise ValueError(
                f"AttentiveProbe's num_heads={num_heads} do not divide its in_channels="
                f"{in_channels}; heads that do: "
                f"{', '.join(str(n) for n in range(1, 33) if in_channels % n == 0)}"
            )
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **head)
        self.num_heads = num_heads
        self.queries = nn.Parameter(0.02 * torch.randn(num_queries, in_channels))
        self.k = nn.Linear(in_channels, in_channels, bias=False)
        self.v = nn.Linear(in_channels, in_channels, bias=False)
        self.fc = nn.Linear(in_channels, num_classes, bias=bias)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Tokens (B, N, D), the last of a tuple, to what the queries find, (B, D).

        Keys and values have no bias: k goes to the few queries and v to what was pooled, instead
        of both to all tokens. The numbers are the same, at a small part of the cost.
        """
        x, by_head = feats[-1], (self.num_heads, -1)
        q = self.queries.unflatten(1, by_head)
        k, v = (linear.weight.unflatten(0, by_head) for linear in (self.k, self.v))
        q = torch.einsum("qhd,hdc->qhc", q, k) * q.shape[-1] ** -0.5
        attention = torch.einsum("qhc,bnc->bqhn", q, x).softmax(-1)
        pooled = torch.einsum("bhn,bnc->bhc", attention.mean(1), x)
        return torch.einsum("bhc,hdc->bhd", pooled, v).flatten(1)
