"""Split the loss by steps of the sequence and by spatial frequency."""

import math
from typing import Any

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
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
    """Log the parts of the loss. None of them enters the objective.

        --cfg-options default_hooks.split_loss.type=xtra_toolkit.SplitLoss

    Before every ``interval``-th update the hook predicts the first micro-batch under its own plan,
    in evaluation mode (without drop path) and in the precision of the training, and averages over
    all processes. The training itself does not change. The values go to the visualizer's back ends
    and not to the text log:

    - ``loss_step/NUMBER``: the mean loss of the links that predict the unit of this number in the
      sequence, or ``loss_step/FIRST-LAST`` if there are more than 16. Under a mask with a single
      step it is ``loss_row/...``, by rows of the grid. The average of the parts, weighted by their
      shares of the loss (their numbers of links, in one group), is the loss.
    - ``loss_band/0`` to ``7``, for pixel targets: the contribution of waves of b/16 to (b + 1)/16
      cycles per pixel to the mean squared error, from a DCT of each patch's residual. The last band
      holds all higher frequencies. For the loss ``mse`` the bands add up to the loss. If the target
      is normalised, so are the residuals.

    At the end ``loss_split``, a picture of both over training, goes to the back ends. Models other
    than MaskTargetPretrainer are left alone. One measurement takes 0.2 of a step of XTRA-B/16 and
    0.33 of a step of MAE-B/16 (2 CPU cores, bf16). That is 0.2 to 0.3 % of the training by default,
    and less with gradient accumulation.

    Args:
        interval: Number of updates from one measurement to the next.

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
        """Find the parts of the loss; skip other models, sums of targets, and diffusion."""
        self.model = unwrap_model(runner.model)
        self.works = isinstance(self.model, MaskTargetPretrainer)
        if self.works and (reason := self._obstacle()):
            self.works = False
            print_log(f"SplitLoss measures nothing: {reason}.", logger="current")
        if self.works:
            objective, target = self.model.objective, self.model.target_generator
            self.ranges = Ranges(objective)
            self.bands = Bands(objective.grid) if Bands.serve(target, objective.grid) else None
            self.names = self.ranges.names + self._band_names
            if not runner.iter or list(self.values) != self.names:  # not resumed, or another grid
                self.steps, self.values = [], {name: [] for name in self.names}

    def _obstacle(self) -> str | None:
        """Return why the loss of this model has no parts to measure; None if it has."""
        if len(self.model.target_generator.parts) > 1:
            name = type(self.model.target_generator).__name__
            return f"{name} has a loss for each of its targets, and the parts are those of one loss"
        if self.model.head.random:
            return f"the loss of {type(self.model.head).__name__} is drawn at random"
        return None

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Measure the batch on which the step is about to train."""
        if self.works and self.every_n_train_iters(runner, self.interval):
            found, step = self.measure(runner, data_batch), runner.iter + 1
            self.steps.append(step)
            for name in self.names:
                self.values[name].append(found.get(name, math.nan))
            runner.visualizer.add_scalars(dict(found, iter=step), step=step)  # W&B's axis

    def measure(self, runner: Any, data_batch: dict) -> dict[str, float]:
        """Return the parts by name, without those that have no link in the loss."""
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
        """Draw both kinds of parts."""
        seen = any(math.isfinite(value) for values in self.values.values() for value in values)
        if seen and is_main_process():
            picture = rgb(plot(self.steps, self.values))
            runner.visualizer.add_image("loss_split", picture, step=runner.iter)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Save the values for the picture of a resumed run."""
        if self.steps:
            checkpoint["split_loss"] = dict(steps=self.steps, values=self.values)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Restore the values of the run that is resumed."""
        saved = checkpoint.get("split_loss", {})
        self.steps, self.values = saved.get("steps", []), saved.get("values", {})

    @property
    def _band_names(self) -> list[str]:
        return self.bands.names if self.bands else []

    def _sums(self, predictions: list, target_values: list, plan: Any) -> torch.Tensor:
        """Return each range's loss, each range's weight, and each band's share of the MSE."""
        count, head, sums = len(self.ranges.names), self.model.head, 0
        for number, (group, made, goal) in enumerate(
            zip(plan.groups, predictions, target_values, strict=True)
        ):
            made = made.to(goal.dtype) if goal.is_floating_point() else made.float()
            link = head.distance(made, goal, reduction="none").mean(-1).double()
            weight = link_weights(group.loss_mask, link.shape, head.reduction, link)
            weight = weight / len(target_values)
            index = self.ranges.of(group, number).expand_as(link).flatten()
            split = [
                link.new_zeros(count).index_add_(0, index, part.flatten())
                for part in (weight * link, weight)
            ]
            bands = [self.bands.of(made - goal, weight)] if self.bands else []
            sums = sums + torch.cat(split + bands)
        return sums
