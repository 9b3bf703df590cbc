"""Read a pretraining config and build its model on the meta device, which allocates nothing."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

import xtra_toolkit.models  # noqa: F401, registers the models
from xtra_toolkit.models import MaskTargetPretrainer


def open_config(path: Path, options: Sequence[str] = ()) -> Config:
    """Read a config and apply ``KEY=VALUE`` overrides as MMEngine's ``--cfg-options`` does.

    Raises:
        ValueError: If the file cannot be read as a config, or an override is not ``KEY=VALUE``.
    """
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} was given; an override is KEY=VALUE, model.mask.block_size=2"
        )
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is Python code and may raise anything
        raise ValueError(f"{path} cannot be read as a config: {error}") from error
    if options:
        parser = argparse.ArgumentParser()
        parser.add_argument("--cfg-options", nargs="+", action=DictAction)
        config.merge_from_dict(parser.parse_args(["--cfg-options", *options]).cfg_options)
    return config


def read_config(path: Path, options: Sequence[str] = ()) -> Config:
    """Read a pretraining config, see :func:`open_config`.

    Raises:
        ValueError: If the file cannot be read as a config, or has no pretraining model.
    """
    return pretraining(open_config(path, options), path)


def pretraining(config: Config, path: Path) -> Config:
    """Return a config unchanged; raise a ValueError if its model is no ``MaskTargetPretrainer``."""
    model_type = str(config.get("model", {}).get("type"))
    init_default_scope(config.get("default_scope", "mmpretrain"))
    model_class = MODELS.get(model_type) if "model" in config else None
    if not isinstance(model_class, type) or not issubclass(model_class, MaskTargetPretrainer):
        given = f"has a model of type {model_type!r}" if "model" in config else "has no `model`"
        raise ValueError(
            f"{path} {given}; only a pretraining config has a mask and a target to show: "
            "model.type='xtra_toolkit.MaskTargetPretrainer'"
        )
    return config


def build(config: Config) -> MaskTargetPretrainer:
    """Build the model on the meta device; raise a ValueError if its objective is refused."""
    with torch.device("meta"):
        return MODELS.build(config.model)


def depth_of(model: MaskTargetPretrainer) -> tuple[int, int]:
    """Return the numbers of layers of the encoder and of the decoder, 0 without a decoder."""
    return model.backbone.num_layers, model.neck.num_layers if model.with_neck else 0
