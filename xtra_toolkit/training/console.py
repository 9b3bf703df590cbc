"""Keep the console brief: a progress bar or a few lines, while all goes to the log file."""

import logging
import os
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger, print_log
from mmengine.runner import checkpoint

from xtra_toolkit.registry import HOOKS

FLAG = "--brief"  # of xtra_toolkit.train
ERROR_FILE = "error.txt"  # in the work folder: the sentence with which a run failed
SECONDS = 30  # between lines where there is no terminal
_brief = False


def make_brief() -> None:
    """Show only errors of MMEngine's logger on the console, and no Python warnings."""
    global _brief
    _brief = True
    warnings.simplefilter("ignore")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # of the data loader's processes
    original = MMLogger.__init__

    def init(self: MMLogger, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        for handler in self.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL)

    MMLogger.__init__ = init
    # MMEngine prints which checkpoint it loads, where it is given no logger
    checkpoint.print_log = lambda text, logger=None, *rest, **options: print_log(
        text, logger or "current", *rest, **options
    )


def report_failure(error: BaseException, folder: Path) -> None:
    """Write the traceback to the log file, and the sentence to ``error.txt``."""
    logging.raiseExceptions = False
    try:
        logger = MMLogger.get_current_instance()
        logger.error("The run failed.", exc_info=error)
    except Exception:  # there is no log yet: the sentence is all there is
        pass
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR_FILE).write_text(sentence_of(error))


def sentence_of(error: BaseException) -> str:
    """Return what an error says, in one line; errors of other packages keep their class."""
    text = " ".join(str(error).split())
    ours = isinstance(error, ValueError | TimeoutError | FloatingPointError)
    return text if ours and text else f"{type(error).__name__}: {text}"


@HOOKS.register_module()
class ProgressHook(Hook):
    """Say when the run will end: after its first step, then by a bar, or by lines.

    It is silent except in a run of ``xtra train``. The bar is drawn where standard error is a
    terminal. Elsewhere a line is printed after the third step, from which the time that is left
    can be told, and then twice a minute; in runs of at most twenty steps after each step.
    """

    priority = "VERY_LOW"

    def before_train(self, runner: Any) -> None:
        """Begin to count, in the main process of a brief run."""
        self.active = _brief and is_main_process()
        self.begun, self.first, self.bar, self.said = time.time(), runner.iter, None, time.time()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Advance, and say how it goes."""
        if not self.active:
            return
        done, total = runner.iter + 1, runner.max_iters
        if done == self.first + 1:
            self.begun, seconds = time.time(), time.time() - self.begun
            self._estimate(seconds, total - done, total)
        if self.bar is not None:
            loss = float(outputs["loss"]) if "loss" in (outputs or {}) else float("nan")
            self.bar.update(self.task, completed=done, loss=f"{loss:.4f}")
        elif (
            total - self.first <= 20
            or done == self.first + 3
            or time.time() - self.said >= SECONDS
            or done == total
        ):
            self.said = time.time()
            print(self._line(runner, done, total, outputs), flush=True)

    def _estimate(self, seconds: float, left: int, total: int) -> None:
        rest = timedelta(seconds=round(seconds * left))
        print(
            f"the first step took {seconds:.1f} s; at this pace the other {left:,} take {rest}, "
            "and the first is the slowest",
            flush=True,
        )
        if sys.stderr.isatty():
            self._open_bar(total)

    def _open_bar(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
        from rich.progress import TimeRemainingColumn as Remaining

        columns = [BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}")]
        self.bar = Progress(*columns, Elapsed(), Remaining(), console=Console(file=sys.stderr))
        self.task = self.bar.add_task("", total=total, completed=self.first, loss="")
        self.bar.start()

    def _line(self, runner: Any, done: int, total: int, outputs: dict | None) -> str:
        names = [name for name in outputs or {} if "loss" in name][:2]
        losses = "  ".join(f"{name} {float(outputs[name]):.4f}" for name in names)
        line, timed = f"step {done:,} of {total:,}  {losses}", done - self.first - 1
        if not timed:
            return line
        took = (time.time() - self.begun) / timed
        return f"{line}  {timedelta(seconds=round(took * (total - done)))} left"

    def after_val_epoch(self, runner: Any, metrics: dict | None = None) -> None:
        """Print what a validation found."""
        if getattr(self, "active", False) and metrics:
            numbers = [(k, v) for k, v in metrics.items() if isinstance(v, int | float)]
            found = "  ".join(f"{name} {value:.4f}" for name, value in numbers)
            print(f"validation after epoch {runner.epoch}  {found}", flush=True)

    def after_train(self, runner: Any) -> None:
        """Close the bar."""
        if getattr(self, "bar", None) is not None:
            self.bar.stop()
