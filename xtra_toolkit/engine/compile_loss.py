"""Compile the loss of a model, forward and backward, where the config sets ``compile=True``.

MMEngine compiles ``train_step``, and with it the hooks on the data and the update of the optimizer.
torch.compile cannot trace the ``ConfigDict`` that ``paramwise_cfg`` leaves in each parameter group,
nor gradient hooks, and FlexibleRunner does not pass the option on at all.
"""

from typing import Any

import torch

from xtra_toolkit.utils.unwrap import unwrap_model


def compile_loss(runner: Any) -> None:
    """Compile ``loss`` of the runner's model in place of its whole ``train_step``.

    Validation and feature extraction stay uncompiled: they would be compiled again for their mode
    and batch sizes.

    Args:
        runner: MMEngine's Runner or FlexibleRunner. In its config, ``compile`` is a bool, or a dict
            of arguments of ``torch.compile``, for instance ``dict(backend="aot_eager")``.
    """
    options = runner.cfg.get("compile")
    if not options:
        return
    vars(runner.model).pop("train_step", None)  # MMEngine's Runner has compiled it
    model = unwrap_model(runner.model)
    arguments = options if isinstance(options, dict) else {}
    model.loss = torch.compile(model.loss, **arguments)
    runner.logger.info("The loss is compiled in the first steps, which are slow.")
