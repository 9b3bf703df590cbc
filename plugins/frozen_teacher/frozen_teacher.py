"""A frozen model's features as the target (D-iGPT, arXiv 2312.02147; MVP; EVA).

Shape legend: B images, N tokens of the grid, D width of the teacher.
"""

import zlib
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from xtra_toolkit.grid import PatchGrid, pair
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets import WrappedTarget


@MODELS.register_module()
class FrozenTeacher(WrappedTarget):
    """Another target's links, of a frozen model's features instead of pixels.

    The teacher is no part of the module tree: it has no place in the optimizer, in checkpoints or
    in DDP, and ``.train()`` does not reach it; it only follows to another device or dtype. What a
    checkpoint holds of it is a checksum, and another teacher is refused when it is loaded.

    Args:
        teacher: the name of a model of MMPretrain's (``mmpretrain.list_models()``), or the config
            of a backbone with its weights: ``init_cfg`` of type ``'Pretrained'``, or
            ``mmpretrain.TIMMBackbone`` with ``pretrained`` or ``checkpoint_path`` (needs timm).
            Its last feature map is taken. It reads images as the data preprocessor gives them.
        target: config of the target that says what predicts what, and whether the features of a
            link are normalised (``normalise=True``, their own mean and variance).
        img_size: the teacher's images, (height, width) in pixels, resized. Default: as they are.
        weights: file or address of the weights of a named model. Default: MMPretrain's.

    Raises:
        ValueError: the teacher lacks weights, or has no feature map that fits the grid.
    """

    classes = False
    local = False
    pixels = False

    def __init__(
        self,
        teacher: str | dict,
        target: dict,
        img_size: int | tuple[int, int] | None = None,
        weights: str | None = None,
    ):
        super().__init__(target)
        self.img_size = None if img_size is None else pair(img_size)
        if isinstance(teacher, str):
            model, self.name = named(teacher, weights), teacher
        else:
            model, self.name = configured(teacher), str(teacher.get("type"))
        if hasattr(model, "out_type"):
            model.out_type = "featmap"  # MMPretrain's ViTs give a class token by default
        model.requires_grad_(False).train(False)
        self.__dict__["frozen"] = model
        self.register_buffer("checksum", torch.tensor(checksum(model), dtype=torch.long))
        self.register_load_state_dict_pre_hook(refuse_another)

    def _apply(self, fn: Any, recurse: bool = True) -> "FrozenTeacher":
        self.frozen._apply(fn)
        return super()._apply(fn, recurse)

    def width(self, grid: PatchGrid) -> int:
        """Of a feature; the teacher is tried on one image, so that it fits or is refused here."""
        size = grid.rows * grid.patch[0], grid.cols * grid.patch[1]
        at = next(self.frozen.parameters())
        image = torch.zeros(1, grid.channels, *size, device=at.device, dtype=at.dtype)
        return self.values(image, grid).shape[-1]

    @torch.no_grad()
    def values(self, images: Tensor, grid: PatchGrid) -> Tensor:
        """(B, C, height, width) to the features at each token, (B, N, D) in raster order."""
        if self.img_size is not None:
            images = F.interpolate(images, self.img_size, mode="bicubic", antialias=True)
        features = feature_map(self.frozen, images)
        shape = tuple(features.shape)
        if len(shape) != 4 or shape[2] % grid.rows or shape[3] % grid.cols:
            raise ValueError(
                f"the teacher {self.name} gives features of shape {shape} for images of "
                f"{'×'.join(map(str, images.shape[2:]))} px; {grid} needs (images, width, rows, "
                f"columns), {grid.rows}×{grid.cols} or a multiple, which is averaged: choose "
                "img_size as the teacher's patch times that"
            )
        features = features.to(images.dtype)  # the loss is not taken in half precision
        return F.adaptive_avg_pool2d(features, (grid.rows, grid.cols)).flatten(2).mT


def feature_map(model: nn.Module, images: Tensor) -> Tensor:
    """The last feature map of a backbone, normed where the model norms it, (B, D, rows, cols)."""
    inner = getattr(model, "timm_model", None)
    if hasattr(inner, "forward_intermediates"):
        return inner.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    return model(images)[-1]


def named(name: str, weights: str | None) -> nn.Module:
    """The backbone of a model of MMPretrain's, with weights."""
    from mmpretrain import get_model
    from mmpretrain.apis import ModelHub

    if weights is None and ModelHub.get(name).weights is None:
        raise ValueError(f"MMPretrain has no weights for {name!r}; say where: weights=...")
    real = torch.get_default_device().type != "meta"
    model = get_model(name, pretrained=weights is None and real)
    if weights is not None:
        load(model, weights)
    return model.backbone


def configured(config: dict) -> nn.Module:
    """A backbone out of its config, which must say where its weights are."""
    from mmpretrain.registry import MODELS as MMPRETRAIN

    init = config.get("init_cfg") or {}
    file = init.get("checkpoint") if isinstance(init, dict) else None
    if not (file or config.get("pretrained") or config.get("checkpoint_path")):
        raise ValueError(
            f"the teacher {config.get('type')} would have random weights; say where its own are: "
            "init_cfg=dict(type='Pretrained', checkpoint=..., prefix='backbone.'), or for "
            "TIMMBackbone pretrained=True or checkpoint_path=..."
        )
    model = MMPRETRAIN.build({key: value for key, value in config.items() if key != "init_cfg"})
    if file:
        load(model, file, init.get("prefix", ""))
    return model


def load(model: nn.Module, file: str, prefix: str = "") -> None:
    """Weights out of a file; ValueError where a parameter is not in it (MMEngine only warns)."""
    if next(model.parameters()).is_meta:
        return
    prefix = prefix and prefix.rstrip(".") + "."
    state = CheckpointLoader.load_checkpoint(file, map_location="cpu")
    state = state.get("state_dict", state)
    mine = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
    missing = model.load_state_dict(mine, strict=False).missing_keys
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    counters = ("num_batches_tracked", "attention_mask.json")  # nothing that a feature follows
    told = [n for n in model.state_dict() if n not in fixed and not n.endswith(counters)]
    absent = [name for name in missing if name in told]
    if absent:
        raise ValueError(
            f"{len(absent)} of the teacher's {len(told)} tensors are not in {file} under "
            f"the prefix {prefix!r}, the first is {absent[0]!r}; the file begins with "
            f"{next(iter(state))!r}"
        )


def checksum(model: nn.Module) -> int:
    """Of all parameters and buffers; 0 on the meta device, where there are none."""
    total = 0
    for value in model.state_dict().values():
        if not value.is_meta:
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            total = zlib.crc32(raw.numpy(), total)
    return total


def refuse_another(target: FrozenTeacher, state_dict: dict, prefix: str, *_: object) -> None:
    """A hook before loading: training goes on with the teacher that it began with."""
    stored = state_dict.get(prefix + "checksum")
    if stored is not None and int(stored) not in (0, int(target.checksum)):
        raise ValueError(
            f"this checkpoint was trained with another teacher than {target.name} with these "
            f"weights (checksums {int(stored)} and {int(target.checksum)}); name that teacher"
        )
