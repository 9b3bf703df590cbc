"""Measure the kNN accuracy of an encoder, after or during pretraining.

Nothing is trained. Set

    test_cfg = dict(type="xtra_toolkit.KNNTestLoop", bank_dataloader=dict(...))
    val_cfg = dict(type="xtra_toolkit.KNNValLoop", bank_dataloader=dict(...))

and ``mmpretrain.Accuracy`` as the evaluator.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import get_world_size
from torch import Tensor

from xtra_toolkit.data.classes import names_of
from xtra_toolkit.evaluation.features import label_of, read_batch
from xtra_toolkit.evaluation.inference import InferenceTestLoop, InferenceValLoop
from xtra_toolkit.evaluation.knn_vote import Bank, in_order, vote
from xtra_toolkit.registry import LOOPS
from xtra_toolkit.utils.progress import watched


class _Neighbours:
    """Methods that both loops share: they fill the bank first and vote in each iteration."""

    stage: str

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        evaluator: Any,
        bank_dataloader: dict,
        k: int = 20,
        temperature: float = 0.07,
        **kwargs: Any,
    ):
        super().__init__(runner, dataloader, evaluator, **kwargs)
        self.bank_dataloader = runner.build_dataloader(bank_dataloader, seed=runner.seed)
        self.k, self.temperature = k, temperature
        self.bank = self.classes = None
        _check(self.bank_dataloader, self.dataloader, k)

    def run(self) -> dict:
        """Run the loop and return the metrics; the bank is freed afterwards."""
        try:
            return super().run()
        finally:
            self.bank = None

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Classify a batch by its nearest neighbours."""
        if idx == 0:  # not earlier, since hooks may have swapped in averaged weights
            self.bank = self._fill()
        self.runner.call_hook(f"before_{self.stage}_iter", batch_idx=idx, data_batch=data_batch)
        features, samples = self._features(data_batch)
        shares = vote(features, self.bank, self.classes, self.k, self.temperature)
        for sample, share in zip(samples, shares, strict=True):
            sample.set_pred_score(share)
        self.evaluator.process(data_samples=samples, data_batch=data_batch)
        self.runner.call_hook(
            f"after_{self.stage}_iter", batch_idx=idx, data_batch=data_batch, outputs=samples
        )

    def _features(self, data_batch: dict) -> tuple[Tensor, list]:
        feature, samples = read_batch(self.runner.model, data_batch, self.dtype, self.devices)
        return F.normalize(feature, dim=1), samples

    def _fill(self) -> Bank:
        """Compute the bank and gather it from all processes."""
        features, labels = [], []
        for data_batch in watched(self.bank_dataloader, "kNN bank"):
            feature, samples = self._features(data_batch)
            features.append(feature)
            labels.append(torch.cat([label_of(sample) for sample in samples]).to(feature.device))
        images = len(self.bank_dataloader.dataset)
        bank = Bank(*(in_order(torch.cat(parts), images) for parts in (features, labels)))
        names = names_of(self.bank_dataloader.dataset)
        self.classes = len(names) or int(bank.labels.max()) + 1
        self.runner.logger.info(
            f"kNN: a bank of {images} images, {bank.features.shape[1]} values each, "
            f"{self.classes} classes; the {self.k} nearest vote"
        )
        return bank


@LOOPS.register_module()
class KNNValLoop(_Neighbours, InferenceValLoop):
    """Validate a pretraining model or a classifier by k nearest neighbours.

    The model needs no head: features are those of its ``extract_feat``, under the encoder's own
    mask. Every process holds the whole bank on its device: 3.9 GB for ImageNet's 1.28 M images of
    768 values, and more than twice that while it is put together. Use ``dataset.indices=
    list(range(0, 1281167, 10))`` in ``bank_dataloader`` to take every tenth image; a number alone
    would take only the first classes.

    Args:
        runner: MMEngine's runner.
        dataloader: The images to classify.
        evaluator: ``mmpretrain.Accuracy``, or another metric that reads ``pred_score``.
        bank_dataloader: Config of the labelled images that vote, without augmentation.
        k: Number of neighbours that vote.
        temperature: An image of cosine similarity c votes with weight exp(c / temperature).
        **kwargs: ``dtype`` and ``devices`` of :class:`InferenceValLoop`.

    Raises:
        ValueError: If the bank has fewer than k images, no labels, or other classes than
            ``dataloader``; if its sampler cannot be gathered from several processes; if the dtype
            is unknown.
    """

    stage = "val"


@LOOPS.register_module()
class KNNTestLoop(_Neighbours, InferenceTestLoop):
    """Do the same for ``mim test``, with the arguments of :class:`KNNValLoop`."""

    stage = "test"


def _check(bank: Any, dataloader: Any, k: int) -> None:
    images = len(bank.dataset)
    if not 1 <= k <= images:
        raise ValueError(
            f"kNN with k={k} needs at least that many images in its bank (and one at least), and "
            f"bank_dataloader has {images}: give it the training images, or lower k."
        )
    bank_classes, classes = names_of(bank.dataset), names_of(dataloader.dataset)
    if bank_classes and classes and bank_classes != classes:
        unshared = sorted(set(bank_classes) ^ set(classes))
        raise ValueError(
            f"The bank has {len(bank_classes)} classes and the images to classify {len(classes)}"
            + (f"; only one of them has {unshared[:3]}" if unshared else ", in another order")
            + ". Labels are numbers, so both need the same classes."
        )
    if get_world_size() > 1 and not getattr(bank.sampler, "round_up", False):
        raise ValueError(
            f"On several processes the bank is gathered in equal shares, which the sampler "
            f"{type(bank.sampler).__name__} does not give: set bank_dataloader.sampler="
            "dict(type='mmengine.DefaultSampler', shuffle=False)."
        )
