"""Validate the head of OnlineProbe, and kNN on features of the current encoder.

Shape legend: B images of a batch, D width, N images of the bank.
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from xtra_toolkit.data.classes import names_of
from xtra_toolkit.data.seeding import seeded
from xtra_toolkit.evaluation.inference import inference
from xtra_toolkit.evaluation.knn_vote import Bank, in_order, vote
from xtra_toolkit.evaluation.online_head import NONE, OnlineHead, labels_of, within
from xtra_toolkit.evaluation.rankme import rankme


class ProbeValidation:
    """Count the images of a validation that the head and kNN classify correctly.

    It also measures the effective rank of the features of the bank, see :func:`rankme`.

    Args:
        features: Function ``(runner, data_batch, context) -> (B, D)``.
        bank: Number of training images that vote, see :class:`OnlineProbe`.
        k: Number of neighbours, see :class:`OnlineProbe`.
        temperature: Temperature of the votes, see :class:`OnlineProbe`.
    """

    def __init__(self, features: Callable[..., Tensor], bank: int, k: int, temperature: float):
        self.features = features
        self.images, self.k, self.temperature = bank, k, temperature
        self.bank: Bank | None = None
        self._correct: list[Tensor] | None = None
        self._logged: set[str] = set()

    def begin(self, runner: Any, head: OnlineHead, data_batch: dict) -> None:
        """Compute the bank; if the data sets cannot be compared, log once why not."""
        self.head, self._correct, self.bank, self.vectors = head, None, None, None
        train, val = runner.train_dataloader.dataset, runner.val_dataloader
        reason = _incomparable(train, val) or self._no_labels(runner, data_batch)
        if reason:
            return self._log_once(runner, f"OnlineProbe does not validate: {reason}.")
        self._correct = []
        loader = bank_loader(train, val, self.images) if self.images else None
        if loader is None:
            return self._log_once(
                runner,
                "OnlineProbe: no kNN, because bank is 0 or a data set has no pipeline; "
                "probe/linear_top1 normalises by the statistics of the last batches.",
            )
        self.vectors, self.bank = self._fill(runner, loader)
        images = len(self.bank.labels)
        return self._log_once(
            runner,
            f"OnlineProbe: for probe/knn_top1 the {self.k} nearest of {images:,} training images "
            "vote; probe/linear_top1 normalises by their statistics.",
        )

    def classify(self, runner: Any, data_batch: dict) -> None:
        """Record for each image whether head and kNN are correct and whether it has a label."""
        if self._correct is None:
            return
        features = self._features(runner, data_batch)
        labels, classes = self._labels(data_batch, features), self.head.linear.out_features
        with torch.autocast(features.device.type, enabled=False):
            correct = [self.head.classify(features, self.vectors) == labels]
            if self.bank is not None:
                unit = F.normalize(features, dim=1)
                shares = vote(unit, self.bank, classes, self.k, self.temperature)
                correct.append(shares.argmax(1) == labels)
        self._correct.append(torch.stack([*correct, labels != NONE], 1))

    def end(self, runner: Any) -> dict[str, float]:
        """Return accuracies over all processes in per cent, and RankMe; free the bank."""
        correct, self._correct, vectors = self._correct, None, self.vectors
        self.bank = self.vectors = None
        if not correct:
            return {}
        rows = in_order(torch.cat(correct).byte(), len(runner.val_dataloader.dataset))
        *sums, counted = rows.sum(0).tolist()
        if counted < len(rows):
            self._log_once(
                runner,
                f"OnlineProbe: {len(rows) - counted:,} of {len(rows):,} images of the validation "
                f"do not count: they have no label below {self.head.linear.out_features}.",
            )
        names = ("probe/linear_top1", "probe/knn_top1")
        accuracies = zip(names, sums, strict=False)
        found = {name: 100 * value / counted for name, value in accuracies if counted}
        return found if vectors is None else found | {"probe/rankme": rankme(vectors)}

    def _features(self, runner: Any, data_batch: dict) -> Tensor:
        with inference(runner.model):
            return self.features(runner, data_batch, nullcontext())

    def _labels(self, data_batch: dict, features: Tensor) -> Tensor:
        """Return labels (B,) on the device of features (B, D); a batch may have no samples."""
        samples = data_batch.get("data_samples") or [None] * len(features)
        return within(labels_of(samples), self.head.linear.out_features).to(features.device)

    def _no_labels(self, runner: Any, data_batch: dict) -> str | None:
        any_label = (labels_of(data_batch.get("data_samples")) != NONE).any().float()
        any_label = any_label.to(next(runner.model.parameters()).device)
        all_reduce(any_label, "max")
        return None if any_label else "its images have no labels"

    def _fill(self, runner: Any, loader: DataLoader) -> tuple[Tensor, Bank]:
        """Return the features of the bank, whose statistics normalise others, and the bank."""
        features, labels = [], []
        with seeded(0):  # the loader and the pipeline may draw random numbers
            for data_batch in loader:
                features.append(self._features(runner, data_batch))
                labels.append(self._labels(data_batch, features[-1]))
        images = len(loader.dataset)
        vectors, labels = (in_order(torch.cat(parts), images) for parts in (features, labels))
        vectors, labels = vectors[labels != NONE], labels[labels != NONE]
        return vectors, Bank(F.normalize(vectors, dim=1), labels)

    def _log_once(self, runner: Any, sentence: str) -> None:
        if sentence not in self._logged:
            self._logged.add(sentence)
            runner.logger.info(sentence)


def bank_loader(train: Any, val: DataLoader, images: int) -> DataLoader | None:
    """Make a loader of evenly spread training images with the pipeline of validation.

    Returns:
        A loader with the settings of ``val``; None if a data set has no ``pipeline``.
    """
    if not (hasattr(train, "pipeline") and hasattr(val.dataset, "pipeline")):
        return None
    plain = copy.copy(train)
    plain.pipeline = val.dataset.pipeline
    chosen = torch.linspace(0, len(train) - 1, min(images, len(train))).round().long().tolist()
    part = Subset(plain, chosen)
    return DataLoader(
        part,
        batch_size=val.batch_size,
        sampler=DefaultSampler(part, shuffle=False, seed=0),
        num_workers=val.num_workers,
        collate_fn=val.collate_fn,
        worker_init_fn=val.worker_init_fn,
        multiprocessing_context=val.multiprocessing_context,
    )


def _incomparable(train: Any, val: DataLoader) -> str | None:
    """Return why the data sets cannot be compared; None if they can."""
    train_names, val_names = names_of(train), names_of(val.dataset)
    if train_names and val_names and train_names != val_names:
        return (
            f"the training images have {len(train_names)} classes and those of the validation "
            f"{len(val_names)}, with other names or in another order; labels are numbers"
        )
    if _same(train, val.dataset):
        return "its images are the training images, and each would vote for itself"
    if get_world_size() > 1 and not getattr(val.sampler, "round_up", False):
        return (
            f"on several processes {type(val.sampler).__name__} gives no equal shares; set "
            "val_dataloader.sampler=dict(type='mmengine.DefaultSampler', shuffle=False)"
        )
    return None


def _same(train: Any, val: Any) -> bool:
    """Return whether two data sets have the same first, middle and last image."""
    size = len(val)
    if len(train) != size or not all(hasattr(data, "get_data_info") for data in (train, val)):
        return False
    for index in (0, size // 2, size - 1):
        infos = [data.get_data_info(index) for data in (train, val)]
        train_image, val_image = (info.get("img_path", info.get("img")) for info in infos)
        if train_image is None or not np.array_equal(train_image, val_image):
            return False
    return True
