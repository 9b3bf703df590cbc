"""MMEngine's timer, for steps of several micro-batches, and images per second."""

import time
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import IterTimerHook

from xtra_toolkit.registry import HOOKS


@HOOKS.register_module()
class Throughput(IterTimerHook):
    """MMEngine's ``time``, ``data_time`` and ``eta``, and ``images_per_second`` of all processes.

    ``images_per_second`` is images by seconds over the steps over which the logger averages
    ``time``, no mean of rates. ``data_time`` is what a step waited for all of its images; MMEngine
    alone would see the first of several micro-batches. ``eta`` leaves out validation.
    """

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keeps what the first micro-batch took; the others are still to come."""
        self.first, self.waited = time.time() - self.t, _waited(runner)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Notes the times of a step, and the rate up to it."""
        hub = runner.message_hub
        hub.update_scalar("train/data_time", self.first + _waited(runner) - self.waited)
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        seconds = hub.get_scalar("train/time").mean(runner.log_processor.window_size)
        hub.update_scalar("train/images_per_second", _images(runner) / seconds, resumed=False)


def _waited(runner: Any) -> float:
    """Seconds that the training waited for micro-batches so far."""
    return getattr(runner.train_loop.dataloader, "waited", 0.0)


def _images(runner: Any) -> int:
    """Images of a step, over all processes."""
    loop = runner.train_loop
    return getattr(loop, "global_batch", None) or loop.dataloader.batch_size * get_world_size()
