"""Log in intervals that count the updates of the whole run."""

import logging
from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.logging import MMLogger

from xtra_toolkit.registry import HOOKS

NOISE = (
    "Hooks will be executed in the following order",
    "paramwise_options -- ",
    "resumed key: ",  # of values that are logged anew
)


def _is_no_noise(record: logging.LogRecord) -> bool:
    """Drop what a user of the console cannot act on."""
    return not str(record.msg).startswith(NOISE)


@HOOKS.register_module()
class StepLogger(LoggerHook):
    """Log the training after every ``interval``-th update, and after the last one.

    MMEngine's LoggerHook starts to count anew in each epoch, and in epochs of at most ``interval``
    steps it logs the last step of each. So a run of one step an epoch would log every step. A
    resumed run logs at the same steps as a run that was not stopped. A line of a running validation
    shows its progress, and one line at its end has the results; MMEngine's lines show those of the
    validation before. MMEngine's table of hooks and its lines on the options of each parameter are
    written to the log file alone.

    Args:
        **kwargs: Arguments of MMEngine's ``LoggerHook``; ``ignore_last`` has no effect.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for handler in MMLogger.get_current_instance().handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_no_noise)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Log the values of this update, if it is due."""
        if not (self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner)):
            return
        values, text = runner.log_processor.get_log_after_iter(runner, batch_idx, "train")
        runner.logger.info(text)
        runner.visualizer.add_scalars(values, step=runner.iter + 1, file_path=self.json_log_path)

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Log how far a validation is, if it is not at its end."""
        done = batch_idx + 1
        if done % self.interval or done == len(runner.val_dataloader):
            return
        _, text = runner.log_processor.get_log_after_iter(runner, batch_idx, "val")
        runner.logger.info(text.partition("val/loss")[0].rstrip())
