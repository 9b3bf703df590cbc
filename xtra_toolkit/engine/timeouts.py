"""Report a process of the group that does not answer, instead of waiting without end."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def explained_timeouts(runner: Any) -> Iterator[None]:
    """Turn the time-out of gloo into a message for the user.

    NCCL needs none: its watchdog ends the process with a message of its own.

    Raises:
        TimeoutError: Another process did not answer within ``env_cfg.dist_cfg.timeout``.
    """
    try:
        yield
    except RuntimeError as error:
        if "Timed out waiting" not in str(error):
            raise
        raise TimeoutError(
            f"At iteration {runner.iter + 1} another process did not answer for as long as "
            "env_cfg.dist_cfg.timeout (seconds) allows: it hangs, was stopped, or its machine is "
            f"gone. Checkpoints in {runner.work_dir} are whole; start again with --resume. Where a "
            "step, a validation or a checkpoint takes longer than that, raise the time-out."
        ) from error
