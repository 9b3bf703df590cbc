"""Measure the time of steps of several micro-batches, and images per second."""

import time
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import IterTimerHook

from xtra_toolkit.registry import HOOKS


@HOOKS.register_module()
class Throughput(IterTimerHook):
    """Log MMEngine's ``time``, ``data_time`` and ``eta``, and ``images_per_second``.

    ``images_per_second`` counts the images of all processes. It is the number of images divided by
    the seconds of the steps over which the logger averages ``time``, not a mean of rates.
    ``data_time`` is the time that a step waited for all of its images; MMEngine alone would see the
    first of several micro-batches only, and add the time that hooks took since the step before
    (for example for pictures and probes). ``eta`` leaves out validation.
    """

    def before_train(self, runner: Any) -> None:
        """Start to count."""
        super().before_train(runner)
        self.waited = _waited(runner)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Keep MMEngine's value; further micro-batches of the step are still to come."""
        self.first = time.time() - self.t

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Record the times of a step, and the rate so far."""
        hub, waited = runner.message_hub, _waited(runner)
        loaded = self.first if waited is None else waited - self.waited
        hub.update_scalar("train/data_time", loaded)
        self.waited = waited
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        seconds = hub.get_scalar("train/time").mean(runner.log_processor.window_size)
        hub.update_scalar("train/images_per_second", _images(runner) / seconds, resumed=False)


def _waited(runner: Any) -> float | None:
    """Return the seconds that training waited for data so far; None in MMEngine's own loops."""
    return getattr(runner.train_loop.dataloader, "waited", None)


def _images(runner: Any) -> int:
    """Return the number of images of a step over all processes."""
    loop = runner.train_loop
    return getattr(loop, "global_batch", None) or loop.dataloader.batch_size * get_world_size()
