"""Save and exit when the cluster sends a signal."""

import signal
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook

from xtra_toolkit.hooks.atomic_checkpoint_hook import AtomicCheckpointHook
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.delayed_read import OneStepLate
from xtra_toolkit.utils.worker_signals import ignore_signals


@HOOKS.register_module()
class SaveOnSignal(Hook):
    """Save at the next iteration after a signal, and exit with ``exit_code``.

    All processes save at the same iteration, even if only one has received the signal. In a Slurm
    batch script:

        #SBATCH --requeue --signal=USR1@120
        srun --kill-on-bad-exit=1 python -m xtra_toolkit.train CONFIG --launcher slurm --resume
        [ $? -eq 75 ] && scontrol requeue $SLURM_JOB_ID

    A signal before training begins ends the run with ``exit_code`` at once. After the run has been
    saved, further signals are ignored until the process has ended. A signal after the last
    iteration changes nothing, since the run ends anyway; ``heard`` has its number.

    Args:
        signals: Names of signals. Slurm sends SIGTERM when it pre-empts a job. SIGINT is Ctrl-C; a
            second one ends the run at once, without saving.
        exit_code: Exit code of the process. The default, 75, is EX_TEMPFAIL of sysexits.h.

    Raises:
        ValueError: The checkpoint hook is not an AtomicCheckpointHook.
    """

    priority = "LOWEST"  # and last of these: the other hooks have ended their iteration

    def __init__(
        self, signals: Sequence[str] = ("SIGTERM", "SIGUSR1", "SIGINT"), exit_code: int = 75
    ):
        self.signals = [signal.Signals[name] for name in signals]
        self.exit_code = exit_code
        self.heard = 0
        self._late = OneStepLate()
        self._former: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._former[number] = signal.signal(number, self._leave)

    def before_train(self, runner: Any) -> None:
        """Start to listen; let the workers of the data loaders ignore the signals."""
        savers = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
        if not savers:
            raise ValueError(
                "SaveOnSignal saves through AtomicCheckpointHook, and none runs: set "
                "default_hooks.checkpoint.type=xtra_toolkit.AtomicCheckpointHook"
            )
        self._saver = savers[0]
        if threading.current_thread() is not threading.main_thread():
            runner.logger.warning("SaveOnSignal hears nothing: Python lets only the main thread.")
            return
        for number in self.signals:
            former = signal.signal(number, self._hear)
            self._former.setdefault(number, former)
        others = [hook for hook in runner.hooks if hook is not self]
        runner._hooks = [*others, self]  # a new list: the runner is iterating over the old one
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            loader = loop.dataloader
            loader.worker_init_fn = partial(ignore_signals, self.signals, loader.worker_init_fn)

    def before_train_epoch(self, runner: Any) -> None:
        """Block the signals while the workers of the data loader are forked."""
        if self._former:  # threads inherit the blocked signals, also those of libraries
            signal.pthread_sigmask(signal.SIG_BLOCK, self.signals)

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Unblock the signals; one that arrived in the meantime is handled now."""
        if self._former:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.signals)

    before_val_epoch, before_val_iter = before_train_epoch, before_train_iter

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save and exit if any process has received a signal."""
        number = self._agreed()
        if not number or self.is_last_train_iter(runner):  # the last one is saved anyway
            return
        runner.logger.info(
            f"{signal.Signals(number).name}: saving at iteration {runner.iter + 1}, then leaving "
            f"with exit code {self.exit_code}; --resume goes on from here."
        )
        self._saver.save_now(runner)
        for each in self.signals:
            signal.signal(each, signal.SIG_IGN)
        runner.visualizer.close()
        raise SystemExit(self.exit_code)

    def after_train(self, runner: Any) -> None:
        """Restore the former signal handlers."""
        while self._former:
            signal.signal(*self._former.popitem())

    def _hear(self, number: int, frame: Any) -> None:
        if number == self.heard == signal.SIGINT:
            raise KeyboardInterrupt
        self.heard = number

    def _leave(self, number: int, frame: Any) -> None:
        raise SystemExit(self.exit_code)

    def _agreed(self) -> int:
        """Return the signal that any process has received, the same in all of them; 0 if none."""
        if get_world_size() == 1:
            return self.heard
        heard = torch.full((1,), self.heard, dtype=torch.float32, device=get_device())
        all_reduce(heard, "max")
        known = self._late(heard)
        return int(known[0][0]) if known else 0
