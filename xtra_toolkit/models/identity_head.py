"""IdentityHead: compare the outputs themselves with the values of the target."""

from mmengine.model import ModuleList
from torch import nn

from xtra_toolkit.models.prediction_head import PredictionHead
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class IdentityHead(PredictionHead):
    """Take the outputs that a prediction reads as the prediction, without a layer (NEPA).

    Args:
        loss, reduction, shapes: See :class:`PredictionHead`.

    Raises:
        ValueError: The outputs have another width than the values of the target.
    """

    def __init__(
        self,
        loss: str | dict = "mse",
        reduction: str = "batch",
        *,
        shapes: list[tuple[int, int]],
        init_cfg: list | dict | None = None,
    ):
        super().__init__(None, loss, reduction, shapes=[], init_cfg=init_cfg)
        for given, wanted in shapes:
            if given != wanted:
                raise ValueError(
                    f"IdentityHead compares the outputs themselves, {given} values for a "
                    f"prediction, with the target's {wanted}; take a PredictionHead, or a target "
                    "and a decoder of the same width"
                )
        self.predictors = ModuleList(nn.Identity() for _ in shapes)
