"""Keep the workers of a data loader alive when the cluster signals every process."""

import os
import signal
import threading
from collections.abc import Callable, Sequence


def ignore_signals(
    signals: Sequence[int], worker_init_fn: Callable[[int], None] | None, worker: int
) -> None:
    """Make a worker of a data loader exit on SIGTERM of its parent only.

    Slurm signals every process of a job step. A worker that exits would end the training
    (RuntimeError: DataLoader worker is killed) before it can save.

    Args:
        signals: Numbers of the signals to block in the worker and its threads.
        worker_init_fn: The loader's own function for workers, called afterwards.
        worker: Number of the worker.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    threading.Thread(target=_exit_with_parent, args=(signals,), daemon=True).start()
    if worker_init_fn:
        worker_init_fn(worker)


def _exit_with_parent(signals: Sequence[int]) -> None:
    while True:
        received = signal.sigwaitinfo(signals)
        if received.si_signo == signal.SIGTERM and received.si_pid == os.getppid():
            os._exit(0)
