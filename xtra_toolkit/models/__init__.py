"""Thin MMPretrain adapters: backbone, decoder, head, algorithm."""

from xtra_toolkit.models.hub import register
from xtra_toolkit.models.masked_vit import MaskedViT
from xtra_toolkit.models.metrics import MeanIoU, PretrainLoss
from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.models.probe import AttentiveProbe, AverageLayers
from xtra_toolkit.models.probe_sweep import ProbeSweep, SweepAccuracy
from xtra_toolkit.models.segmentor import LinearSegmentor
from xtra_toolkit.models.vit_decoder import ViTDecoder

__all__ = [
    "AttentiveProbe",
    "AverageLayers",
    "LinearSegmentor",
    "MaskTargetPretrainer",
    "MaskedViT",
    "MeanIoU",
    "PredictionHead",
    "PretrainLoss",
    "ProbeSweep",
    "SweepAccuracy",
    "ViTDecoder",
]

register()
