"""Extend MMPretrain's ImageClassifier: take widths and normalisation from the encoder."""

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from mmpretrain.models import ImageClassifier as MMPretrainImageClassifier
from mmpretrain.registry import MODELS as MMPRETRAIN
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from xtra_toolkit.data.classes import classes_of, names_of
from xtra_toolkit.models.loading import with_recorded_images
from xtra_toolkit.models.masked_vit import MaskedViT
from xtra_toolkit.registry import MODELS

WIDTHS = ("in_channels", "input_features")  # arguments of necks and heads
KEEP_WIDTH = ("ClsBatchNormNeck", "GlobalAveragePooling", "AverageLayers")  # necks


@MODELS.register_module()
class ImageClassifier(MMPretrainImageClassifier):
    """A classifier that takes widths and normalisation from the encoder.

    It is MMPretrain's ImageClassifier in all else. With an encoder that takes its sizes from a
    checkpoint, no size of it stands in the config. Images are normalised as the checkpoint records,
    by what ``data_preprocessor`` does not name of ``mean``, ``std`` and ``to_rgb``.

    Args:
        backbone: Config of the encoder.
        neck: Config of the neck, without ``in_channels`` or ``input_features``.
        head: Config of the head, without ``in_channels``.
        **options: All other arguments of MMPretrain's ImageClassifier.

    Raises:
        ValueError: A neck or a head is given another width than the encoder has; when weights are
            loaded, if the checkpoint's images were normalised in another way; in ``loss``, if a
            label is not one of the head's classes.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | None = None,
        head: dict | None = None,
        **options: Any,
    ):
        preprocessor = options.get("data_preprocessor")
        if isinstance(backbone, dict):
            if not isinstance(preprocessor, nn.Module):
                options["data_preprocessor"] = with_recorded_images(preprocessor, backbone)
            backbone = MMPRETRAIN.build(backbone)
        width = getattr(backbone, "embed_dims", None)
        if isinstance(neck, dict):
            neck = _with_width("neck", neck, width)
        if isinstance(head, dict) and (neck is None or _name(neck) in KEEP_WIDTH):
            head = _with_width("head", head, width)
        super().__init__(backbone=backbone, neck=neck, head=head, **options)
        if isinstance(backbone, MaskedViT):
            backbone.encoder_mask.compare_images(self.data_preprocessor)

    def loss(self, inputs: Tensor, data_samples: list[DataSample]) -> dict[str, Tensor]:
        """Return the losses of the head."""
        check_labels(data_samples, getattr(self.head, "num_classes", None))
        return super().loss(inputs, data_samples)


def check_labels(samples: Sequence[DataSample], classes: int | None) -> None:
    """Raise a ValueError if a label is not one of ``classes``; None: any is."""
    labels = [sample.gt_label for sample in samples if "gt_label" in sample]
    if not classes or not labels:
        return
    largest = torch.cat(labels).max()
    if largest.device.type != "cpu":  # a read would make the host wait in each step
        torch._assert_async(largest < classes, f"a label is not below num_classes={classes}")
    elif largest >= classes:
        raise ValueError(
            f"an image has the label {largest}, so there are {largest + 1} classes or more, and "
            f"the config has model.head.num_classes={classes}, labels 0 to {classes - 1}; set "
            f"model.head.num_classes={largest + 1} or more"
        )


def check_classes(dataset: Any, head: Any) -> None:
    """Raise a ValueError if a data set has more classes than a head.

    Args:
        dataset: A data set of MMPretrain. If it names no classes, its labels are counted, of up to
            100,000 images.
        head: A head or its config. One without ``num_classes`` is not checked.
    """
    known = head.get if isinstance(head, dict) else partial(getattr, head)
    given = known("num_classes", None)
    found = classes_of(dataset) if isinstance(given, int) else None
    if found and found > given:
        names = names_of(dataset)
        between = f", {names[0]!r} to {names[-1]!r}," if names else ""
        raise ValueError(
            f"the training images have {found} classes{between} and the config has "
            f"model.head.num_classes={given}; set it to {found}"
        )


def _name(config: dict | nn.Module) -> str:
    kind = config.get("type") if isinstance(config, dict) else type(config)
    return getattr(kind, "__name__", str(kind)).split(".")[-1]


def _with_width(part: str, config: dict, width: int | None) -> dict:
    """Return the config of a neck or a head with the width of the encoder, or check it."""
    kind = MMPRETRAIN.get(config["type"]) if isinstance(config["type"], str) else config["type"]
    if kind is None or width is None:
        return config
    for key in WIDTHS:
        if key in config and config[key] != width:
            raise ValueError(
                f"model.{part}.{key} is {config[key]} in the config, and the encoder's features "
                f"have {width} values; leave it out, or set model.{part}.{key}={width}"
            )
        if key in inspect.signature(kind).parameters and key not in config:
            config = dict(config, **{key: width})
    return config
