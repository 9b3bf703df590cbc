"""The 15 benchmarks of the paper (arXiv 2411.15648) and the accuracies it reports, in per cent.

The accuracies on single data sets other than ImageNet-1k are not included.
"""

from dataclasses import dataclass, field

BENCHMARKS = (
    *("iNat18", "CIFAR-10", "CIFAR-100", "Food101", "DTD", "Pets", "Cars", "iWildCam"),
    *("Camelyon17", "PCAM", "RxRx1", "EuroSAT", "fMoW", "Infograph", "ImageNet-1k"),
)


@dataclass(frozen=True)
class Reported:
    """A row of the paper's table: top-1 accuracy by benchmark, and the mean over all 15."""

    model: str
    protocol: str
    accuracy: dict[str, float] = field(default_factory=dict)
    mean: float | None = None


def _imagenet(model: str, **by_protocol: float) -> list[Reported]:
    return [Reported(model, p, {"ImageNet-1k": value}) for p, value in by_protocol.items()]


REPORTED = [
    Reported("MAE ViT-H", "attentive", mean=75.3),
    Reported("AIM-0.6B, DFN-2B", "attentive", mean=74.5),
    Reported("AIM-0.6B, DFN-2B+", "attentive", mean=75.6),
    Reported("XTRA ViT-H/14, ImageNet-21k", "attentive", {"ImageNet-1k": 80.9}, mean=76.2),
    *_imagenet("XTRA ViT-B/16, ImageNet-1k", linear=70.2, attentive=76.8),
    *_imagenet("MAE ViT-B/16, ImageNet-1k", linear=68.0, attentive=74.6),
    *_imagenet("data2vec ViT-B/16, ImageNet-1k", linear=67.3, attentive=74.5),
    *_imagenet("I-JEPA ViT-B/16, ImageNet-1k", linear=65.7, attentive=72.6),
    *_imagenet("AIM ViT-B/16, ImageNet-1k", linear=67.4, attentive=73.5),
    *_imagenet("AIM-0.6B, pretraining data not stated", attentive=73.5),
    *_imagenet("iGPT-L, ImageNet-1k", linear=65.2),
]
