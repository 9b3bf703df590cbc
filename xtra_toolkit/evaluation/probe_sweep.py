"""ProbeSweep: train probes at several learning rates in one run, on the same features.

Shape legend: B images, N tokens, D width, M probes, C classes.
"""

import copy

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModule, ModuleList
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from xtra_toolkit.models.classifier import check_labels
from xtra_toolkit.registry import METRICS, MODELS


def label(rate: float) -> str:
    """Format a learning rate, 0.0015 as '1.5e-3'."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


@MODELS.register_module()
class ProbeSweep(BaseModule):
    """A head with one probe for each learning rate, on normalised features.

    The encoder runs once for all probes. They share a BatchNorm without parameters (eps 1e-6),
    start from the same weights and see the same batches; their gradients are independent.
    ``SweepOptimWrapperConstructor`` gives each probe its learning rate, and ``SweepOptimWrapper``
    clips the gradients of each separately. With both, every probe is trained as in its own run.

    Args:
        num_classes: C, passed to the probes.
        in_channels: D, passed to the probes.
        rates: Peak learning rates, one for each probe.
        probe: Config of a classification head, such as ``xtra_toolkit.AttentiveProbe`` on tokens or
            ``mmpretrain.LinearClsHead`` on pooled features.
        predict_rate: Learning rate of the probe that predicts ``pred_score`` and ``pred_label``,
            for example the best one in validation. Default: the only rate; if there are several,
            samples only get the scores of all probes, ``sweep_scores`` (M, C).

    Raises:
        ValueError: If a rate is not positive or is given twice, or ``predict_rate`` is not one of
            the rates.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        rates: list[float],
        probe: dict,
        predict_rate: float | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        if not rates or min(rates) <= 0 or len({label(rate) for rate in rates}) < len(rates):
            raise ValueError(
                f"ProbeSweep needs learning rates above 0, each once, like rates=[3e-4, 1e-3]; "
                f"given: {rates}"
            )
        if predict_rate is not None and predict_rate not in rates:
            raise ValueError(f"predict_rate={predict_rate} is none of the sweep's rates: {rates}")
        self.rates = list(rates)
        self.predict_rate = rates[0] if len(rates) == 1 else predict_rate
        self.norm = nn.BatchNorm1d(in_channels, affine=False, eps=1e-6)
        first = MMPRETRAIN.build(dict(probe, num_classes=num_classes, in_channels=in_channels))
        self.probes = ModuleList(copy.deepcopy(first) for _ in rates)
        for rate, head in zip(rates, self.probes, strict=True):
            head.own_lr = rate  # SweepOptimWrapperConstructor reads it

    def init_weights(self) -> None:
        """Initialise all probes with the same weights."""
        super().init_weights()
        for head in self.probes[1:]:
            head.load_state_dict(self.probes[0].state_dict())

    def features(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Normalise tokens (B, N, D) or pooled features (B, D) over all dimensions but D."""
        return (self.norm(feats[-1].transpose(1, -1)).transpose(1, -1),)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the logits of all probes, (B, M, C)."""
        feats = self.features(feats)
        return torch.stack([head(feats) for head in self.probes], 1)

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample]) -> dict:
        """Return the loss of each probe by its rate; MMEngine adds them up.

        Raises:
            ValueError: A label is not among the ``num_classes`` classes.
        """
        check_labels(data_samples, self.probes[0].num_classes)
        feats = self.features(feats)
        return {
            f"loss_lr_{label(rate)}": head.loss(feats, data_samples)["loss"]
            for rate, head in zip(self.rates, self.probes, strict=True)
        }

    def predict(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Add the scores of all probes to each sample, and the prediction at ``predict_rate``."""
        scores = self(feats).softmax(-1)
        samples = data_samples or [DataSample() for _ in scores]
        for sample, score in zip(samples, scores, strict=True):
            sample.set_field(score, "sweep_scores")
            sample.set_field(self.rates, "sweep_rates", field_type="metainfo")
            if self.predict_rate is not None:
                chosen = score[self.rates.index(self.predict_rate)]
                sample.set_pred_score(chosen).set_pred_label(chosen.argmax())
        return samples


@METRICS.register_module()
class SweepAccuracy(BaseMetric):
    """Compute the top-1 accuracy of a ProbeSweep in per cent; top-5 too for more than 5 classes.

    ``accuracy/top1_lr_1e-3`` is that of the probe at this rate, ``accuracy/top1`` the best of
    them, and ``accuracy/best_lr`` its rate. As in the papers, the best is chosen on the same
    images on which it is reported.
    """

    default_prefix = "accuracy"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """Record the rank of the label in each probe's predictions, (M,); 5 if not among 5."""
        scores = torch.stack([sample["sweep_scores"] for sample in data_samples])
        labels = torch.cat([sample["gt_label"] for sample in data_samples]).to(scores.device)
        self.rates, self.classes = data_samples[0]["sweep_rates"], scores.shape[-1]
        predictions = scores.topk(min(5, self.classes)).indices
        hits = predictions == labels[:, None, None]
        ranks = torch.where(hits.any(-1), hits.int().argmax(-1), 5)
        self.results += list(ranks.cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Compute the accuracies over all images."""
        ranks, metrics = torch.stack(results), {}
        accuracy = {k: 100 * (ranks < k).double().mean(0) for k in (1, 5) if k < self.classes}
        best = int(accuracy[1].argmax())
        for k, values in accuracy.items():
            metrics[f"top{k}"] = float(values[best])
            metrics |= {
                f"top{k}_lr_{label(rate)}": float(value)
                for rate, value in zip(self.rates, values, strict=True)
            }
        return metrics | dict(best_lr=self.rates[best])
