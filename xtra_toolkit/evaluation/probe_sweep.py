"""ProbeSweep: probes at several learning rates in one run, on the same features.

Shape legend: B images, N tokens, D width, M probes, C classes.
"""

import copy

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModule, ModuleList
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from xtra_toolkit.registry import METRICS, MODELS


def label(rate: float) -> str:
    """A learning rate as it is written: 0.0015 is '1.5e-3'."""
    mantissa, exponent = f"{rate:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


@MODELS.register_module()
class ProbeSweep(BaseModule):
    """The head: normalised features, and a probe on them for each learning rate.

    The encoder runs once for all of them, and they share a BatchNorm without parameters (eps
    1e-6). They start from the same weights and see the same batches, and their gradients are
    independent. With ``SweepOptimWrapper``, which clips each on its own, and its constructor,
    which gives each its rate, every probe is what a run of its own would have made of it.

    Args:
        num_classes, in_channels: C and D, filled into the probe.
        rates: peak learning rates, one for each probe.
        probe: config of a head of MMPretrain's, ``xtra_toolkit.AttentiveProbe`` on tokens or
            ``mmpretrain.LinearClsHead`` on pooled features.
        predict_rate: the rate whose probe predicts ``pred_score`` and ``pred_label``, for
            instance the best that validation named. Default: the only one; of several, none,
            and samples get the scores of all, ``sweep_scores`` (M, C), alone.

    Raises:
        ValueError: rates that are no rates or stand twice, or a ``predict_rate`` not among them.
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
        for rate, member in zip(rates, self.probes, strict=True):
            member.own_lr = rate  # what SweepOptimWrapper's constructor reads

    def init_weights(self) -> None:
        """The same for each probe."""
        super().init_weights()
        for member in self.probes[1:]:
            member.load_state_dict(self.probes[0].state_dict())

    def features(self, feats: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Tokens (B, N, D) or pooled features (B, D), normalised over all but D."""
        return (self.norm(feats[-1].transpose(1, -1)).transpose(1, -1),)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """The logits of every probe, (B, M, C)."""
        feats = self.features(feats)
        return torch.stack([member(feats) for member in self.probes], 1)

    def loss(self, feats: tuple[Tensor, ...], data_samples: list[DataSample]) -> dict:
        """Each probe's loss by its rate; MMEngine adds them up."""
        feats = self.features(feats)
        return {
            f"loss_lr_{label(rate)}": member.loss(feats, data_samples)["loss"]
            for rate, member in zip(self.rates, self.probes, strict=True)
        }

    def predict(
        self, feats: tuple[Tensor, ...], data_samples: list[DataSample] | None = None
    ) -> list[DataSample]:
        """Every probe's scores in each sample, and the prediction of ``predict_rate``'s."""
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
    """Top-1 (of more than 5 classes also top-5) of a ProbeSweep, in per cent.

    Reports each probe's by its rate, ``accuracy/top1_lr_1e-3``; the best, ``accuracy/top1``, and
    its rate, ``accuracy/best_lr``. As in the papers the best is chosen on the very images that it
    is reported on.
    """

    default_prefix = "accuracy"

    def process(self, data_batch: object, data_samples: list[dict]) -> None:
        """Keeps the place of the label among each probe's first 5 guesses, (M,); 5: none."""
        scores = torch.stack([sample["sweep_scores"] for sample in data_samples])
        labels = torch.cat([sample["gt_label"] for sample in data_samples]).to(scores.device)
        self.rates, self.classes = data_samples[0]["sweep_rates"], scores.shape[-1]
        guesses = scores.topk(min(5, self.classes)).indices
        hits = guesses == labels[:, None, None]
        places = torch.where(hits.any(-1), hits.int().argmax(-1), 5)
        self.results += list(places.cpu())

    def compute_metrics(self, results: list[Tensor]) -> dict[str, float]:
        """Over all images."""
        places, metrics = torch.stack(results), {}
        accuracy = {k: 100 * (places < k).double().mean(0) for k in (1, 5) if k < self.classes}
        best = int(accuracy[1].argmax())
        for k, values in accuracy.items():
            metrics[f"top{k}"] = float(values[best])
            metrics |= {
                f"top{k}_lr_{label(rate)}": float(value)
                for rate, value in zip(self.rates, values, strict=True)
            }
        return metrics | dict(best_lr=self.rates[best])
