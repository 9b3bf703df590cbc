"""Go on training without images that cannot be read; count and list them."""

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook

from xtra_toolkit.data.datasets.skip_bad_images import SkipsBadImages
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.unwrap import unwrap_model


@HOOKS.register_module()
class SkipBadImages(Hook):
    """Replace an image that cannot be read by another, and list its file once.

    ``bad_images.jsonl`` in the working folder has a line for each file with its path and the
    cause; processes after the first write ``bad_images_rank_N.jsonl``. Which image replaces it is a
    function of seed, epoch and index. Without this hook, in evaluation, and for data sets that do
    not extend ``SkipsBadImages``, the first bad image stops the run.

    Args:
        max_share: Largest allowed share of bad images among those that this process has read.
        at_least: Number of bad images from which the share is checked.

    Raises:
        ValueError: The share of bad images is larger.
    """

    def __init__(self, max_share: float = 0.01, at_least: int = 20):
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_share={max_share} was given; it is a share, from 0 to 1.")
        self.max_share, self.at_least = max_share, at_least
        self.tried = self.bad = 0

    def before_train(self, runner: Any) -> None:
        """Let the data set skip bad images, and read which files are listed already."""
        dataset = runner.train_loop.dataloader.dataset
        if not isinstance(dataset, SkipsBadImages):
            return
        dataset.skips_bad = True
        rank = f"_rank_{get_rank()}" if get_rank() else ""
        self.file = Path(runner.work_dir) / f"bad_images{rank}.jsonl"
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.listed = set(filter(None, map(_path_of, lines)))
        self.logger = runner.logger
        model = unwrap_model(runner.model)
        model.data_preprocessor.register_forward_pre_hook(self._count)

    def after_train_epoch(self, runner: Any) -> None:
        """Log how many images were bad."""
        if self.bad:
            self.logger.warning(
                f"{self.bad:,} of {self.tried:,} images tried could not be read and others stood "
                f"in for them; {len(self.listed):,} files are listed in {self.file}."
            )

    @torch.compiler.disable
    def _count(self, module: torch.nn.Module, args: tuple) -> None:
        """Count the bad images of every micro-batch; hooks see only the first of a step."""
        samples = args[0]["data_samples"] if module.training else []
        for sample in samples:
            skipped = sample.get("skipped_images", [])
            self.tried, self.bad = self.tried + 1 + len(skipped), self.bad + len(skipped)
            for path, cause in skipped:
                self._list(path, cause)
            if self.at_least <= self.bad > self.max_share * self.tried:
                raise ValueError(
                    f"{self.bad:,} of {self.tried:,} images cannot be read, "
                    f"{self.bad / self.tried:.1%}, and SkipBadImages.max_share is "
                    f"{self.max_share:.1%}. The last is {skipped[-1][0]!r}: {skipped[-1][1]}. All "
                    f"are listed in {self.file}. Repair the folder or the way to it, or allow more "
                    "(--cfg-options default_hooks.bad_images.max_share=0.1)."
                )

    def _list(self, path: str, cause: str) -> None:
        if path in self.listed:
            return
        self.listed.add(path)
        try:
            with open(self.file, "a") as file:
                file.write(json.dumps(dict(path=path, cause=cause)) + "\n")
        except OSError as error:  # a full disk is no reason to stop
            self.logger.warning(f"{self.file} cannot be written: {error.strerror}.")
        self.logger.warning(f"Skipped {path!r}, which cannot be read: {cause}")


def _path_of(line: str) -> str | None:
    """Return the path in a line of the list; None if a killed run left half a line."""
    try:
        return json.loads(line)["path"]
    except ValueError:
        return None
