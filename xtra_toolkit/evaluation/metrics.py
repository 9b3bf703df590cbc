"""Metrics for MMEngine's evaluator."""

import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.evaluation import ConfusionMatrix

from xtra_toolkit.evaluation.segmentation_dataset import IGNORED
from xtra_toolkit.registry import METRICS


@METRICS.register_module()
class PretrainLoss(BaseMetric):
    """Compute the mean validation loss over images, from ``MaskTargetPretrainer.predict``."""

    default_prefix = "val"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """Collect the loss of each sample."""
        losses = [sample["pretrain_loss"] for sample in data_samples]
        self.results += torch.stack(losses).tolist()  # one copy to the host

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Return the mean loss."""
        return dict(loss=sum(results) / len(results))


@METRICS.register_module()
class MeanIoU(BaseMetric):
    """Compute the intersection over union of segmentation maps, in per cent.

    Pixels without a class are ignored. ``mIoU`` is the mean over the classes that occur in the
    true or predicted maps, ``aAcc`` is the share of correct pixels (both are MMSegmentation's
    names), and ``IoU/<class>`` is the value of one class.
    """

    default_prefix = "seg"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """Count correct, predicted and true pixels of each class in each image, (3, classes)."""
        for sample in data_samples:
            predicted = sample["pred_seg_map"]
            true = sample["gt_seg_map"].to(predicted.device).long()
            counted, classes = true != IGNORED, sample["num_classes"]
            pairs = ConfusionMatrix.calculate(predicted[counted].long(), true[counted], classes)
            counts = [pairs.diagonal(), pairs.sum(0), pairs.sum(1)]
            self.results.append(torch.stack(counts).cpu())

    def compute_metrics(self, results: list[torch.Tensor]) -> dict[str, float]:
        """Compute the metrics over all images."""
        correct, predicted, true = torch.stack(results).sum(0).double()
        if not true.any():
            raise ValueError(f"Every pixel of every segmentation map is {IGNORED}: no class.")
        union = predicted + true - correct
        names = (self.dataset_meta or {}).get("classes") or range(len(correct))
        if len(names) != len(correct):
            raise ValueError(
                f"The data set names {len(names)} classes and the model has {len(correct)}: set "
                "model.num_classes to the number of names."
            )
        ious = {
            f"IoU/{name}": float(100 * intersection / total)
            for name, intersection, total in zip(names, correct, union, strict=True)
            if total
        }
        metrics = dict(
            mIoU=sum(ious.values()) / len(ious), aAcc=float(100 * correct.sum() / true.sum())
        )
        return metrics | ious
