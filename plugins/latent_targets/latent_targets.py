"""I-JEPA and data2vec: predict a teacher's features of the masked tokens.

I-JEPA: arXiv 2301.08243, facebookresearch/ijepa at 52c1ae9. data2vec: arXiv 2202.03555.
"""

import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import ExponentialMovingAverage
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid, pair
from xtra_toolkit.masks import Bidirectional, Mask, MaskFactory, mask_rng
from xtra_toolkit.registry import HOOKS, MASKS, MODELS
from xtra_toolkit.targets import MaskedPatches
from xtra_toolkit.utils.unwrap import unwrap_model


@MASKS.register_module()
class MultiBlock(MaskFactory):
    """Predict several blocks of each image from the same context, each in its own sequence.

    One pass of the encoder over the context serves all blocks (``Mask.masks_per_image``). The
    original draws the size of the blocks for each batch and cuts all contexts to the smallest of
    the batch. Here the sizes are fixed, and the context is drawn from the tokens outside all
    blocks.

    Args:
        block_size: Tokens along each side of a block, or (height, width). The paper's blocks hold
            15 to 20 % of the image.
        blocks: Number of blocks of each image.
        context: Number of visible tokens. Default: as many as are left if no blocks overlap.
    """

    random = True

    def __init__(
        self, block_size: int | tuple[int, int], blocks: int = 4, context: int | None = None
    ):
        self.block_size, self.blocks, self.context = pair(block_size), blocks, context

    def __call__(
        self, grid: PatchGrid, batch: int = 1, generator: torch.Generator | None = None
    ) -> Mask:
        g = mask_rng(generator)
        num_context, shape = self.num_context_tokens(grid), (batch, self.blocks)
        (h, w), device = self.block_size, g.device
        top, left = (
            g.randint(0, side - size + 1, shape).T[..., None]  # (blocks, batch, 1)
            for side, size in ((grid.rows, h), (grid.cols, w))
        )
        offset = torch.arange(h * w, device=device)
        blocks = (top + offset // w) * grid.cols + left + offset % w  # (blocks, batch, h * w)
        noise = g.rand(batch, grid.tokens)
        noise = noise.scatter(1, blocks.transpose(0, 1).flatten(1), 2.0)  # sort blocks last
        context = noise.argsort(dim=1, stable=True)[:, :num_context].sort(1).values
        order = torch.cat([context.repeat(self.blocks, 1), blocks.flatten(0, 1)], 1)
        visible = torch.arange(order.shape[1], device=device) < num_context
        step = torch.zeros(order.shape[1], dtype=torch.long, device=device)
        return Mask(order, step, visible=visible, context=visible, masks_per_image=self.blocks)

    def for_features(self, grid: PatchGrid) -> Mask:
        """Return full attention over the whole image."""
        return Bidirectional()(grid)

    def num_context_tokens(self, grid: PatchGrid) -> int:
        """Return the number of context tokens; ValueError if the blocks leave too few."""
        grid.no_extra("MultiBlock")
        h, w = self.block_size
        left = grid.tokens - self.blocks * h * w
        context = left if self.context is None else self.context
        if h > grid.rows or w > grid.cols or not 1 <= context <= left:
            raise ValueError(
                f"MultiBlock was given {self.blocks} blocks of {h}×{w} tokens and a context of "
                f"{self.context}; on {grid} they may leave no more than {left} tokens: make the "
                "blocks smaller, or the context"
            )
        return context


@MODELS.register_module()
class LatentPatches(MaskedPatches):
    """Predict the teacher's layer-normed feature of each masked token.

    The teacher is the exponential moving average of the encoder's weights and is run on the whole
    image. The hook ``UpdateTeacher`` updates it.

    Args:
        layers: Number of the teacher's last layers whose mean is predicted. 1: its output, with
            the final norm (I-JEPA). More: without the final norm (data2vec: 6).
    """

    pixels = False
    local = False  # the teacher sees the whole image
    needs_hooks = ("UpdateTeacher",)  # without it the teacher would stay at random weights

    def __init__(self, layers: int = 1):
        super().__init__(normalise=False)
        self.layers, self.teacher = layers, None

    def bind(self, backbone: nn.Module) -> None:
        """Make the teacher, a copy of the encoder; the pretrainer calls this.

        Raises:
            ValueError: The encoder does not have so many layers.
        """
        if not 1 <= self.layers <= backbone.num_layers:
            raise ValueError(
                f"LatentPatches(layers={self.layers}) was given, and the encoder has "
                f"{backbone.num_layers}"
            )
        self.teacher = ExponentialMovingAverage(backbone)
        last = range(backbone.num_layers - self.layers, backbone.num_layers)
        self.teacher.module.out_indices = list(last)
        self.teacher.module.final_norm = self.layers == 1

    def train(self, mode: bool = True) -> "LatentPatches":
        """Set the mode of the target; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def width(self, grid: PatchGrid) -> int:
        """Return the width of a feature."""
        return self.teacher.module.embed_dims

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the teacher's features of images (B, C, height, width), as (B, N, D)."""
        feature = torch.stack(self.teacher.module(images)).mean(0)
        feature = feature[:, grid.extra :]  # a class token comes first
        return F.layer_norm(feature, feature.shape[-1:])


@HOOKS.register_module()
class UpdateTeacher(Hook):
    """Update the teacher after each optimizer step: ``teacher = m * teacher + (1 - m) * encoder``.

    Args:
        begin, end: The momentum m is ``begin`` at the first step and grows linearly; it would
            reach ``end`` one step after the last.
    """

    def __init__(self, begin: float = 0.996, end: float = 1.0):
        self.begin, self.end = begin, end

    def before_train(self, runner) -> None:  # noqa: ANN001
        """Copy the encoder into a new teacher; a resumed teacher comes from the checkpoint."""
        target, encoder = self._target_and_encoder(runner)
        if target.teacher.steps == 0:
            target.teacher.update_parameters(encoder)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:  # noqa: ANN001
        """Update the teacher. GlobalBatchLoop calls this once after each optimizer step."""
        target, encoder = self._target_and_encoder(runner)
        progress = runner.iter / max(1, runner.max_iters)
        target.teacher.momentum = 1 - (self.begin + progress * (self.end - self.begin))
        target.teacher.update_parameters(encoder)

    @staticmethod
    def _target_and_encoder(runner) -> tuple[LatentPatches, nn.Module]:  # noqa: ANN001
        model = unwrap_model(runner.model)
        given = model.target_generator
        for target in getattr(given, "parts", []):
            if isinstance(target, LatentPatches):
                return target, model.backbone
        raise ValueError(
            f"UpdateTeacher updates a target's teacher, and {type(given).__name__} has none; "
            "take target_generator=dict(type='xtra_toolkit.LatentPatches')"
        )
