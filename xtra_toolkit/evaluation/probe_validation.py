"""The validation of OnlineProbe: its head, and neighbours among fresh features.

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

from xtra_toolkit.data.seeding import seeded
from xtra_toolkit.evaluation.inference import inference
from xtra_toolkit.evaluation.knn_vote import Bank, in_order, vote
from xtra_toolkit.evaluation.online_head import NONE, OnlineHead, labels_of, within


class ProbeValidation:
    """Counts, over a validation, what the head and the neighbours classify rightly.

    Args:
        features: ``(runner, data_batch, context) -> (B, D)``.
        bank, k, temperature: see :class:`OnlineProbe`.
    """

    def __init__(self, features: Callable[..., Tensor], bank: int, k: int, temperature: float):
        self.features = features
        self.images, self.k, self.temperature = bank, k, temperature
        self.bank: Bank | None = None
        self._right: list[Tensor] | None = None
        self._said: set[str] = set()

    def begin(self, runner: Any, head: OnlineHead, data_batch: dict) -> None:
        """Makes the bank, where the images can be compared; else it says once why not."""
        self.head, self._right, self.bank, self.vectors = head, None, None, None
        train, val = runner.train_dataloader.dataset, runner.val_dataloader
        sentence = _cannot(train, val) or self._no_labels(runner, data_batch)
        if sentence:
            return self._say(runner, f"OnlineProbe does not validate: {sentence}.")
        self._right = []
        loader = bank_loader(train, val, self.images) if self.images else None
        if loader is None:
            return self._say(
                runner,
                "OnlineProbe: no kNN, for bank is 0 or a data set has no pipeline; "
                "probe/linear_top1 normalises by the statistics of the last batches.",
            )
        self.vectors, self.bank = self._fill(runner, loader)
        images = len(self.bank.labels)
        return self._say(
            runner,
            f"OnlineProbe: for probe/knn_top1 the {self.k} nearest of {images:,} training images "
            "vote; probe/linear_top1 normalises by their statistics.",
        )

    def classify(self, runner: Any, data_batch: dict) -> None:
        """Of each image whether the head is right, the neighbours are, and it has a label."""
        if self._right is None:
            return
        features = self._features(runner, data_batch)
        labels, classes = self._labels(data_batch, features), self.head.linear.out_features
        with torch.autocast(features.device.type, enabled=False):
            right = [self.head.classify(features, self.vectors) == labels]
            if self.bank is not None:
                unit = F.normalize(features, dim=1)
                shares = vote(unit, self.bank, classes, self.k, self.temperature)
                right.append(shares.argmax(1) == labels)
        self._right.append(torch.stack([*right, labels != NONE], 1))

    def end(self, runner: Any) -> dict[str, float]:
        """The accuracies in per cent, over all processes; the bank is dropped."""
        right, self._right = self._right, None
        self.bank = self.vectors = None
        if not right:
            return {}
        rows = in_order(torch.cat(right).byte(), len(runner.val_dataloader.dataset))
        *sums, counted = rows.sum(0).tolist()
        if counted < len(rows):
            self._say(
                runner,
                f"OnlineProbe: {len(rows) - counted:,} of {len(rows):,} images of the validation "
                f"do not count: they have no label below {self.head.linear.out_features}.",
            )
        names = ("probe/linear_top1", "probe/knn_top1")
        accuracies = zip(names, sums, strict=False)
        return {name: 100 * value / counted for name, value in accuracies if counted}

    def _features(self, runner: Any, data_batch: dict) -> Tensor:
        with inference(runner.model):
            return self.features(runner, data_batch, nullcontext())

    def _labels(self, data_batch: dict, features: Tensor) -> Tensor:
        """(B,) beside features (B, D); a batch may come without samples."""
        samples = data_batch.get("data_samples") or [None] * len(features)
        return within(labels_of(samples), self.head.linear.out_features).to(features.device)

    def _no_labels(self, runner: Any, data_batch: dict) -> str | None:
        found = (labels_of(data_batch.get("data_samples")) != NONE).any().float()
        found = found.to(next(runner.model.parameters()).device)
        all_reduce(found, "max")
        return None if found else "its images have no labels"

    def _fill(self, runner: Any, loader: DataLoader) -> tuple[Tensor, Bank]:
        """Features as they are, which say how to normalise others, and the bank of them."""
        features, labels = [], []
        with seeded(0):  # a loader and a pipeline may draw
            for data_batch in loader:
                features.append(self._features(runner, data_batch))
                labels.append(self._labels(data_batch, features[-1]))
        images = len(loader.dataset)
        vectors, labels = (in_order(torch.cat(parts), images) for parts in (features, labels))
        vectors, labels = vectors[labels != NONE], labels[labels != NONE]
        return vectors, Bank(F.normalize(vectors, dim=1), labels)

    def _say(self, runner: Any, sentence: str) -> None:
        if sentence not in self._said:
            self._said.add(sentence)
            runner.logger.info(sentence)


def bank_loader(train: Any, val: DataLoader, images: int) -> DataLoader | None:
    """Evenly spread images of the training set as validation would prepare them.

    Returns:
        A loader like ``val``, None where a data set has no ``pipeline``.
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


def _cannot(train: Any, val: DataLoader) -> str | None:
    """Why the two cannot be compared."""
    ours, theirs = (
        (getattr(d, "metainfo", None) or {}).get("classes") for d in (train, val.dataset)
    )
    if ours and theirs and ours != theirs:
        return (
            f"the training images have {len(ours)} classes, those of the validation "
            f"{len(theirs)}, or others, or in another order; labels are numbers"
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
    """Do two data sets list the same images? Told by the first, a middle and the last one."""
    size = len(val)
    if len(train) != size or not all(hasattr(data, "get_data_info") for data in (train, val)):
        return False
    for place in (0, size // 2, size - 1):
        infos = [data.get_data_info(place) for data in (train, val)]
        one, other = (info.get("img_path", info.get("img")) for info in infos)
        if one is None or not np.array_equal(one, other):
            return False
    return True
