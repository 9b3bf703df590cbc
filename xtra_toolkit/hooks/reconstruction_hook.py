"""Draw what a pretrainer predicts while it trains."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel

from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.preserve_state import gathered, untouched
from xtra_toolkit.utils.unwrap import unwrap_model
from xtra_toolkit.visualization.predictions.fixed_images import fixed_images
from xtra_toolkit.visualization.predictions.image_columns import columns
from xtra_toolkit.visualization.predictions.pixels import true_pixels
from xtra_toolkit.visualization.predictions.sheet import rgb, sheet

NAME = "reconstruction"


@HOOKS.register_module()
class ReconstructionHook(Hook):
    """Draw a few fixed images through the visualizer, into all its back ends.

    A row shows what the encoder sees; the mask, coloured by when a token is predicted; the
    predictions, made from true pixels and put back into pixels; the difference; and the true
    image. Tokens that are not predicted are hatched. Random masks are those of evaluation.

    The images are validation images if the run has a validation, else training images. They are
    always the same, evenly spread over the data set. The training itself does not change: weights
    are bit-identical with and without this hook. Targets that are not pixels are not drawn, and the
    log says so once. Models other than MaskTargetPretrainer are left alone.

    Args:
        interval: Number of updates from one picture to the next. The end of training is drawn too.
        images: Number of rows of the picture. 0: nothing is drawn.

    Raises:
        ValueError: ``interval`` is below 1, or ``images`` is below 0.
    """

    priority = "VERY_LOW"

    def __init__(self, interval: int = 1000, images: int = 6):
        if interval < 1 or images < 0:
            raise ValueError(
                f"ReconstructionHook(interval={interval}, images={images}) was given; the interval "
                "is at least 1, and there are 0 images or more"
            )
        self.interval, self.count = interval, images
        self.images: Tensor | None = None

    def before_train(self, runner: Any) -> None:
        """Read the images, and find out whether the target can be drawn."""
        self.images, self.drawn = None, runner.iter
        self.model = unwrap_model(runner.model)
        self.sharded = isinstance(runner.model, FullyShardedDataParallel)
        if not (self.count and isinstance(self.model, MaskTargetPretrainer)):
            return
        if not (self.sharded or is_main_process()):  # weights in parts: all must join in
            return
        try:
            self.split, images = fixed_images(runner, self.model.objective.grid, self.count)
            with untouched(self.model):
                true_pixels(self.model, _prepared(self.model, images))
        except ValueError as error:
            runner.logger.info(f"No reconstructions are drawn: {str(error).rstrip('.')}.")
        else:
            self.images = images

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Draw after every ``interval``-th update."""
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Draw the final predictions."""
        self._draw(runner, runner.iter)

    def _draw(self, runner: Any, step: int) -> None:
        if self.images is None or step == self.drawn:
            return
        self.drawn = step
        with untouched(self.model), gathered(runner.model, self.model, self.sharded):
            made = columns(self.model, _prepared(self.model, self.images), self.split)
        if not is_main_process():
            return
        try:
            runner.visualizer.add_image(NAME, rgb(sheet(made)), step)
        except Exception as error:  # a tracker's; no picture is worth a run
            runner.logger.warning(f"The reconstructions of step {step} are not recorded: {error}")


def _prepared(model: nn.Module, images: Tensor) -> Tensor:
    return model.data_preprocessor(dict(inputs=images, data_samples=None))["inputs"]
