"""Recognise the source of a state dict, and rename its parameters to ours."""

from torch import Tensor

from xtra_toolkit.models.encoder_mask import KEY
from xtra_toolkit.weights import aim, mae, mmpretrain, timm, xtra
from xtra_toolkit.weights.names import Ours

SOURCES = (xtra, aim, mae, mmpretrain, timm)  # the first that recognises a file converts it
ENCODER = "backbone."
POSITIONS, PATCHES = f"{ENCODER}pos_embed", f"{ENCODER}patch_embed.projection.weight"
RECORD = f"{ENCODER}{KEY}.json"


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Rename the parameters to ours, and return what the file tells of the mask.

    An encoder under our names may come without the prefix ``backbone.``.

    Raises:
        ValueError: The names are of no known source, or a parameter has no counterpart in ours.
    """
    source = next((s for s in SOURCES if s.recognises(state)), None)
    if source:
        return source.to_ours(state)
    if PATCHES.removeprefix(ENCODER) in state:
        state = with_prefix(state)
    # an encoder with rotary positions alone has no table, and our record of it
    if PATCHES not in state or not {POSITIONS, RECORD} & state.keys():
        known = ", ".join(f"{s.NAME} ({s.MARK!r})" for s in SOURCES)
        raise ValueError(
            f"no encoder was found; known are {known} and ours ({POSITIONS!r}); the first name "
            f"in the file: {next(iter(state), None)!r}"
        )
    return Ours(dict(state), None)


def with_prefix(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name an encoder's parameters as a pretrainer or a classifier does, ``backbone.NAME``."""
    return {ENCODER + name: value for name, value in encoder.items()}


def without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the encoder's parameters of a pretrainer or a classifier, without the prefix.

    The mask token and the fusion of layers are left out, which only pretraining uses.
    """
    encoder = {n.removeprefix(ENCODER): v for n, v in state.items() if n.startswith(ENCODER)}
    left_out = "mask_token", "fusion."
    return {name: value for name, value in encoder.items() if not name.startswith(left_out)}
