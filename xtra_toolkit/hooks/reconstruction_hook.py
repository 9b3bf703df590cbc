"""Pictures of what a pretrainer predicts, while it learns."""

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
    """Draws a fixed handful of images through the visualizer, into all its back ends.

    Side by side: what the encoder sees; the mask, a token's colour saying when it is predicted; the
    predictions from true pixels, put back into pixels; how far they are off; and the truth. What is
    not predicted is hatched. Random masks are those of evaluation.

    The images are validation's where the run has one, else training's, always the same, evenly
    spread over the data set. Nothing of the training changes: with and without this hook weights
    are bit-identical. Targets that are no pixels are not drawn; the log says so once. Models that
    are no MaskTargetPretrainer are left alone.

    Args:
        interval: updates from one picture to the next; the end of training is drawn too.
        images: rows of the picture; 0: none is drawn.

    Raises:
        ValueError: ``interval`` is below 1, or ``images`` below 0.
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
        """Reads the images, and sees whether the target can be drawn."""
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
        """Draws after every ``interval``-th update."""
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner, runner.iter + 1)

    def after_train(self, runner: Any) -> None:
        """Draws what has been learned in the end."""
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
    """Whose images they are, and a few of them, (count, C, H, W) as a data set gives them.

    Raises:
        ValueError: no data set of the run has images of the grid's shape, grey or in colour.
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
    """The inputs of ``count`` samples, evenly spread over a loader's data set.

    Where the loader has workers one of its own reads them, so that no file is open in this process
    when the loader's are forked.
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
    """The inputs of chosen samples, whatever is random about them always the same."""

    def __init__(self, dataset: Dataset, picks: list[int]):
        self.dataset, self.picks = dataset, picks

    def __len__(self) -> int:
        return len(self.picks)

    def __getitem__(self, i: int) -> Any:
        with seeded(0, self.picks[i]):
            return self.dataset[self.picks[i]]["inputs"]
