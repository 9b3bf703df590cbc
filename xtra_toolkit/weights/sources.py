"""Whose names a state dict has, and the same under ours."""

from torch import Tensor

from xtra_toolkit.weights import aim, mae, mmpretrain, timm, xtra
from xtra_toolkit.weights.names import Ours

SOURCES = (xtra, aim, mae, mmpretrain, timm)  # the first that recognises a file reads it
ENCODER = "backbone."
POSITIONS, PATCHES = f"{ENCODER}pos_embed", f"{ENCODER}patch_embed.projection.weight"


def to_ours(state: dict[str, Tensor]) -> Ours:
    """Under our names, and what the file tells of the mask; ours may come without a prefix.

    Raises:
        ValueError: nobody's names, or a parameter that has no place in ours.
    """
    source = next((s for s in SOURCES if s.recognises(state)), None)
    if source:
        return source.to_ours(state)
    if PATCHES.removeprefix(ENCODER) in state:
        state = prefixed(state)
    if not {POSITIONS, PATCHES} <= state.keys():
        known = ", ".join(f"{s.NAME} ({s.MARK!r})" for s in SOURCES)
        raise ValueError(
            f"no encoder was found; known are {known} and ours ({POSITIONS!r}); the first name "
            f"given: {next(iter(state), None)!r}"
        )
    return Ours(dict(state), None)


def prefixed(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder's parameters where a pretrainer or a classifier has them."""
    return {ENCODER + name: value for name, value in encoder.items()}
