"""Predict the embedding of the next token: the target of NEPA (arXiv 2512.16922)."""

import torch
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets.next import NextToken


@MODELS.register_module()
class NextEmbedding(NextToken):
    """Predict at position i what the first layer of the encoder reads at position i + 1.

    That is the embedding of a patch by the encoder that is trained, with its position embedding if
    there is one, and without a gradient. The code of the paper is SihanXU/nepa at 15ea494.

    Args:
        look_ahead, positioned: See :class:`NextToken`.
    """

    pixels = False

    def __init__(self, look_ahead: int = 1, positioned: bool = False):
        super().__init__(look_ahead, normalise=False, positioned=positioned)
        self.__dict__["encoder"] = None  # no submodule: it belongs to the pretrainer

    def bind(self, backbone: nn.Module) -> None:
        """Keep the encoder, whose embedding is predicted.

        Raises:
            ValueError: The encoder has dropout, so that input and target would differ.
        """
        if backbone.drop_after_pos.p:
            raise ValueError(
                f"drop_rate={backbone.drop_after_pos.p} was given to the encoder, and "
                "NextEmbedding predicts its embeddings, of which a part would be dropped; leave "
                "it out, or use drop_path_rate"
            )
        self.__dict__["encoder"] = backbone

    def width(self, grid: PatchGrid) -> int:
        """Return the width of the encoder.

        Raises:
            ValueError: No encoder was bound.
        """
        if self.encoder is None:
            raise ValueError(
                "NextEmbedding predicts the embeddings of an encoder, and none was bound; call "
                "target.bind(encoder) first, as MaskTargetPretrainer does"
            )
        return self.encoder.embed_dims

    @torch.no_grad()
    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the embeddings of images (B, C, height, width), as (B, N, D) in raster order."""
        tokens = torch.arange(grid.tokens, device=images.device)[None]
        values = self.encoder.embed(images, tokens, grid)
        return values.to(torch.promote_types(values.dtype, torch.float32))
