"""MMEngine's CheckpointHook, such that no kill and no full disk costs the last checkpoint.

CheckpointHook of MMEngine 0.10.7 removes the oldest checkpoint before the new one is written
(hooks/checkpoint_hook.py, ``_save_checkpoint_with_step``), writes under the final name
(fileio/backends/local_backend.py, ``put``) and empties ``last_checkpoint`` before it fills it.
"""

import logging
import re
from collections import deque
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from mmengine.dist import barrier, is_main_process
from mmengine.fileio import register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import find_latest_checkpoint

from xtra_toolkit.hooks.atomic import AtomicBackend, remove_unfinished
from xtra_toolkit.registry import HOOKS


def is_whole(checkpoint: str | Path) -> bool:
    """Has a checkpoint its end? torch writes the table of contents last."""
    path = Path(checkpoint)
    files = [path] if path.is_file() else list(path.glob("*"))  # a folder where it is sharded
    return bool(files) and all(map(is_zipfile, files))


def _names_no_deprecated_client(record: logging.LogRecord) -> bool:
    """Drop what MMEngine logs about a ``FileClient`` that it makes itself and never uses."""
    return not re.match(r'"(FileClient|HardDiskBackend)" (will be|is the alias)', str(record.msg))


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """A checkpoint is written whole, then named in ``last_checkpoint``, then the oldest goes.

    Its arguments are those of CheckpointHook. From its start on, all that MMEngine writes to
    local files in this process is written as by :class:`AtomicBackend`, the best checkpoint and
    FlexibleRunner's included.

    Raises:
        ValueError: ``--resume`` where ``last_checkpoint`` names half a checkpoint, which another
            program left, and there is no other.
        OSError: a file cannot be written; the sentence says what is missing.
    """

    def before_run(self, runner: Any) -> None:
        """Clears away what a killed run left, before the runner looks for its checkpoint."""
        register_backend("local", AtomicBackend, force=True, prefixes="")
        runner.logger.addFilter(_names_no_deprecated_client)
        resumes = getattr(runner, "_resume", False) and not runner._load_from
        if is_main_process() and resumes:
            self._mend_pointer(runner)
        barrier()

    def before_train(self, runner: Any) -> None:
        """MMEngine's; one more may be kept while a new one is being written."""
        super().before_train(runner)
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids = deque(self.keep_ckpt_ids)
        if is_main_process():
            for folder in {Path(runner.work_dir), Path(self.out_dir)}:
                for path in remove_unfinished(folder):
                    runner.logger.info(f"Removed {path}, left by a run that was killed.")

    def save_now(self, runner: Any) -> None:
        """Saves after the current iteration, in the middle of an epoch too; all ranks call it."""
        count = runner.iter + 1
        step = f"{runner.epoch}_iter_{count}" if self.by_epoch else count
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=count))
        barrier()  # no rank goes on, or ends, while another still writes

    def _save_checkpoint_with_step(self, runner: Any, step: int | str, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
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
            _point(runner, self.last_ckpt)
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

    def _mend_pointer(self, runner: Any) -> None:
        """Another program, or an earlier version, may have left half a file or no pointer."""
        named = find_latest_checkpoint(runner.work_dir)
        if named and ("://" in named or is_whole(named)):
            return
        folder = Path(named).parent if named else Path(runner.work_dir)
        whole = filter(is_whole, folder.glob(self.filename_tmpl.format("*")))
        newest = max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)
        if newest:
            runner.logger.warning(
                f"{runner.work_dir}/last_checkpoint names {named or 'nothing'}, which is not a "
                f"whole checkpoint; resuming from {newest}, the newest that is."
            )
            _point(runner, newest)
        elif named:
            raise ValueError(
                f"{runner.work_dir}/last_checkpoint names {named}, which is missing or cut off, "
                f"and {folder} has no other whole checkpoint. Remove {runner.work_dir}/"
                "last_checkpoint to start from the beginning, or resume from a file "
                "(--resume with --cfg-options load_from=FILE)."
            )
        else:
            Path(runner.work_dir, "last_checkpoint").unlink(missing_ok=True)


def _point(runner: Any, checkpoint: str | Path) -> None:
    AtomicBackend().put(str(checkpoint).encode(), Path(runner.work_dir) / "last_checkpoint")
