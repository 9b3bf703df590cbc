"""Load an encoder and the transform of its images from a checkpoint: ``xtra_toolkit.load``.

Shape legend: B images, C channels, N patch tokens of (rows, cols), D width.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from xtra_toolkit.masks.build import check_registered
from xtra_toolkit.models.encoder_mask import KEY, unpack
from xtra_toolkit.models.encoder_record import encoder_options
from xtra_toolkit.models.masked_vit import MaskedViT
from xtra_toolkit.weights.image_transform import Transform
from xtra_toolkit.weights.read import read_state
from xtra_toolkit.weights.sources import ENCODER, PATCHES

OUTPUTS = ("mean", "tokens", "map", "class_token")
ADVICE = (
    "train or save it with this version, or convert it: xtra convert OLD NEW --to encoder, with "
    "options for what the file does not tell"
)


class Encoder(nn.Module):
    """Turn images into features by a trained encoder, as a plain module under its own mask.

    Args:
        vit: The encoder.
        output: ``'mean'`` gives the mean of the patch tokens, (B, D); ``'tokens'`` the patch
            tokens in raster order, (B, N, D); ``'map'`` the patch tokens as (B, D, rows, cols);
            ``'class_token'`` the class token, (B, D), if the encoder has one.

    Raises:
        ValueError: The output is none of these, or the encoder has no class token.
    """

    def __init__(self, vit: MaskedViT, output: str = "mean"):
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"output={output!r} was given; valid: {', '.join(OUTPUTS)}")
        if output == "class_token" and vit.cls_token is None:
            raise ValueError(
                "output='class_token' was given, and this encoder has none; take 'mean'"
            )
        self.vit, self.output, self.width = vit, output, vit.embed_dims
        vit.out_type = {"map": "featmap", "class_token": "cls_token"}.get(output, "raw")

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised images, (B, C, height, width), see ``output``."""
        features = self.vit(images)[-1]
        if self.output in ("map", "class_token"):
            return features
        tokens = features[:, self.vit.grid.extra :]
        return tokens.mean(1) if self.output == "mean" else tokens


def load(
    checkpoint: str | Path, output: str = "mean", attention: str = "auto"
) -> tuple[Encoder, Transform]:
    """Load a trained encoder and the transform of its images.

    Everything is read from the checkpoint: architecture, image size, mask and normalisation. Only
    tensors and plain values are read; nothing in the file is executed.

    Args:
        checkpoint: A file of a training run, or of ``xtra convert``.
        output: The kind of features, see :class:`Encoder`.
        attention: The attention back end, see :func:`xtra_toolkit.attention.attention`.

    Returns:
        The encoder, in evaluation mode on the CPU, and its transform.

    Raises:
        ValueError: The file holds no encoder, or does not tell its sizes or its normalisation.
    """
    vit, images = load_vit(checkpoint, attention=attention)
    if images is None:
        raise ValueError(
            f"{checkpoint} does not tell how images are normalised for its encoder; {ADVICE}"
        )
    size = vit.grid.img_size
    transform = Transform(size, tuple(images["mean"]), tuple(images["std"]), images["order"])
    encoder = Encoder(vit, output).eval()
    with torch.no_grad():  # compute the mask's tables now: torch.export cannot trace that
        encoder(torch.zeros(1, vit.grid.channels, *size))
    return encoder, transform


def load_vit(checkpoint: str | Path, **options: object) -> tuple[MaskedViT, dict | None]:
    """Load the encoder of a checkpoint, and its record of the images (None if it has none).

    Args:
        checkpoint: See :func:`load`.
        **options: Further arguments of MaskedViT.

    Raises:
        ValueError: The file holds no encoder, or does not tell its sizes.
    """
    state, record = read_record(checkpoint)
    shape = encoder_options(record, state)
    final_norm = "ln1.weight" in state
    vit = MaskedViT(mask=record["mask"], final_norm=final_norm, **shape, out_type="raw", **options)
    state = {n: v for n, v in state.items() if not n.startswith("ln2.")}
    vit.load_state_dict(state)
    vit.encoder_mask.images = record.get("images")
    return vit.eval(), record.get("images")


def read_record(checkpoint: str | Path) -> tuple[dict[str, Tensor], dict]:
    """Read the encoder's tensors, without prefix, and its record.

    Raises:
        ValueError: There is no such file, or it holds no encoder or no record of it.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {str(path)!r}")
    state = read_state(path)
    if any(name.startswith(ENCODER) for name in state):
        state = {n.removeprefix(ENCODER): v for n, v in state.items() if n.startswith(ENCODER)}
    if PATCHES.removeprefix(ENCODER) not in state:
        raise ValueError(
            f"{path} holds no encoder of this toolkit; its first tensor is "
            f"{next(iter(state), None)!r}; convert it first (xtra convert --to encoder)"
        )
    record = unpack(state.get(f"{KEY}.json"))
    if record is None or not record.get("encoder"):
        raise ValueError(f"{path} does not tell the sizes of its encoder; {ADVICE}")
    check_registered(record["mask"])
    return state, record
