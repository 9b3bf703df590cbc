"""Refuse configs that ``GlobalBatchLoop`` cannot train as they are meant."""

import inspect
from difflib import get_close_matches
from typing import Any

from mmengine.runner import Runner

from xtra_toolkit.data.sampler import GlobalBatchSampler
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.registry import DATA_SAMPLERS
from xtra_toolkit.utils.unwrap import unwrap_model


def refuse_conflicting_options(runner: Any) -> None:
    """Refuse options that set the accumulation or scale the learning rate a second time."""
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, dict):
        counts = wrapper.get("accumulative_counts", 1)
    else:
        counts = getattr(wrapper, "_accumulative_counts", 1)  # an OptimWrapperDict has none
    if counts != 1:
        raise ValueError(
            f"optim_wrapper.accumulative_counts={counts} was given, and GlobalBatchLoop computes "
            "the accumulation from train_cfg.global_batch: leave accumulative_counts out."
        )
    scale = getattr(runner, "auto_scale_lr", None) or getattr(runner, "_auto_scale_lr", None)
    if (scale or {}).get("enable"):  # the name in Runner, and that in FlexibleRunner
        raise ValueError(
            "auto_scale_lr would scale the learning rate with the number of processes, but "
            "train_cfg.global_batch does not depend on it: set auto_scale_lr.enable=False and "
            "optim_wrapper.optimizer.lr for the global batch."
        )


def refuse_activation_checkpointing(runner: Any) -> None:
    """Refuse MMEngine's option if pretraining calls ``encode``, since it wraps ``forward``."""
    model = unwrap_model(runner.model)
    modules = runner.cfg.get("activation_checkpointing")
    if modules and hasattr(getattr(model, "backbone", None), "encode"):
        raise ValueError(
            f"activation_checkpointing={modules!r} was given. MMEngine wraps the forward method "
            "of these modules, and pretraining calls another method of the encoder, so all "
            "activations would be kept silently. Leave the option out and set model.with_cp=True, "
            "which recomputes every layer of encoder and decoder in the backward pass."
        )


def global_batch_sampler(dataloader: dict) -> dict:
    """Return the config of the sampler, after checking that it is a GlobalBatchSampler."""
    if not isinstance(dataloader, dict):
        raise ValueError(
            f"GlobalBatchLoop needs train_dataloader as a config, not a {type(dataloader).__name__}"
            ": it fills in the sampler's global_batch."
        )
    sampler = dataloader.get("sampler") or {"type": GlobalBatchSampler}
    kind = sampler["type"]
    kind = DATA_SAMPLERS.get(kind) if isinstance(kind, str) else kind
    if kind is None:
        return sampler  # MMEngine reports the unknown name when it builds the sampler
    if not issubclass(kind, GlobalBatchSampler) or dataloader.get("batch_sampler"):
        raise ValueError(
            f"GlobalBatchLoop cannot train with the sampler {kind.__name__} "
            f"and batch_sampler={dataloader.get('batch_sampler')}: set train_dataloader.sampler="
            "dict(type='xtra_toolkit.GlobalBatchSampler') and no batch_sampler."
        )
    return sampler


def refuse_missing_hooks(runner: Any) -> None:
    """Refuse to train a target without the hooks that it needs (``needs_hooks``)."""
    model = unwrap_model(runner.model)
    if not isinstance(model, MaskTargetPretrainer):
        return
    target = model.target_generator
    running = {type(hook).__name__ for hook in runner.hooks}
    absent = [name for name in target.needs_hooks if name not in running]
    if absent:
        raise ValueError(
            f"{type(target).__name__} needs the hook {absent[0]}, which is not in the config; add "
            f"dict(type='xtra_toolkit.{absent[0]}') to custom_hooks beside the hooks of its base "
            "config, which it would replace otherwise"
        )


def refuse_misspelt_sections(config: dict) -> None:
    """Raise ValueError where a section of a config is named almost as one that the runner reads.

    A config may hold names of its own (the benchmarks have ``train_loader``): a section is refused
    only if its name is very close to one of the runner's.
    """
    known = [name for name in inspect.signature(Runner.__init__).parameters if len(name) > 4]
    for name, value in config.items():
        near = get_close_matches(name, known, 1, cutoff=0.86)
        if isinstance(value, dict) and near and name not in known and name[:3] == near[0][:3]:
            raise ValueError(
                f"The config has a section {name!r}, which nothing reads. Did you mean {near[0]}?"
            )
