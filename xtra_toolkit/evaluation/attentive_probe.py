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
    """A neck that averages the outputs of several layers of an encoder.

    Choose the layers by the encoder's ``out_indices``. Set ``final_norm=False`` to average them
    without the final norm, and ``out_type='featmap'`` to leave out a class token.
    """

    def forward(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Average L feature maps (B, D, rows, cols) to tokens (B, N, D), in a tuple of length 1."""
        if feats[0].ndim != 4:
            raise ValueError(
                "AverageLayers takes feature maps (B, D, rows, cols), and the encoder gave "
                f"{tuple(feats[0].shape)}: set backbone.out_type='featmap'."
            )
        return (torch.stack(feats).mean(0).flatten(2).transpose(1, 2),)


@MODELS.register_module()
class AttentiveProbe(LinearClsHead):
    """A head in which learned queries attend to the tokens, followed by a linear layer.

    The outputs of the queries are averaged. Keys and values are linear projections without bias;
    query and output are not projected. The tokens must be normalised before, as ProbeSweep does.

    Args:
        num_classes: C.
        in_channels: D.
        num_heads: H. XTRA uses 16, AIM the number of its encoder.
        num_queries: Q.
        bias: Whether the linear layer has a bias. It has one in XTRA and none in AIM.
        **head: Arguments of MMPretrain's ``ClsHead``, such as ``loss``.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_heads: int,
        num_queries: int = 1,
        bias: bool = True,
        init_cfg: dict | None = None,  # torch's default for linear layers, as the originals
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
        """Pool tokens (B, N, D), the last entry of a tuple, to (B, D).

        Since keys and values have no bias, k is applied to the few queries and v to the pooled
        tokens instead of to all tokens. The result is the same at a small part of the cost.
        """
        x, by_head = feats[-1], (self.num_heads, -1)
        q = self.queries.unflatten(1, by_head)
        k, v = (linear.weight.unflatten(0, by_head) for linear in (self.k, self.v))
        q = torch.einsum("qhd,hdc->qhc", q, k) * q.shape[-1] ** -0.5
        attention = torch.einsum("qhc,bnc->bqhn", q, x).softmax(-1)
        pooled = torch.einsum("bhn,bnc->bhc", attention.mean(1), x)
        return torch.einsum("bhc,hdc->bhd", pooled, v).flatten(1)
