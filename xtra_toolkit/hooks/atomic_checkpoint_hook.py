"""Save checkpoints so that neither a kill nor a full disk costs the last one.

CheckpointHook of MMEngine 0.10.7 removes the oldest checkpoint before it writes the new one
(hooks/checkpoint_hook.py, ``_save_checkpoint_with_step``), writes under the final name
(fileio/backends/local_backend.py, ``put``), and empties ``last_checkpoint`` before it fills it.
"""

import logging
import os.path
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, broadcast_object_list, get_world_size, is_main_process
from mmengine.fileio import register_backend
from mmengine.hooks import CheckpointHook

from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.atomic_backend import AtomicBackend, remove_unfinished
from xtra_toolkit.utils.newest_checkpoint import POINTER, named_in, newest, relative

AGREE = 20  # steps from one question for the time to the next, of several processes


def _names_no_deprecated_client(record: logging.LogRecord) -> bool:
    """Drop MMEngine's log about a ``FileClient`` that it creates itself and never uses."""
    return not re.match(r'"(FileClient|HardDiskBackend)" (will be|is the alias)', str(record.msg))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """Write a checkpoint whole, then name it in ``last_checkpoint``, then remove the oldest.

    From its start on, all local files that MMEngine writes in this process are written by
    :class:`AtomicBackend`, including the best checkpoint and those of FlexibleRunner.

    Args:
        minutes: Also save after this many minutes without a checkpoint, within an epoch. 0: never.
            Several processes ask the first one for the time every 20 steps.
        overwrite: Whether a run that begins anew may replace the checkpoints in its work folder.
        **kwargs: Arguments of CheckpointHook.

    Raises:
        ValueError: A run begins anew in a folder that holds checkpoints, and ``overwrite`` is not
            set; or ``--resume`` is given, ``last_checkpoint`` names a checkpoint that is missing or
            damaged, and there is no other.
        OSError: A file cannot be written; the message says what is missing.
    """

    def __init__(self, *args: Any, minutes: float = 30, overwrite: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.minutes, self._saved_at = minutes, time.monotonic()
        self.overwrite = overwrite

    def before_run(self, runner: Any) -> None:
        """Write files whole from now on, and choose the checkpoint of ``--resume``."""
        register_backend("local", AtomicBackend, force=True, prefixes="")
        runner.logger.addFilter(_names_no_deprecated_client)
        if getattr(runner, "_resume", False) is True and not runner._load_from:
            chosen = [self._choose(runner) if is_main_process() else None]
            broadcast_object_list(chosen)
            runner._load_from = chosen[0]  # MMEngine would resume from the path as it is written

    def before_train(self, runner: Any) -> None:
        """Prepare as MMEngine does; keep one more file while a new one is being written."""
        super().before_train(runner)
        self._saved_at = time.monotonic()
        begins = not (runner.iter or getattr(runner, "_resume", False) or self.overwrite)
        if begins and self.interval > 0:
            self._refuse_used()
        self._keep_to_own_files(runner)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)
        if is_main_process():
            for folder in {Path(runner.work_dir), Path(self.out_dir)}:
                for path in remove_unfinished(folder):
                    runner.logger.info(f"Removed {path}, left by a run that was killed.")

    def _refuse_used(self) -> None:
        """Raise a ValueError if the folder holds checkpoints that this run would replace."""
        found = list(Path(self.out_dir).glob(self.filename_tmpl.format("*")))
        if found:
            newest_first = sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)
            raise ValueError(
                f"{self.out_dir} already holds {len(found)} checkpoint(s) of another run, the last "
                f"{newest_first[0].name}. Add --resume to go on with that run, or choose another "
                "--work-dir; --cfg-options default_hooks.checkpoint.overwrite=True replaces them."
            )

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Save as MMEngine does, after ``minutes``, and if ``max_iters`` ends within an epoch."""
        before = self.last_ckpt
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.last_ckpt != before:
            self._saved_at = time.monotonic()
        elif self._is_due(runner):
            self.save_now(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Save at the end of a whole epoch."""
        if not getattr(runner.train_loop, "cut_short", False):
            super().after_train_epoch(runner)

    def _is_due(self, runner: Any) -> bool:
        """Return whether to save now, within an epoch; all processes get the same answer."""
        loop, count = runner.train_loop, runner.iter + 1
        steps = len(loop.dataloader)
        if self.by_epoch and count == getattr(loop, "max_iters", None) and count % steps:
            return True
        if not self.minutes or count % steps == 0 or (get_world_size() > 1 and count % AGREE):
            return False
        due = [time.monotonic() - self._saved_at >= 60 * self.minutes]
        broadcast_object_list(due)
        return due[0]

    def save_now(self, runner: Any) -> None:
        """Save after this iteration, even in the middle of an epoch. All ranks must call it."""
        count = runner.iter + 1
        step = f"{runner.epoch}_iter_{count}" if self.by_epoch else count
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=count))
        barrier()  # no rank goes on, or ends, while another still writes

    def _save_checkpoint_with_step(self, runner: Any, step: int | str, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        self._saved_at = time.monotonic()
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        if self.max_keep_ckpts > 0 and step not in list(self.keep_ckpt_ids)[-1:]:
            self.keep_ckpt_ids.append(step)  # saved with it: a resumed run removes the surplus
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=meta["epoch"] > runner.epoch,  # FlexibleRunner counts by it, Runner by meta
            backend_args=self.backend_args,
            **self.args,
        )
        barrier()  # a sharded checkpoint is whole once every rank has written its part
        if is_main_process():
            named = relative(self.last_ckpt, runner.work_dir)
            AtomicBackend().put(named.encode(), Path(runner.work_dir, POINTER))
        self._remove_oldest(runner)

    def _remove_oldest(self, runner: Any) -> None:
        while 0 < self.max_keep_ckpts < len(self.keep_ckpt_ids):
            oldest = self.filename_tmpl.format(self.keep_ckpt_ids.popleft())
            path = self.file_backend.join_path(self.out_dir, oldest)
            if is_main_process() and self.file_backend.isfile(path):
                self.file_backend.remove(path)
            elif is_main_process() and self.file_backend.isdir(path):
                self.file_backend.rmtree(path)
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))

    def _keep_to_own_files(self, runner: Any) -> None:
        """Forget checkpoints of another folder, from which this run was branched or copied.

        MMEngine removes the best one when a better one comes, and updates the last one.
        """
        hub = runner.message_hub
        for key in [k for k in hub.runtime_info if k.startswith(("best_ckpt", "last_ckpt"))]:
            name = os.path.basename(hub.get_info(key) or "")
            path = self.file_backend.join_path(self.out_dir, name)
            own = path if name and self.file_backend.exists(path) else None
            hub.update_info(key, own)
            if key == "last_ckpt":
                self.last_ckpt = own if runner.iter else None
            elif key == "best_ckpt":
                self.best_ckpt_path = own
            elif self.save_best:
                self.best_ckpt_path_dict[key.removeprefix("best_ckpt_")] = own

    def _choose(self, runner: Any) -> str | None:
        """Return the checkpoint to resume from; None if there is none yet."""
        work_dir, named = Path(runner.work_dir), named_in(runner.work_dir)
        if "://" in named:
            return named
        folder = Path(self.out_dir, work_dir.name) if self.out_dir else work_dir
        path, passed = newest(work_dir, folder, self.filename_tmpl.format("*"))
        if path is None and named:
            raise ValueError(
                f"{work_dir}/{POINTER} names {named}, and there is no whole checkpoint to resume "
                f"from: {'; '.join(passed)}. Remove {work_dir}/{POINTER} to start from the "
                "beginning, or resume from a file (--resume with --cfg-options load_from=FILE)."
            )
        if path is None:
            Path(work_dir, POINTER).unlink(missing_ok=True)  # it is empty
            return None
        if passed or path != work_dir / named:
            runner.logger.warning(
                f"{work_dir}/{POINTER} names {named or 'nothing'}. "
                f"{''.join(f'{reason}. ' for reason in passed)}"
                f"Resuming from {path}, the newest whole checkpoint of this run."
            )
        return str(path)
