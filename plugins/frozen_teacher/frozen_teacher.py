"""Predict the features of a frozen model (D-iGPT, arXiv 2312.02147; MVP; EVA).

Shape legend: B images, N tokens of the grid, D width of the teacher.
"""

import math
import warnings
import zlib
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid, pair
from xtra_toolkit.masks import Mask, RandomShown, mask_rng
from xtra_toolkit.masks.random_shown import visible_first
from xtra_toolkit.objective.links import Links
from xtra_toolkit.registry import MASKS, MODELS
from xtra_toolkit.targets import WrappedTarget


@MASKS.register_module()
class AttentionShown(RandomShown):
    """Draw the visible patches by the attention of a teacher's class token (MILAN).

    A patch is drawn with a probability in proportion to its weight, without replacement, so that
    visible patches are more often those that the teacher finds important (arXiv 2208.06049).
    Without images, as in ``xtra show``, all weights are equal.

    Args:
        mask_ratio: Share of the tokens that is hidden.
    """

    weighted = True

    def __init__(self, mask_ratio: float = 0.75):
        super().__init__(mask_ratio)

    def __call__(
        self,
        grid: PatchGrid,
        batch: int = 1,
        generator: torch.Generator | None = None,
        weights: Tensor | None = None,
    ) -> Mask:
        if weights is None:
            return super().__call__(grid, batch, generator)
        # the first of independent exponential times comes with a probability as its rate
        rng = mask_rng(generator)
        uniform = rng.rand(batch, grid.tokens).to(weights.device)
        times = -torch.log1p(-uniform) / weights.to(uniform.dtype).clamp(min=1e-30)
        num_visible = self._num_visible(grid, grid.tokens)
        return visible_first(grid, times.argsort(dim=1, stable=True), num_visible)


@MODELS.register_module()
class FrozenTeacher(WrappedTarget):
    """Predict the features of a frozen model, instead of pixels, over the links of another target.

    The teacher is not a submodule: the optimizer, checkpoints and DDP do not hold it, and
    ``.train()`` does not change its mode; it only moves with the target to another device or dtype.
    A checkpoint holds a checksum of the teacher, and cannot be loaded with another teacher.

    Args:
        teacher: Name of a model of MMPretrain (``mmpretrain.list_models()``), or the config of a
            backbone with its weights: ``init_cfg`` of type ``'Pretrained'``, or
            ``mmpretrain.TIMMBackbone`` with ``pretrained`` or ``checkpoint_path`` (needs timm).
            ``mmpretrain.CLIPGenerator`` with ``tokenizer_path`` is OpenAI's CLIP with its
            projection (EVA). Its last feature map is used. Its input is the output of the data
            preprocessor.
        target: Config of the target that says what predicts what, and whether the features of a
            link are normalised by their own mean and variance (``normalise=True``).
        img_size: Size to which images are resized for the teacher, (height, width) in pixels.
            Default: they are not resized.
        weights: File or URL of the weights of a named model. Default: MMPretrain's.
        mean, std: Mean and standard deviation by which the teacher's input is normalised, in pixel
            values of 0 to 255, one number or one for each channel. Default: the student's.
        everywhere: Whether every token predicts its own features, visible ones and the class token
            too (MILAN), in place of the links of ``target``. Only for CLIPGenerator.

    Raises:
        ValueError: The teacher lacks weights, or has no feature map that fits the grid.
    """

    classes = probabilities = False
    local = False
    pixels = False

    def __init__(
        self,
        teacher: str | dict,
        target: dict,
        img_size: int | tuple[int, int] | None = None,
        weights: str | None = None,
        mean: float | list[float] | None = None,
        std: float | list[float] | None = None,
        everywhere: bool = False,
    ):
        super().__init__(target)
        self.everywhere = everywhere
        if (mean is None) != (std is None):
            raise ValueError("mean and std of the teacher's input come together; give both")
        self.statistics = None if mean is None else (mean, std)
        for name, number in (("factor", 1.0), ("offset", 0.0)):  # from the student's input
            self.register_buffer(name, torch.full((1, 1, 1), number), persistent=False)
        self.img_size = None if img_size is None else pair(img_size)
        if isinstance(teacher, str):
            model, self.name = backbone_by_name(teacher, weights), teacher
        else:
            model, self.name = backbone_from_config(teacher), str(teacher.get("type"))
        if hasattr(model, "out_type"):
            model.out_type = "featmap"  # MMPretrain's ViTs return the class token by default
        model.requires_grad_(False).train(False)
        self.__dict__["frozen"] = model  # not registered as a submodule
        self.register_buffer("checksum", torch.tensor(checksum(model), dtype=torch.long))
        self.register_load_state_dict_pre_hook(check_same_teacher)

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenTeacher":
        self.frozen._apply(fn)
        return super()._apply(fn, recurse)

    def bind(self, backbone: nn.Module) -> None:
        """Note how the student's images are normalised, if the teacher's differ."""
        super().bind(backbone)
        student = backbone.encoder_mask.images
        if self.statistics is None or self.factor.is_meta:
            return
        if student is None or student["order"] != "RGB":
            raise ValueError(
                "mean and std were given for the teacher, which needs a data preprocessor that "
                "makes RGB images (to_rgb=True); set it, or leave mean and std out"
            )
        numbers = (student["mean"], student["std"], *self.statistics)
        mean, std, own_mean, own_std = (torch.tensor(n).view(-1, 1, 1) for n in numbers)
        self.factor, self.offset = std / own_std, (mean - own_mean) / own_std

    def links(self, mask: Mask, grid: PatchGrid) -> list[Links]:
        """Return the inner target's predictions, or one of each token from its own position."""
        if not self.everywhere:
            return super().links(mask, grid)
        if grid.placed != 1 or not self.gives_weights:
            raise ValueError(
                "everywhere=True predicts the features of the class token, too; set "
                "backbone.with_cls_token=True, and take mmpretrain.CLIPGenerator as the teacher"
            )
        position = torch.arange(len(mask)).view(1, -1, 1)
        return [Links(position, position, sees_target=True)]

    @property
    def gives_weights(self) -> bool:
        """Return whether the teacher is a CLIPGenerator, which returns its attention."""
        return hasattr(self.frozen, "tokenizer")

    @torch.no_grad()
    def weights(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the attention of CLIP's class token to each patch, (B, tokens), of (B, C, H, W).

        Raises:
            ValueError: The teacher has another number of patches than the grid.
        """
        attention = self.frozen(self.inputs(images))[1][:, 0, 1:]
        if attention.shape[1] != grid.tokens:
            raise ValueError(
                f"the teacher {self.name} has {attention.shape[1]} patches, and {grid} has "
                f"{grid.tokens}; choose img_size as the teacher's patch times {grid.rows}"
            )
        return attention

    def inputs(self, images: Tensor) -> Tensor:
        """Return the teacher's input, resized and normalised for it, from the student's."""
        if self.img_size is not None:
            images = F.interpolate(images, self.img_size, mode="bicubic", antialias=True)
        return images if self.statistics is None else images * self.factor + self.offset

    def width(self, grid: PatchGrid) -> int:
        """Return the width of a feature; ValueError if the teacher does not fit the grid."""
        size = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
        weight = next(self.frozen.parameters())
        image = torch.zeros(1, grid.channels, *size, device=weight.device, dtype=weight.dtype)
        return self.values(image, grid).shape[-1]

    @torch.no_grad()
    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the features of images (B, C, height, width), as (B, N, D) in raster order."""
        images = self.inputs(images)
        if self.everywhere:  # patches first, as tokens are numbered
            return self.frozen(images)[0].to(images.dtype).roll(-1, 1)
        features = feature_map(self.frozen, images)
        shape = tuple(features.shape)
        if len(shape) != 4 or shape[2] % grid.rows or shape[3] % grid.cols:
            raise ValueError(
                f"the teacher {self.name} gives features of shape {shape} for images of "
                f"{'×'.join(map(str, images.shape[2:]))} px; {grid} needs (images, width, rows, "
                f"columns), {grid.rows}×{grid.cols} or a multiple, which is averaged: choose "
                "img_size as the teacher's patch times that"
            )
        features = features.to(images.dtype)  # do not compute the loss in half precision
        return F.adaptive_avg_pool2d(features, (grid.rows, grid.cols)).flatten(2).mT


@MODELS.register_module()
class FrozenTokenizer(FrozenTeacher):
    """Predict the ids that a frozen tokenizer gives to the tokens of an image (BEiT).

    The tokenizer keeps its own dtype, and is never run under autocast.

    With a temperature it predicts the probabilities of all ids instead (mc-BEiT, arXiv 2203.15371).

    Args:
        teacher: Config of the tokenizer with its weights, see :class:`FrozenTeacher`:
            ``mmpretrain.DALL-E`` or ``mmpretrain.VQKD`` (BEiT v2), or any model that returns ids
            (B, N), or logits (B, classes, rows, columns), of which the largest counts.
        temperature: What the logits are divided by before their softmax gives the probabilities,
            for the loss 'soft_cross_entropy'. None: ids are predicted.
        target, img_size, weights, mean, std: See :class:`FrozenTeacher`.

    Raises:
        ValueError: The temperature is not above 0, or the tokenizer gives ids and no logits.
    """

    classes = True

    def __init__(self, *args: Any, temperature: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.temperature = temperature
        self.classes, self.probabilities = temperature is None, temperature is not None
        if self.probabilities and (temperature <= 0 or hasattr(self.frozen, "quantize")):
            raise ValueError(
                f"temperature={temperature} was given to the tokenizer {self.name}; it must be "
                "above 0, and the tokenizer must give logits, which VQKD does not"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenTokenizer":
        self.frozen._apply(lambda t: t.to(fn(t).device))
        return WrappedTarget._apply(self, fn, recurse)

    def width(self, grid: PatchGrid) -> int:
        """Return the number of classes."""
        if hasattr(self.frozen, "quantize"):  # VQKD
            return self.frozen.quantize.num_tokens
        weight = next(self.frozen.parameters())
        size = self.img_size or (grid.rows * grid.patch[0], grid.cols * grid.patch[1])
        image = torch.zeros(1, grid.channels, *size, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            return self.frozen(image).shape[1]

    @torch.no_grad()
    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """Return the ids of images (B, C, height, width), as (B, N, 1) in raster order.

        With a temperature, return the probabilities (B, N, classes).
        """
        if images.is_meta:  # MMPretrain's DALL-E is never on the meta device
            shape, dtype = (len(images), grid.tokens), torch.long if self.classes else images.dtype
            width = 1 if self.classes else self.width(grid)
            return torch.empty(*shape, width, dtype=dtype, device="meta")
        dtype = next(self.frozen.parameters()).dtype
        with torch.autocast(images.device.type, enabled=False):
            given = self.frozen(self.inputs(images).to(dtype))
        ids = given.argmax(1).flatten(1) if given.ndim == 4 else given
        fits = given.ndim == 2 or given.shape[2:] == (grid.rows, grid.cols)
        if ids.shape[1] != grid.tokens or not fits:
            raise ValueError(
                f"the tokenizer {self.name} gives an output of shape {tuple(given.shape)}; {grid} "
                f"needs {grid.rows}×{grid.cols} ids: choose img_size as the tokenizer's patch "
                "times that"
            )
        if self.classes:
            return ids[..., None]
        return (given.to(images.dtype) / self.temperature).softmax(1).flatten(2).mT


def feature_map(model: nn.Module, images: Tensor) -> Tensor:
    """Return the last feature map of a backbone, after its final norm, (B, D, rows, cols)."""
    inner = getattr(model, "timm_model", None)
    if hasattr(inner, "forward_intermediates"):
        return inner.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    if hasattr(model, "tokenizer"):  # CLIPGenerator: (B, 1 + N, D) with a class token, attention
        tokens = model(images)[0][:, 1:]
        return tokens.mT.unflatten(2, (math.isqrt(tokens.shape[1]), -1))
    return model(images)[-1]


def backbone_by_name(name: str, weights: str | None) -> nn.Module:
    """Return the backbone of a model of MMPretrain, with its weights."""
    from mmpretrain import get_model
    from mmpretrain.apis import ModelHub

    if weights is None and ModelHub.get(name).weights is None:
        raise ValueError(f"MMPretrain has no weights for {name!r}; name a file: weights=...")
    on_meta = torch.get_default_device().type == "meta"
    model = get_model(name, pretrained=weights is None and not on_meta)
    if weights is not None:
        load(model, weights)
    return model.backbone


def backbone_from_config(config: dict) -> nn.Module:
    """Build a backbone from its config; ValueError if the config does not name its weights."""
    from mmpretrain.registry import MODELS as MMPRETRAIN

    init = config.get("init_cfg") or {}
    file = init.get("checkpoint") if isinstance(init, dict) else None
    sources = ("pretrained", "checkpoint_path", "tokenizer_path")
    if not (file or any(config.get(name) for name in sources)):
        raise ValueError(
            f"the teacher {config.get('type')} would have random weights; name its weights: "
            "init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.'), or for "
            "TIMMBackbone pretrained=True or checkpoint_path=..."
        )
    with warnings.catch_warnings():  # CLIPGenerator loads its weights on the meta device too
        warnings.filterwarnings("ignore", message=".*copying from a non-meta parameter")
        model = MMPRETRAIN.build({key: value for key, value in config.items() if key != "init_cfg"})
    if file:
        load(model, file, init.get("prefix", ""))
    return model


def load(model: nn.Module, file: str, prefix: str = "") -> None:
    """Load weights from a file; ValueError if it lacks a parameter (MMEngine only warns)."""
    if next(model.parameters()).is_meta or torch.get_default_device().type == "meta":
        return
    prefix = prefix and prefix.rstrip(".") + "."
    state = CheckpointLoader.load_checkpoint(file, map_location="cpu")
    state = state.get("state_dict", state)
    weights = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    missing = model.load_state_dict(weights, strict=False).missing_keys
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    optional = ("num_batches_tracked", "attention_mask.json")  # features do not depend on these
    required = [n for n in model.state_dict() if n not in fixed and not n.endswith(optional)]
    absent = [name for name in missing if name in required]
    if absent:
        raise ValueError(
            f"{len(absent)} of the teacher's {len(required)} tensors are not in {file} under "
            f"the prefix {prefix!r}, the first is {absent[0]!r}; the file begins with "
            f"{next(iter(state))!r}"
        )


def checksum(model: nn.Module) -> int:
    """Return a CRC-32 of all parameters and buffers; 0 on the meta device, which has no values."""
    total = 0
    for value in model.state_dict().values():
        if not value.is_meta:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            total = zlib.crc32(raw.numpy(), total)
    return total


def check_same_teacher(target: FrozenTeacher, state_dict: dict, prefix: str, *_: object) -> None:
    """Raise a ValueError if a checkpoint that is loaded was trained with another teacher."""
    stored = state_dict.get(prefix + "checksum")
    if stored is not None and int(stored) not in (0, int(target.checksum)):
        raise ValueError(
            f"this checkpoint was trained with another teacher than {target.name} with these "
            f"weights (checksums {int(stored)} and {int(target.checksum)}); use that teacher"
        )
