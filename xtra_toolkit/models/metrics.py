"""Metrics for MMEngine's evaluator."""

from mmengine.evaluator import BaseMetric

from xtra_toolkit.registry import METRICS


@METRICS.register_module()
class PretrainLoss(BaseMetric):
    """The mean validation loss over images, from ``MaskTargetPretrainer.predict``."""

    default_prefix = "val"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """Collect the loss of each sample."""
        self.results += [float(sample["pretrain_loss"]) for sample in data_samples]

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Their mean."""
        return dict(loss=sum(results) / len(results))
