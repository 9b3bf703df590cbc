"""Define the models of pretraining as MMPretrain modules: backbone, decoder, head, algorithm."""

from xtra_toolkit.models.classifier import ImageClassifier
from xtra_toolkit.models.cross_decoder import CrossDecoder
from xtra_toolkit.models.decoder import Decoder
from xtra_toolkit.models.diffusion_head import DiffusionHead
from xtra_toolkit.models.hub import register
from xtra_toolkit.models.identity_head import IdentityHead
from xtra_toolkit.models.masked_vit import MaskedViT
from xtra_toolkit.models.patch_aggregation import PatchAggregation
from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.models.pretrainer import MaskTargetPretrainer
from xtra_toolkit.models.prompt_decoder import PromptDecoder
from xtra_toolkit.models.shared_head import SharedHead
from xtra_toolkit.models.sum_of_heads import SumOfHeads
from xtra_toolkit.models.vit_decoder import ViTDecoder

__all__ = [
    "CrossDecoder",
    "Decoder",
    "DiffusionHead",
    "IdentityHead",
    "ImageClassifier",
    "MaskTargetPretrainer",
    "MaskedViT",
    "PatchAggregation",
    "PredictionHead",
    "PromptDecoder",
    "SharedHead",
    "SumOfHeads",
    "ViTDecoder",
]

register()
