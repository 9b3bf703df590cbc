"""Draw what a pretrainer predicts while it trains."""

from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.utils.data import DataLoader, Dataset

from xtra_toolkit.data.seeding import seeded
from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.preserve_state import gathered, untouched
from xtra_toolkit.utils.unwrap import unwrap_model
from xtra_toolkit.visualization.predictions.image_columns import columns
from xtra_toolkit.visualization.predictions.load import COLOURS
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
    always the same, evenly spread over the data set. Nothing of the training changes: weights are
    bit-identical with and without this hook. Targets that are not pixels are not drawn, and the
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
            self.whose, images = fixed_images(runner, self.model.objective.grid, self.count)
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
            made = columns(self.model, _prepared(self.model, self.images), self.whose)
        if not is_main_process():
            return
        try:
            runner.visualizer.add_image(NAME, rgb(sheet(made)), step)
        except Exception as error:  # a tracker's; no picture is worth a run
            runner.logger.warning(f"The reconstructions of step {step} are not recorded: {error}")


def _prepared(model: nn.Module, images: Tensor) -> Tensor:
    return model.data_preprocessor(dict(inputs=images, data_samples=None))["inputs"]


def fixed_images(runner: Any, grid: PatchGrid, count: int) -> tuple[str, Tensor]:
    """Return which split the images are of, and some of them, (count, C, H, W).

    Raises:
        ValueError: No data set of the run has images of the shape of the grid, grey or in colour.
    """
    if grid.channels not in COLOURS:
        raise ValueError(f"images of {grid.channels} channels are neither grey nor in colour")
    shape = grid.channels, grid.rows * grid.patch[0], grid.cols * grid.patch[1]
    validation = getattr(runner.val_loop, "dataloader", None)
    for whose, loader in (("validation", validation), ("training", runner.train_dataloader)):
        if hasattr(getattr(loader, "dataset", None), "__len__"):
            images = read(loader, count)
            if images and all(isinstance(x, Tensor) and x.shape == shape for x in images):
                return f"{whose} images", torch.stack(images)
    raise ValueError(f"no data set of the run has images of shape {shape}")


def read(loader: DataLoader, count: int) -> list[Any]:
    """Return the inputs of ``count`` samples, evenly spread over the data set of a loader.

    If the loader has workers, a worker of its own reads them. So no file is open in this process
    when the workers of the loader are forked.
    """
    size = len(loader.dataset)
    picks = [i * size // count for i in range(min(count, size))] if size else []
    return list(
        DataLoader(
            Fixed(loader.dataset, picks),
            batch_size=None,
            num_workers=min(1, loader.num_workers),
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator(),  # torch's own would move on
        )
    )


class Fixed(Dataset):
    """The inputs of chosen samples; whatever is random about them is always the same."""

    def __init__(self, dataset: Dataset, picks: list[int]):
        self.dataset, self.picks = dataset, picks

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, i: int) -> Any:
        with seeded(0, self.picks[i]):
            return self.dataset[self.picks[i]]["inputs"]
