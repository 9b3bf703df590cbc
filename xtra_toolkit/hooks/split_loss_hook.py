"""Where the loss lies: which steps of the sequence are hard, and which spatial frequencies."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from torch.distributed.fsdp import FullyShardedDataParallel

from xtra_toolkit.evaluation.loss_parts import Bands, Ranges, link_weights
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.preserve_state import gathered, untouched
from xtra_toolkit.utils.unwrap import unwrap_model
from xtra_toolkit.visualization.loss_parts_plot import plot
from xtra_toolkit.visualization.predictions.sheet import rgb


@HOOKS.register_module()
class SplitLoss(Hook):
    """The loss in its parts, for the eye only: nothing of them enters the objective.

        --cfg-options default_hooks.split_loss.type=xtra_toolkit.SplitLoss

    Before every ``interval``-th update its first micro-batch is predicted under its own plan, in
    evaluation mode (without drop path) and in training's precision; the mean is over all processes.
    Nothing of the training changes. The back ends get, and the text log does not:

    - ``loss_step/NUMBER``, the mean loss of the links that predict the unit of this number in the
      sequence, or ``loss_step/FIRST-LAST`` where there are more than 16; under a mask of one step
      ``loss_row/...``, by rows of the grid. Weighted by their shares of the loss (their numbers of
      links, in one group) they average to it.
    - ``loss_band/0`` to ``7``, for pixels: what waves of b/16 to (b + 1)/16 cycles per pixel, the
      last and all above, contribute to the mean squared error, from a DCT of each patch's residual;
      of a loss ``mse`` they SUM to the loss. Where the target is normalised, so are the residuals.

    At the end ``loss_split``, a picture of both over training, goes to the back ends. Models that
    are no MaskTargetPretrainer are left alone. A look takes 0.2 of a step of XTRA-B/16 and 0.33 of
    MAE-B/16 (2 CPU cores, bf16): 0.2 to 0.3 % of the training by default, less where gradients are
    accumulated.

    Args:
        interval: updates from one look to the next.

    Raises:
        ValueError: ``interval`` is below 1.
    """

    def __init__(self, interval: int = 100):
        if interval < 1:
            raise ValueError(f"SplitLoss(interval={interval}) was given; it is at least 1")
        self.interval = interval
        self.steps: list[int] = []
        self.values: dict[str, list[float]] = {}

    def before_train(self, runner: Any) -> None:
        """Finds the parts; leaves other models alone."""
        self.model = unwrap_model(runner.model)
        self.works = isinstance(self.model, MaskTargetPretrainer)
        if self.works:
            objective, target = self.model.objective, self.model.target_generator
            self.ranges = Ranges(objective)
            self.bands = Bands(objective.grid) if Bands.serve(target, objective.grid) else None
            self.names = self.ranges.names + self._band_names
            if not runner.iter or list(self.values) != self.names:  # not resumed, or another grid
                self.steps, self.values = [], {name: [] for name in self.names}

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Looks at the batch that the step is about to learn from."""
        if self.works and self.every_n_train_iters(runner, self.interval):
            found, step = self.measure(runner, data_batch), runner.iter + 1
            self.steps.append(step)
            for name in self.names:
                self.values[name].append(found.get(name, math.nan))
            runner.visualizer.add_scalars(dict(found, iter=step), step=step)  # W&B's axis

    def measure(self, runner: Any, data_batch: dict) -> dict[str, float]:
        """The parts by name, those without any live link left out."""
        model, sharded = self.model, isinstance(runner.model, FullyShardedDataParallel)
        with (
            untouched(model),
            torch.no_grad(),
            gathered(runner.model, model, sharded),
            runner.optim_wrapper.optim_context(runner.model),
        ):
            data = model.data_preprocessor(data_batch, False)
            plan = model.plan(data["inputs"], data["data_samples"])
            target_values = model.target_values(data["inputs"], plan)
            predictions = model.reconstruct(data["inputs"], plan)
        sums = self._sums(predictions, target_values, plan)
        all_reduce(sums, "mean")
        losses, shares, bands = sums.split([len(self.ranges.names)] * 2 + [len(self._band_names)])
        means = zip(self.ranges.names, losses.tolist(), shares.tolist(), strict=True)
        found = {name: loss / share for name, loss, share in means if share}
        return found | dict(zip(self._band_names, bands.tolist(), strict=True))

    def after_train(self, runner: Any) -> None:
        """Draws both."""
        seen = any(math.isfinite(value) for values in self.values.values() for value in values)
        if seen and is_main_process():
            picture = rgb(plot(self.steps, self.values))
            runner.visualizer.add_image("loss_split", picture, step=runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """For the picture of a run that is resumed."""
        if self.steps:
            checkpoint["split_loss"] = dict(steps=self.steps, values=self.values)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Goes on with what was seen before."""
        saved = checkpoint.get("split_loss", {})
        self.steps, self.values = saved.get("steps", []), saved.get("values", {})

    @property
    def _band_names(self) -> list[str]:
        return self.bands.names if self.bands else []

    def _sums(self, predictions: list, target_values: list, plan: Any) -> torch.Tensor:
        """Each range's loss, then its weight, then each band's part of the mean squared error."""
        count, head, sums = len(self.ranges.names), self.model.head, 0
        for number, (group, made, goal) in enumerate(
            zip(plan.groups, predictions, target_values, strict=True)
        ):
            made = made.to(goal.dtype) if goal.is_floating_point() else made.float()
            link = head.distance(made, goal, reduction="none").mean(-1).double()
            weight = link_weights(group.loss_mask, link.shape, head.reduction, link) / len(
                target_values
            )
            index = self.ranges.of(group, number).expand_as(link).flatten()
            split = [
                link.new_zeros(count).index_add_(0, index, part.flatten())
                for part in (weight * link, weight)
            ]
            bands = [self.bands.of(made - goal, weight)] if self.bands else []
            sums = sums + torch.cat(split + bands)
        return sums
