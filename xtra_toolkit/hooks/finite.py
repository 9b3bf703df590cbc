"""Stop when the loss or the weights are no numbers any more, with the last checkpoint intact."""

import math
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import find_latest_checkpoint
from torch.nn.utils import get_total_norm

from xtra_toolkit.registry import HOOKS


@HOOKS.register_module()
class StopOnNonFiniteLoss(Hook):
    """Raises before any other hook logs, averages or saves a step that went wrong.

    A finite loss may still have an infinite gradient: the weights are looked at too, so that a
    checkpoint of NaNs never replaces a good one.

    Raises:
        FloatingPointError: a loss or a weight is NaN or infinite.
    """

    priority = "ABOVE_NORMAL"  # before EMAHook, LoggerHook and CheckpointHook

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Checks what the step returned and what it left behind."""
        losses = {key: value for key, value in (outputs or {}).items() if "loss" in key}
        values = {key: torch.as_tensor(value).item() for key, value in losses.items()}
        trained = [param for param in runner.model.parameters() if param.requires_grad]
        values["norm of the weights"] = float(get_total_norm(trained))
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(self._sentence(runner, values))

    @staticmethod
    def _sentence(runner: Any, values: dict[str, float]) -> str:
        kept = find_latest_checkpoint(runner.work_dir)
        return (
            f"Training stopped at iteration {runner.iter + 1}, epoch {runner.epoch + 1}: "
            f"{', '.join(f'{key} = {value:g}' for key, value in values.items())}. "
            + (
                f"The last checkpoint is untouched: {kept}. "
                if kept
                else f"There is no checkpoint yet in {runner.work_dir}. "
            )
            + "Resume from it, or start again, with a lower learning rate, a longer warm-up, "
            "optim_wrapper.clip_grad.max_norm=1.0, or optim_wrapper.dtype=float32."
        )
