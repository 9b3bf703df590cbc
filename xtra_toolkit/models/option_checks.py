"""Check the arguments of a MaskedViT, for which MMPretrain raises bare assertions or nothing."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.models.encoder_record import ARCH

ALL = "all"  # as frozen_stages


def check_options(archs: Mapping[str, Mapping], options: Mapping[str, Any]) -> Mapping[str, int]:
    """Check the architecture and the numbers that must fit its depth; return the architecture.

    Args:
        archs: The architectures that have a name, ``arch_zoo`` of MMPretrain's ViT.
        options: The arguments of MMPretrain's ViT.

    Raises:
        ValueError: The architecture is unknown or incomplete, its heads do not divide its width,
            or a layer is named that it does not have.
    """
    arch = _arch(archs, options.get("arch", "base"))
    width, depth, heads = (arch[name] for name in ("embed_dims", "num_layers", "num_heads"))
    if width % heads:
        fits = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0 and width // n >= 8)
        raise ValueError(
            f"arch has num_heads={heads}, which does not divide its width embed_dims={width}; "
            f"heads that do: {fits or 1}"
        )
    frozen = options.get("frozen_stages", -1)
    if frozen != ALL and (not isinstance(frozen, int) or frozen > depth):
        raise ValueError(
            f"frozen_stages={frozen!r} was given, and the encoder has {depth} layers; set "
            f"model.backbone.frozen_stages={ALL!r} to freeze all of them, or -1 for none"
        )
    indices = options.get("out_indices", -1)
    for index in [indices] if isinstance(indices, int) else indices:
        if not -depth <= index < depth:
            raise ValueError(
                f"out_indices={indices!r} names layer {index}, and the encoder has {depth} layers, "
                f"0 to {depth - 1}, or -{depth} to -1 from the end"
            )
    return arch


def refuse_other_size(own: PatchGrid, given: PatchGrid) -> None:
    """Raise a ValueError if images have another size than those that an encoder was trained on."""
    if (own.rows, own.cols) == (given.rows, given.cols):
        return
    sizes = ["{}×{} px".format(*grid.img_size) for grid in (own, given)]
    raise ValueError(
        f"the encoder takes images of {sizes[0]}, and was given {sizes[1]}. Set the size in the "
        "pipelines: scale of RandomResizedCrop or Resize and crop_size of CenterCrop in "
        "train_dataloader.dataset.pipeline, val_dataloader.dataset.pipeline, "
        "test_dataloader.dataset.pipeline, and bank_dataloader.dataset.pipeline of kNN. If other "
        "sizes are intended, set model.backbone.dynamic_img_size=True: the position embeddings are "
        "then resized, and the features are others"
    )


def check_patch_embed(projection: nn.Module, grid: PatchGrid) -> None:
    """Check that the patch embedding maps each patch by itself.

    Raises:
        ValueError: ``patch_cfg`` makes it another layer, or gives it a stride, padding or dilation.
    """
    expected = dict(
        kernel_size=grid.patch, stride=grid.patch, padding=(0, 0), dilation=(1, 1), groups=1
    )
    given = {name: getattr(projection, name, None) for name in expected}
    if type(projection) is nn.Conv2d and given == expected:
        return
    differs = ", ".join(f"{n}={given[n]}" for n in expected if given[n] != expected[n])
    raise ValueError(
        f"patch_cfg makes the patch embedding a {type(projection).__name__} of {differs}; each "
        f"patch is embedded by itself, which needs a Conv2d of kernel_size=stride={grid.patch} "
        "without padding or dilation; leave these out of patch_cfg and set patch_size"
    )


def check_registers(registers: Any) -> int:
    """Return the number of registers; raise a ValueError if it is no number of tokens."""
    if type(registers) is not int or registers < 0:
        raise ValueError(
            f"registers={registers!r} was given; it is a number of tokens, 0 or more (4 in DINOv2 "
            "and DINOv3)"
        )
    return registers


def _arch(archs: Mapping[str, Mapping], arch: Any) -> Mapping[str, int]:
    """Return the sizes of an architecture that is given by its name or as a dict."""
    if isinstance(arch, str):
        if arch.lower() not in archs:
            similar = sorted(name for name in archs if arch.lower() in name.split("-"))
            hint = f"did you mean {', '.join(map(repr, similar))}? " if similar else ""
            raise ValueError(
                f"arch={arch!r} was given, which is no architecture of MMPretrain's "
                f"VisionTransformer; {hint}valid: {', '.join(sorted(archs))}, or a dict with "
                f"{', '.join(ARCH)}"
            )
        return archs[arch.lower()]
    sizes = [arch.get(name) for name in ARCH] if isinstance(arch, Mapping) else []
    if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(
            f"arch={arch!r} was given; an architecture is a name or a dict with {', '.join(ARCH)}, "
            "each a whole number above 0"
        )
    return arch
