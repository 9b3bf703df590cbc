"""Features of a frozen encoder, each image's once: what ``xtra features`` writes.

Shape legend: N images of a data set, B of a batch, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from xtra_toolkit.engine.inference import inference
from xtra_toolkit.engine.neighbours import pooled_feature
from xtra_toolkit.weights.read import read_state


def read_batch(
    model: nn.Module, data_batch: dict, dtype: str, devices: Sequence[str]
) -> tuple[Tensor, list]:
    """Pooled features of a batch, (B, D) in float32, and its data samples, in inference mode."""
    model = model.module if is_model_wrapper(model) else model
    data = model.data_preprocessor(data_batch, False)
    with inference(model, dtype, devices):
        return pooled_feature(model, data["inputs"]), data["data_samples"]


def label_of(sample: Any) -> Tensor:
    """(1,), the label of an image; ValueError where it has none, or several."""
    label = sample.get("gt_label")
    if label is None or len(label) != 1:
        raise ValueError(
            f"The image {sample.get('img_path', '')!r} must have one label to vote or to be "
            f"probed with, not {label}: take a labelled data set (ImageFolder: with_label=True)."
        )
    return label


def load_encoder(config: Config, checkpoint: Path) -> nn.Module:
    """The model of a config with the weights of a checkpoint, to evaluate; nothing is executed.

    What the model has no place for, a pretrainer's decoder and head, is left out.

    Raises:
        ValueError: the checkpoint is not of the model's encoder.
    """
    init_default_scope(config.get("default_scope", "mmpretrain"))
    model = dict(config.model)
    model.setdefault("data_preprocessor", config.get("data_preprocessor"))
    model = MODELS.build(model)
    state = read_state(checkpoint)
    if not any(name.startswith("backbone.") for name in state):
        raise ValueError(
            f"{checkpoint} holds no encoder: no tensor's name begins with 'backbone.', the "
            f"first is {next(iter(state), None)!r}; convert it first (xtra convert)"
        )
    model.load_state_dict(state, strict=False)
    return model.eval()


def loaders(config: Config, batch_size: int | None = None) -> dict[str, DataLoader]:
    """The ``bank`` and the ``test`` images of a kNN config, each once, in their order.

    Raises:
        ValueError: a config without either.
    """
    parts = dict(
        bank=(config.get("test_cfg") or {}).get("bank_dataloader"),
        test=config.get("test_dataloader"),
    )
    for name, loader in parts.items():
        if not loader:
            raise ValueError(
                f"{config.filename} has no {name} images; features are read by a kNN config, with "
                "test_cfg.bank_dataloader and test_dataloader, like "
                "mmconfigs/benchmarks/knn/imagenet.py"
            )
    return {name: _in_order(loader, batch_size) for name, loader in parts.items()}


def _in_order(loader: dict, batch_size: int | None) -> DataLoader:
    once = {name: value for name, value in loader.items() if name != "batch_sampler"}
    once["sampler"] = dict(type="mmengine.DefaultSampler", shuffle=False, round_up=False)
    once |= dict(batch_size=batch_size or loader["batch_size"], drop_last=False)
    return Runner.build_dataloader(once, seed=0)


def extract(
    model: nn.Module,
    dataloader: DataLoader,
    dtype: str = "bfloat16",
    devices: Sequence[str] = ("cuda",),
    watch: Callable[[DataLoader], Iterator] = iter,
) -> dict[str, Tensor]:
    """All images of a loader, in its order.

    Args:
        model: in evaluation mode, with ``extract_feat`` and ``data_preprocessor``.
        dataloader: of labelled images.
        dtype, devices: see :func:`xtra_toolkit.engine.inference.inference`.
        watch: passes the batches on, and may show how many have gone.

    Returns:
        ``features`` (N, D) float32; ``labels`` (N,); and where images have files ``paths``, uint8:
        their names in UTF-8, one a line.
    """
    features, labels, paths = [], [], []
    for data_batch in watch(dataloader):
        feature, samples = read_batch(model, data_batch, dtype, devices)
        features.append(feature.cpu())
        labels += [label_of(sample).cpu() for sample in samples]
        paths += [sample.get("img_path") for sample in samples]
    found = dict(features=torch.cat(features), labels=torch.cat(labels))
    if None not in paths:
        lines = bytearray("\n".join(map(str, paths)).encode())
        found["paths"] = torch.frombuffer(lines, dtype=torch.uint8)
    return found
