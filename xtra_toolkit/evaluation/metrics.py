"""Metrics for MMEngine's evaluator."""

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.evaluation import ConfusionMatrix

from xtra_toolkit.evaluation.segmentation_dataset import IGNORED
from xtra_toolkit.registry import METRICS


@METRICS.register_module()
class PretrainLoss(BaseMetric):
    """The mean validation loss over images, from ``MaskTargetPretrainer.predict``."""

    default_prefix = "val"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """Collect the loss of each sample."""
        losses = [sample["pretrain_loss"] for sample in data_samples]
        self.results += torch.stack(losses).tolist()  # one read of the device

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Their mean."""
        return dict(loss=sum(results) / len(results))


@METRICS.register_module()
class MeanIoU(BaseMetric):
    """Intersection over union of predicted and true segmentation maps, in per cent.

    Counted over the pixels of all images that have a class. ``mIoU`` is the mean over the classes
    that occur, in truth or prediction; ``aAcc`` the share of pixels that are right (both names
    are MMSegmentation's); ``IoU/<class>`` stands for one class each.
    """

    default_prefix = "seg"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """For each image the pixels of each class: right, predicted, true; (3, classes)."""
        for sample in data_samples:
            predicted = sample["pred_seg_map"]
            true = sample["gt_seg_map"].to(predicted.device).long()
            counted, classes = true != IGNORED, sample["num_classes"]
            pairs = ConfusionMatrix.calculate(predicted[counted].long(), true[counted], classes)
            counts = [pairs.diagonal(), pairs.sum(0), pairs.sum(1)]
            self.results.append(torch.stack(counts).cpu())

    def compute_metrics(self, results: list[torch.Tensor]) -> dict[str, float]:
        """The figures over all images."""
        right, predicted, true = torch.stack(results).sum(0).double()
        if not true.any():
            raise ValueError(f"Every pixel of every segmentation map is {IGNORED}: no class.")
        union = predicted + true - right
        names = (self.dataset_meta or {}).get("classes") or range(len(right))
        if len(names) != len(right):
            raise ValueError(
                f"The data set names {len(names)} classes and the model has {len(right)}: set "
                "model.num_classes to the number of names."
            )
        ious = {
            f"IoU/{name}": float(100 * hits / whole)
            for name, hits, whole in zip(names, right, union, strict=True)
            if whole
        }
        figures = dict(
            mIoU=sum(ious.values()) / len(ious), aAcc=float(100 * right.sum() / true.sum())
        )
        return figures | ious
