"""Linear segmentation on the feature maps of an encoder.

Shape legend: B images, M feature maps, D width, (rows, cols) the grid, (H, W) pixels of a
segmentation map.
"""

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from xtra_toolkit.evaluation.segmentation_dataset import IGNORED
from xtra_toolkit.models.loading import with_recorded_images
from xtra_toolkit.models.masked_vit import MaskedViT
from xtra_toolkit.registry import MODELS


@MODELS.register_module()
class LinearSegmentor(BaseModel):
    """Segment images by BatchNorm and a 1x1 convolution on the feature maps of a backbone.

    This is the head of DINOv2's linear segmentation (facebookresearch/dinov2 at 7c503b3,
    linear_head.py). The maps of several layers are concatenated. Logits are resized bilinearly to
    the segmentation map.

    Args:
        backbone: Config of the encoder with ``out_type='featmap'``. Its ``out_indices`` choose the
            layers, and its ``frozen_stages`` whether it is trained.
        num_classes: Number of classes in the segmentation maps. Pixels of value 255 have no class.
        data_preprocessor: Config as in MMPretrain. Normalisation that it does not name is that of
            the encoder's checkpoint; one that differs is refused when weights are loaded.

    Raises:
        ValueError: If ``out_type`` of the backbone is not ``'featmap'``. ``loss`` raises it if a
            map has a class number that is too high.
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        default = dict(type="mmpretrain.ClsDataPreprocessor")
        super().__init__(default | with_recorded_images(data_preprocessor, backbone), init_cfg)
        self.backbone = MMPRETRAIN.build(backbone)
        out_type = getattr(self.backbone, "out_type", None)
        if out_type != "featmap":
            raise ValueError(
                f"LinearSegmentor reads the feature maps of a ViT, and this "
                f"{type(self.backbone).__name__} has out_type={out_type!r}: set "
                "model.backbone.out_type='featmap'."
            )
        if isinstance(self.backbone, MaskedViT):
            self.backbone.encoder_mask.compare_images(self.data_preprocessor)
        self.num_classes = num_classes
        width = self.backbone.embed_dims * len(self.backbone.out_indices)
        self.head = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, num_classes, 1))

    def forward(
        self, inputs: Tensor, data_samples: list[DataSample] | None = None, mode: str = "tensor"
    ) -> object:
        """Compute logits, losses or predictions of images (B, C, height, width).

        Args:
            inputs: The images.
            data_samples: Samples with the true maps, which the mode 'loss' needs.
            mode: 'tensor' for logits, 'loss' or 'predict'.
        """
        logits = self.head(torch.cat(self.extract_feat(inputs), 1))
        if mode == "tensor":
            return logits
        if mode == "loss":
            return self.loss(logits, data_samples)
        if mode == "predict":
            size = tuple(inputs.shape[2:])
            return self.predict(logits, data_samples or [DataSample() for _ in inputs], size)
        raise ValueError(f"mode={mode!r} was given; the modes are 'tensor', 'loss' and 'predict'")

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return M feature maps (B, D, rows, cols), one for each of the ``out_indices``."""
        return self.backbone(inputs)

    def loss(self, logits: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the cross entropy, averaged over the pixels that have a class."""
        seg_maps = torch.stack([self._seg_map(sample) for sample in data_samples])
        seg_maps = seg_maps.to(logits.device).long()
        logits = enlarge(logits, seg_maps.shape[1:])
        total = F.cross_entropy(logits, seg_maps, ignore_index=IGNORED, reduction="sum")
        return dict(loss=total / (seg_maps != IGNORED).sum().clamp(min=1))

    def predict(
        self, logits: Tensor, data_samples: list[DataSample], size: tuple[int, int]
    ) -> list[DataSample]:
        """Add ``pred_seg_map`` (H, W) to samples, in the size of ``gt_seg_map`` or the input."""
        for sample, logit in zip(data_samples, logits, strict=True):
            map_size = size
            if "gt_seg_map" in sample:
                sample.gt_seg_map = self._seg_map(sample)
                map_size = sample.gt_seg_map.shape
            sample.pred_seg_map = enlarge(logit[None], map_size).argmax(1)[0]
            sample.set_metainfo(dict(num_classes=self.num_classes))
        return data_samples

    def _seg_map(self, sample: DataSample) -> Tensor:
        seg_map = np.ascontiguousarray(sample.gt_seg_map)  # a flip leaves negative strides
        too_high = seg_map[(seg_map >= self.num_classes) & (seg_map != IGNORED)]
        if too_high.size:
            raise ValueError(
                f"The segmentation map {sample.get('seg_map_path', '')!r} holds the class "
                f"{too_high.max()}; model.num_classes={self.num_classes} allows 0 to "
                f"{self.num_classes - 1}, and {IGNORED} for pixels without a class."
            )
        return torch.from_numpy(seg_map)


def enlarge(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize logits (B, classes, rows, cols) to (B, classes, *size), bilinearly in float32."""
    return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=False)
