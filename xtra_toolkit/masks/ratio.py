"""Draw the share of the tokens that is hidden, as MAR (arXiv 2406.11838) and iBOT do."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xtra_toolkit.masks.rng import MaskRNG, mask_rng
from xtra_toolkit.objective.mask import Mask

PER = ("image", "batch")
SLACK = 1e-9  # a product such as 0.7 * 10 may lie a little above the whole number that is meant


class MaskRatio:
    """Give the share of the tokens that is hidden: a number, or one that is drawn.

    Images then hide different numbers of tokens, so an encoder needs ``mask_tokens=True``.

    Args:
        low, high: The share lies from ``low`` to ``high``; above 0, and at most 1.
        mean, std: Mean and standard deviation of a normal distribution that is truncated to that
            range. None: the distribution is uniform.
        per: 'image': each image has a share of its own. 'batch': all images of a step share one, on
            all processes.

    Raises:
        ValueError: The numbers define no distribution.
    """

    def __init__(
        self,
        low: float,
        high: float,
        mean: float | None = None,
        std: float | None = None,
        per: str = "image",
    ):
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"a mask ratio from low={low} to high={high} was given; 0 < low <= high <= 1 is "
                "required"
            )
        if per not in PER:
            raise ValueError(f"per={per!r} was given for a mask ratio; valid: {', '.join(PER)}")
        if (mean is None) != (std is None) or (std is not None and std <= 0):
            raise ValueError(
                f"mean={mean} and std={std} were given for a mask ratio; give both, and std above "
                "0, or leave both out for a uniform distribution"
            )
        self.low, self.high, self.mean, self.std, self.per = low, high, mean, std, per
        first, last = self._ends() if std is not None else (0, 1)
        if first == last and low < high:
            raise ValueError(
                f"mean={mean} and std={std} were given for a mask ratio from {low} to {high}, "
                "which they practically never reach; give a mean nearer to it, or a larger std"
            )

    @classmethod
    def of(cls, given: float | dict | None) -> "MaskRatio | None":
        """Build a drawn ratio from its arguments; return None for a number."""
        if not isinstance(given, dict):
            return None
        try:
            return cls(**given)
        except TypeError as error:
            raise ValueError(f"a mask ratio cannot be drawn from {given}: {error}") from error

    def draw(self, rng: MaskRNG, batch: int) -> Tensor:
        """Draw the share of each image, (batch, 1); (1, 1) if all images share it."""
        u = rng.shared.rand(1) if self.per == "batch" else rng.rand(batch, 1)
        return self.quantile(u.double().view(-1, 1))

    def quantile(self, u: Tensor) -> Tensor:
        """Return the share below which a part ``u`` of all draws lies."""
        if self.std is None:
            return self.low + (self.high - self.low) * u
        first, last = self._ends()
        normal = torch.special.ndtri(first + (last - first) * u)
        return (self.mean + self.std * normal).clamp(self.low, self.high)

    def _ends(self) -> tuple[float, float]:
        """Return which parts of the whole normal distribution lie below ``low`` and ``high``."""
        scaled = ((end - self.mean) / self.std / math.sqrt(2) for end in (self.low, self.high))
        first, last = (0.5 * (1 + math.erf(value)) for value in scaled)
        return first, last

    def most(self, tokens: int) -> int:
        """Return how many of the tokens are hidden under the largest share."""
        return math.ceil(self.high * tokens - SLACK)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}"


def count_hidden(ratio: Tensor, tokens: int) -> Tensor:
    """Return how many of the tokens are hidden, rounded up as in MAR; int64."""
    return (ratio * tokens - SLACK).ceil().long()


def extreme_ratios(drawn: MaskRatio | None, draw: Callable[[MaskRNG, Tensor], Mask]) -> list[Mask]:
    """Return a draw of the smallest and of the largest ratio; nothing for a fixed one."""
    ends = (drawn.low, drawn.high) if drawn is not None else ()
    return [draw(mask_rng(None), torch.tensor([[end]], dtype=torch.float64)) for end in ends]
