"""Thin MMPretrain adapters: backbone, decoder, head, algorithm."""

from xtra_toolkit.models.hub import register
from xtra_toolkit.models.masked_vit import MaskedViT
from xtra_toolkit.models.metrics import PretrainLoss
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.models.regression_head import RegressionHead
from xtra_toolkit.models.vit_decoder import ViTDecoder

__all__ = ["MaskTargetPretrainer", "MaskedViT", "PretrainLoss", "RegressionHead", "ViTDecoder"]

register()
