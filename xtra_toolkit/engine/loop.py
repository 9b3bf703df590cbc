"""Train with one global batch in each iteration, on any number of processes.

    train_cfg = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=800, global_batch=2048)

global_batch = processes × batch_size × accumulation. The number of processes and their batch size
depend on the machine; the loop computes the accumulation. Iterations, schedules, logs and
checkpoints count optimizer steps, so they are the same on one GPU and on many.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size
from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from xtra_toolkit.data.fingerprint import fingerprint, refuse_other_order
from xtra_toolkit.data.seeding import SeededSamples, draw_seeds, seed_step
from xtra_toolkit.engine.accumulation import Accumulated, accumulation_of, mean_logs
from xtra_toolkit.engine.compile_loss import compile_loss
from xtra_toolkit.engine.loop_checks import (
    global_batch_sampler,
    refuse_activation_checkpointing,
    refuse_conflicting_options,
    refuse_missing_hooks,
    refuse_misspelt_sections,
)
from xtra_toolkit.engine.schedule import in_shares
from xtra_toolkit.engine.timeouts import explained_timeouts
from xtra_toolkit.models.classifier import check_classes
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.registry import LOOPS
from xtra_toolkit.utils.unwrap import unwrap_model


@LOOPS.register_module()
class GlobalBatchLoop(EpochBasedTrainLoop):
    """Run the epochs of MMEngine, counted in global batches.

    Hooks receive the first micro-batch of a step as ``data_batch``, and the mean over the step as
    ``outputs``. A checkpoint from the middle of an epoch resumes with the images not yet used.

    All generators are seeded again for each micro-batch, from the seed, the step and the position
    of the micro-batch in the global batch. A resumed run therefore draws the same random numbers as
    an uninterrupted one, for instance in drop path, though MMEngine 0.10.7 saves no random state.
    This holds on another number of processes too, if ``batch_size`` stays the same. A loss that
    divides by the number of predictions, such as AIM's, divides by that of the global batch (see
    ``counting`` of the model).

    Args:
        runner: The runner of MMEngine.
        dataloader: Config of the data loader. Its sampler must be a ``GlobalBatchSampler``, which
            is the default.
        global_batch: Number of images of one optimizer step, over all processes.
        max_iters: Number of steps after which to stop, also in the middle of an epoch.
        **kwargs: Arguments of ``EpochBasedTrainLoop``, such as ``max_epochs`` and ``val_interval``.

    Raises:
        ValueError: The global batch cannot be divided, or another part of the config sets the
            accumulation or scales the learning rate.
    """

    def __init__(
        self,
        runner: Any,
        dataloader: dict,
        global_batch: int,
        max_iters: int | None = None,
        **kwargs: Any,
    ):
        if max_iters is not None and max_iters < 1:
            raise ValueError(
                f"train_cfg.max_iters={max_iters} was given; it is the number of steps after which "
                "the run stops, at least 1, or None for all of max_epochs."
            )
        refuse_conflicting_options(runner)
        refuse_misspelt_sections(runner.cfg)
        sampler = global_batch_sampler(dataloader)
        batch_size = dataloader.get("batch_size", 1)
        self.global_batch = global_batch
        self.accumulation = accumulation_of(global_batch, get_world_size(), batch_size)
        dataloader = {**dataloader, "sampler": {**sampler, "global_batch": global_batch}}
        super().__init__(runner, dataloader, **kwargs)
        if not isinstance(self.dataloader.dataset, SeededSamples):
            raise ValueError(
                f"The data set {type(self.dataloader.dataset).__name__} does not accept keys "
                "(seed, epoch, index). Use xtra_toolkit.ImageFolder, wrap a registered data set as "
                "dict(type='xtra_toolkit.SeededDataset', dataset='mmpretrain.CUB', ...), or derive "
                "a class from xtra_toolkit.data.SeededSamples and yours, in this order."
            )
        model = unwrap_model(getattr(runner, "model", None))
        check_classes(self.dataloader.dataset, getattr(model, "head", None))
        self.dataloader = Accumulated(self.dataloader, self.accumulation)
        whole = self._max_epochs * len(self.dataloader)
        self._max_iters = min(whole, max_iters or whole)
        self._fit_schedule()

    def _fit_schedule(self) -> None:
        """Shrink a schedule of which the run would see the warm-up alone, before it is built."""
        steps = max(len(self.dataloader), 1)
        epochs = self._max_iters / steps
        fitting = in_shares(self.runner.param_schedulers, epochs, steps)
        if fitting is None:
            return
        self.runner.param_schedulers = fitting
        self.runner.logger.info(
            f"The run has {epochs:g} epochs, and would end within the warm-up of param_scheduler: "
            f"all its parts are shrunk alike, so that it is as long as the run. Set begin and end "
            "of each part to choose otherwise."
        )

    def run(self) -> nn.Module:
        """Train the model. The runner has built, loaded and resumed everything before."""
        refuse_missing_hooks(self.runner)
        refuse_activation_checkpointing(self.runner)
        self._resume_data_order()
        wrapper = self.runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            raise ValueError("GlobalBatchLoop needs one optimizer, and the config has several.")
        wrapper._accumulative_counts = self.accumulation
        counts = (steps * self.accumulation for steps in (self._iter, self._max_iters))
        wrapper.initialize_count_status(self.runner.model, *counts)
        compile_loss(self.runner)
        self.runner.logger.info(self.describe())
        with explained_timeouts(self.runner):
            self._train()
        return self.runner.model

    def _train(self) -> None:
        """Run the epochs as MMEngine does, and repeat a validation that was interrupted."""
        self.runner.call_hook("before_train")
        if self._iter and self._iter == self._epoch * len(self.dataloader):
            self._validate()  # the checkpoint of an epoch is saved before its validation
        while self._iter < self._max_iters and not self.stop_training:
            self.run_epoch()
            self._validate()
        self.runner.call_hook("after_train")

    def _validate(self) -> None:
        """Validate if it is due after this epoch and has not been done."""
        self._decide_current_val_interval()
        loop, epoch, info = self.runner.val_loop, self._epoch, self.runner.message_hub
        due = epoch % self.val_interval == 0 or epoch == self._max_epochs or self.cut_short
        if loop is None or epoch < self.val_begin or not due:
            return
        if info.get_info("validated_epoch") != epoch:
            # set here, so that no checkpoint before this has it
            info.update_info("validated_epoch", epoch)
            loop.run()

    def run_epoch(self) -> None:
        """Run an epoch, or the rest of it after resuming."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        start = self._iter - self._epoch * len(self.dataloader)
        self.dataloader.sampler.set_epoch(self._epoch, start)
        for idx, micro_batches in enumerate(self.dataloader, start):
            self.run_iter(idx, micro_batches)
            if self._iter >= self._max_iters:
                break  # AtomicCheckpointHook has saved, as of the middle of an epoch
        self.runner.call_hook("after_train_epoch")
        self._epoch += not self.cut_short

    @property
    def cut_short(self) -> bool:
        """Return whether ``max_iters`` is reached before the end of the current epoch."""
        return self._max_iters <= self._iter < (self._epoch + 1) * len(self.dataloader)

    def run_iter(self, idx: int, data_batch: Iterator) -> None:
        """Make one optimizer step from its micro-batches."""
        first = next(data_batch)
        self.runner.call_hook("before_train_iter", batch_idx=idx, data_batch=first)
        position = get_rank() * self.accumulation  # of the first micro-batch in the global batch
        logs = []
        with self._counting(idx):
            for number, batch in enumerate(chain([first], data_batch), position):
                seed_step(self.dataloader.sampler.seed, self._epoch, idx, number, 3)
                logs.append(self._train_step(batch))
        outputs = mean_logs(logs)
        self.runner.call_hook("after_train_iter", batch_idx=idx, data_batch=first, outputs=outputs)
        self._iter += 1

    def describe(self) -> str:
        """Return a line with batch sizes, steps, epochs and learning rates of the run."""
        optimizer, world = self.runner.optim_wrapper.optimizer, get_world_size()
        peaks = sorted({g.get("initial_lr", g["lr"]) for g in optimizer.param_groups})
        return (
            f"{self.global_batch} images a step = {world} process{'es' * (world > 1)} x "
            f"{self.dataloader.batch_size} images x {self.accumulation} accumulated; "
            f"{len(self.dataloader)} steps an epoch, {self._max_epochs} epochs; "
            f"learning rate {' to '.join(f'{lr:g}' for lr in peaks[:: max(len(peaks) - 1, 1)])} "
            f"({type(optimizer).__name__})"
        )

    def _train_step(self, batch: dict) -> dict[str, torch.Tensor]:
        logs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        device = get_device()
        return {
            key: torch.as_tensor(value, dtype=torch.float32, device=device).detach()
            for key, value in logs.items()
        }

    def _counting(self, step: int) -> AbstractContextManager:
        """Let the model count the predictions of all micro-batches of a step in advance."""
        runner = self.runner
        model = unwrap_model(runner.model)
        if self.accumulation == 1 or not isinstance(model, MaskTargetPretrainer):
            return nullcontext()
        keys, size = self.dataloader.sampler.keys(step), self.dataloader.batch_size
        starts = range(0, len(keys), size)
        return model.counting(
            [draw_seeds(*key) for key in keys[start : start + size]] for start in starts
        )

    def _resume_data_order(self) -> None:
        """Take over the order of the data from the run that is resumed."""
        steps = len(self.dataloader)
        if not 0 <= self._iter - self._epoch * steps <= steps:
            raise ValueError(
                f"The checkpoint stopped in epoch {self._epoch} after {self._iter} steps, but an "
                f"epoch has {steps} steps here. Resume with the images and the global batch it "
                "was trained with, or start a new run from its weights (load_from, resume=False)."
            )
        sampler, info = self.dataloader.sampler, self.runner.message_hub
        order = dict(images=fingerprint(sampler.dataset), global_batch=self.global_batch)
        refuse_other_order(info.get_info("data_order") if self._iter else None, order)
        info.update_info("data_order", order)
        if self._iter:  # the runner built the sampler before it knew the checkpoint's seed
            sampler.seed = info.get_info("sampler_seed", sampler.seed)
        info.update_info("sampler_seed", sampler.seed)
