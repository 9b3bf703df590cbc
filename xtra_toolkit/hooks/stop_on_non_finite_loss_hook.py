"""Stop when the loss or a gradient is not finite, with weights and checkpoint intact."""

import io
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch import Tensor
from torch.distributed.fsdp._common_utils import clean_tensor_name
from torch.nn.utils import get_total_norm
from torch.optim import Adam, AdamW, Optimizer

from xtra_toolkit.engine.master_adamw import MasterAdamW
from xtra_toolkit.engine.replay import Batch, find_first_non_finite
from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.atomic_backend import AtomicBackend
from xtra_toolkit.utils.delayed_read import OneStepLate, agreed
from xtra_toolkit.utils.newest_checkpoint import named_in
from xtra_toolkit.utils.unwrap import unwrap_model


@HOOKS.register_module()
class StopOnNonFiniteLoss(Hook):
    """Skip the update if a gradient is NaN or infinite, and stop the run or go on.

    The message names the layer in which the first such value appeared, and the micro-batch is
    saved to ``nonfinite_iter_N.pt``. On a GPU with a fused Adam or AdamW the host reads the result
    one step later and never waits, because the kernel itself skips the update. Otherwise the run
    stops before any other hook logs or saves the step. A checkpoint with weights that are not
    finite is refused.

    Args:
        skips: Number of consecutive steps that may be skipped before the run stops.

    Raises:
        FloatingPointError: A loss, a gradient or a weight is NaN or infinite.
    """

    priority = "ABOVE_NORMAL"  # before EMAHook, LoggerHook and CheckpointHook

    def __init__(self, skips: int = 0):
        self.skips = skips
        self._in_a_row = 0
        self._late = OneStepLate()
        self._norms: list[Tensor] = []
        self._clipped: list[Tensor] = []
        self._batches: list[Batch] = []

    def before_train(self, runner: Any) -> None:
        """Check gradients before each update, and keep the batches of a step for a replay."""
        wrapper = runner.optim_wrapper
        several = isinstance(wrapper, OptimWrapperDict)
        for one in wrapper.values() if several else [wrapper]:
            self._listen(one)
            one.optimizer.register_step_pre_hook(self._before_update)
        preprocessor = unwrap_model(runner.model).data_preprocessor
        preprocessor.register_forward_pre_hook(self._remember, with_kwargs=True)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Judge this step, or on a GPU the step before."""
        losses = {key: value for key, value in (outputs or {}).items() if "loss" in key}
        names = [*losses, *["norm of the gradients"] * len(self._norms)]
        device = next(runner.model.parameters()).device
        values = [
            torch.as_tensor(v, device=device).float() for v in (*losses.values(), *self._norms)
        ]
        note = runner.iter, runner.epoch, names, self._batches
        self._norms, self._batches = [], []
        self._clipped = []  # a loss scaler may have left the update out
        if names:
            self._judge(runner, self._late(agreed(torch.stack(values)), note))

    def after_train_epoch(self, runner: Any) -> None:
        """Judge the last step before the epoch is saved."""
        self._judge(runner, self._late.flush())

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Refuse to save weights that are not finite."""
        for name, _ in unwrap_model(runner.model).named_parameters():
            name = clean_tensor_name(name)  # also where sharded
            saved = checkpoint["state_dict"].get(name)
            if isinstance(saved, Tensor) and not saved.isfinite().all():
                raise FloatingPointError(
                    f"No checkpoint is written at iteration {runner.iter + 1}: the weight {name} "
                    f"is not finite. {_advice(runner)}"
                )

    @torch.compiler.disable
    def _remember(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs.get("training") or args[1:] == (True,):  # no batch of a validation
            self._batches.append(Batch.of(args[0] if args else kwargs["data"]))

    def _listen(self, wrapper: Any) -> None:
        """Take over the norms that clipping computes, so that none is computed twice."""
        if (getattr(wrapper, "clip_grad_kwargs", None) or {}).get("norm_type", 2) != 2:
            return
        holders = [(wrapper, "clip_func"), (wrapper.optimizer, "clip")]  # MasterAdamW clips itself
        for holder, name in holders:
            if clip := getattr(holder, name, None):
                setattr(holder, name, partial(self._noted, clip))

    def _noted(self, clip: Callable, *args: Any, **kwargs: Any) -> Any:
        norm = clip(*args, **kwargs)
        if isinstance(norm, Tensor):  # clip_grad_value_ has none
            self._clipped.append(norm.detach())
        return norm

    @torch.no_grad()
    def _before_update(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        clipped, self._clipped = self._clipped, []
        if hasattr(optimizer, "grad_scale"):
            return  # a loss scaler expects infinite gradients, and leaves them out itself
        # SweepOptimWrapper clips in parts
        norm = get_total_norm(clipped or list(gradients(optimizer)))
        norm = agreed(norm.float())
        self._norms.append(norm)
        if norm.is_cuda and type(optimizer) in (Adam, AdamW) and optimizer.defaults["fused"]:
            optimizer.found_inf = (~norm.isfinite()).float()  # read by the kernel
        elif not math.isfinite(norm.item()):
            optimizer.zero_grad()  # nothing is left to update with

    def _judge(self, runner: Any, known: tuple | None) -> None:
        if known is None:
            return
        values, (iteration, epoch, names, batches) = known
        if all(map(math.isfinite, values)):
            self._in_a_row = 0
            return
        self._in_a_row += 1
        if self._in_a_row == 1 or self._in_a_row > self.skips:
            self._began = self._look_closer(runner, iteration, batches)
        what = ", ".join(f"{k} = {v:g}" for k, v in zip(names, values, strict=True))
        place = f"iteration {iteration + 1}, epoch {epoch + 1}: {what}. {self._began}"
        if self._in_a_row > self.skips:
            raise FloatingPointError(f"Training stopped at {place} {_advice(runner)}")
        runner.logger.warning(
            f"No update of gradients that are not finite at {place} "
            f"{self._in_a_row} in a row; the run stops after {self.skips}."
        )

    def _look_closer(self, runner: Any, iteration: int, batches: list[Batch]) -> str:
        """Replay the step; return which layer failed and where the batch is saved."""
        if not batches:
            return "The step read no batch through data_preprocessor, so it cannot be replayed."
        try:
            sentence, batch = find_first_non_finite(runner.model, runner.optim_wrapper, batches)
        except Exception as error:  # out of memory, say: what went wrong before is still told
            sentence, batch = f"A replay of the step failed ({error}).", batches[0]
        self._batches = []  # those of the replay
        rank = f"_rank_{get_rank()}" if get_world_size() > 1 else ""
        path = Path(runner.work_dir) / f"nonfinite_iter_{iteration + 1}{rank}.pt"
        with io.BytesIO() as file:
            torch.save(batch.state_dict(), file)
            AtomicBackend().put(file.getvalue(), path)
        return f"{sentence} The batch is in {path}."


def gradients(optimizer: Optimizer) -> Iterator[Tensor]:
    """Iterate over the gradients of parameters and of their bfloat16 copies (MasterAdamW)."""
    bf16_copies = optimizer.bf16_copies if isinstance(optimizer, MasterAdamW) else {}
    for group in optimizer.param_groups:
        for param in group["params"]:
            for holder in (param, bf16_copies.get(param)):
                if holder is not None and holder.grad is not None:
                    yield holder.grad


def _advice(runner: Any) -> str:
    kept = named_in(runner.work_dir)
    return (
        f"The last checkpoint is untouched: {Path(runner.work_dir, kept)}. "
        if kept
        else f"There is no checkpoint yet in {runner.work_dir}. "
    ) + (
        "Resume from it, or start again, with a lower learning rate, a longer warm-up, "
        "optim_wrapper.clip_grad.max_norm=1.0, or optim_wrapper.dtype=float32."
    )
