"""I-JEPA and data2vec: a teacher's features of what is hidden, as a mask and a target.

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
    """Some tokens are shown, and each of several blocks is predicted in a sequence of its own.

    One pass of the encoder over the context serves all blocks (``Mask.copies``). Where the
    original draws the size of blocks for each batch and cuts contexts to the smallest of it, sizes
    are fixed here, and the context is drawn from what lies in no block.

    Args:
        block_size: tokens along each side of a block, or (height, width). The paper's blocks hold
            15 to 20 % of the image.
        blocks: of each image.
        context: shown tokens. Default: all that are left even where no blocks overlap.
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
        n, shape = self.shown_tokens(grid), (batch, self.blocks)
        (h, w), device = self.block_size, g.device
        top, left = (
            g.randint(0, side - size + 1, shape).T[..., None]  # (blocks, batch, 1)
            for side, size in ((grid.rows, h), (grid.cols, w))
        )
        at = torch.arange(h * w, device=device)
        blocks = (top + at // w) * grid.cols + left + at % w  # (blocks, batch, h * w)
        noise = g.rand(batch, grid.tokens)
        noise = noise.scatter(1, blocks.transpose(0, 1).flatten(1), 2.0)  # no context there
        context = noise.argsort(dim=1, stable=True)[:, :n].sort(1).values
        order = torch.cat([context.repeat(self.blocks, 1), blocks.flatten(0, 1)], 1)
        visible = torch.arange(order.shape[1], device=device) < n
        step = torch.zeros(order.shape[1], dtype=torch.long, device=device)
        return Mask(order, step, visible=visible, context=visible, masks_per_image=self.blocks)

    def for_features(self, grid: PatchGrid) -> Mask:
        """The whole image."""
        return Bidirectional()(grid)

    def shown_tokens(self, grid: PatchGrid) -> int:
        """Tokens of the context; ValueError where the blocks leave too few."""
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
    """Each hidden token's output predicts the teacher's feature of it, layer-normed.

    The teacher is the running average of the encoder over steps, on the whole image; the hook
    ``UpdateTeacher`` moves it.

    Args:
        layers: the mean of that many of the teacher's last layers: 1, its output (I-JEPA); more,
            without the final norm (data2vec: 6).
    """

    pixels = False
    local = False  # the teacher sees the whole image
    needs_hooks = ("UpdateTeacher",)  # without it the teacher would stay at random weights

    def __init__(self, layers: int = 1):
        super().__init__(normalise=False)
        self.layers = layers

    def bind(self, backbone: nn.Module) -> None:
        """Called by the pretrainer, with its encoder."""
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
        """The teacher stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "teacher"):
            self.teacher.eval()
        return self

    def width(self, grid: PatchGrid) -> int:
        """Of a feature."""
        return self.teacher.module.embed_dims

    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, height, width) to the teacher's features, (B, N, D)."""
        feature = torch.stack(self.teacher.module(images)).mean(0)
        return F.layer_norm(feature, feature.shape[-1:])


@HOOKS.register_module()
class UpdateTeacher(Hook):
    """Moves the teacher after each optimizer step, ``teacher = m teacher + (1 - m) encoder``.

    Args:
        begin, end: m is ``begin`` at the first step and grows linearly towards ``end``, which it
            would reach one step after the last.
    """

    def __init__(self, begin: float = 0.996, end: float = 1.0):
        self.begin, self.end = begin, end

    def before_train(self, runner) -> None:  # noqa: ANN001
        """A new teacher is the encoder; a resumed one is what the checkpoint holds."""
        target, encoder = self.parts(runner)
        if target.teacher.steps == 0:
            target.teacher.update_parameters(encoder)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:  # noqa: ANN001
        """Called once an optimizer step by GlobalBatchLoop."""
        target, encoder = self.parts(runner)
        done = runner.iter / max(1, runner.max_iters)
        target.teacher.momentum = 1 - (self.begin + done * (self.end - self.begin))
        target.teacher.update_parameters(encoder)

    @staticmethod
    def parts(runner) -> tuple:  # noqa: ANN001
        """The target and the encoder."""
        model = unwrap_model(runner.model)
        if not hasattr(model.target_generator, "teacher"):
            name = type(model.target_generator).__name__
            raise ValueError(
                f"UpdateTeacher moves a target's teacher, and {name} has none; take "
                "target_generator=dict(type='xtra_toolkit.LatentPatches')"
            )
        return model.target_generator, model.backbone
