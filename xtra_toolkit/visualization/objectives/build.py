"""A pretraining config, built on the meta device: nothing is allocated, ViT-H takes a second."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

import xtra_toolkit.models  # noqa: F401, registers them
from xtra_toolkit.models import MaskTargetPretrainer


def open_config(path: Path, options: Sequence[str] = ()) -> Config:
    """A config with ``KEY=VALUE`` overrides, as MMEngine's ``--cfg-options`` reads them.

    Raises:
        ValueError: the file cannot be read as a config, or an override is none.
    """
    wrong = [option for option in options if "=" not in option]
    if wrong:
        raise ValueError(
            f"{wrong[0]!r} was given; an override is KEY=VALUE, model.mask.block_size=2"
        )
    try:
        config = Config.fromfile(path)
    except Exception as error:  # a config is Python, and raises what it likes
        raise ValueError(f"{path} cannot be read as a config: {error}") from error
    if options:
        parser = argparse.ArgumentParser()
        parser.add_argument("--cfg-options", nargs="+", action=DictAction)
        config.merge_from_dict(parser.parse_args(["--cfg-options", *options]).cfg_options)
    return config


def read_config(path: Path, options: Sequence[str] = ()) -> Config:
    """A pretraining config, as :func:`open_config` reads it.

    Raises:
        ValueError: the file cannot be read as a config, or holds no pretrainer.
    """
    return pretraining(open_config(path, options), path)


def pretraining(config: Config, path: Path) -> Config:
    """A config as it is; ValueError that names its ``path`` where it holds no pretrainer."""
    kind = str(config.get("model", {}).get("type"))
    init_default_scope(config.get("default_scope", "mmpretrain"))
    found = MODELS.get(kind) if "model" in config else None
    if not isinstance(found, type) or not issubclass(found, MaskTargetPretrainer):
        holds = f"has a model of type {kind!r}" if "model" in config else "has no `model`"
        raise ValueError(
            f"{path} {holds}; only a pretraining config has a mask and a target to show: "
            "model.type='xtra_toolkit.MaskTargetPretrainer'"
        )
    return config


def build(config: Config) -> MaskTargetPretrainer:
    """The pretrainer on the meta device; ValueError where its pair cannot be certified."""
    with torch.device("meta"):
        return MODELS.build(config.model)


def depth_of(model: MaskTargetPretrainer) -> tuple[int, int]:
    """Layers of encoder and decoder that carry anything between tokens."""
    return model.backbone.num_layers, model.neck.num_layers if model.with_neck else 0
