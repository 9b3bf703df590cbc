"""Draw the random numbers of masks and heads, for each image or for all images of a step.

A run may be resumed with other micro-batches, workers or processes, and this must not change the
masks of the images. In training, therefore, the numbers of an image do not depend on other images:
they are hashed from the seed of the image (splitmix64, on the device).
"""

import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
SEPARATE = 0xD1B54A32D192ED03
MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class MaskRNG:
    """Draw from a torch.Generator, on its device; see :func:`mask_rng`."""

    def __init__(self, generator: torch.Generator):
        self._generator, self.device = generator, generator.device

    @property
    def shared(self) -> "MaskRNG":
        """Return numbers that all images of a step share, on all processes. Their shape is free."""
        return self

    def rand(self, *shape: int) -> Tensor:
        """Draw uniformly from 0 to 1, 1 excluded; the first dimension of the shape is the image."""
        return torch.rand(shape, generator=self._generator, device=self.device)

    def randn(self, *shape: int) -> Tensor:
        """Draw from the standard normal; the first dimension of the shape is the image."""
        return torch.randn(shape, generator=self._generator, device=self.device)

    def randint(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        """Draw integers uniformly from ``low`` to ``high``, ``high`` excluded.

        The first dimension of the shape is the image.
        """
        return torch.randint(low, high, shape, generator=self._generator, device=self.device)


class CounterRNG(MaskRNG):
    """Compute random numbers from seeds and a counter.

    Args:
        seeds: (B,) int64, the seed of each image; or (), for numbers that images share.
        step: () int64, the seed of :attr:`shared`.
    """

    def __init__(self, seeds: Tensor, step: Tensor | None = None):
        self.seeds, self.device, self._drawn = seeds, seeds.device, 0
        self._shared = self if step is None else CounterRNG(step)

    @property
    def shared(self) -> MaskRNG:
        """Return the numbers from the seed of the step."""
        return self._shared

    def bits(self, *shape: int) -> Tensor:
        """Draw int64 numbers of which all 64 bits are random.

        Each call continues where the last one stopped.
        """
        images = self.seeds.shape
        assert shape[: len(images)] == images, f"{shape} were drawn for {tuple(images)} images"
        count = math.prod(shape[len(images) :])
        counter = torch.arange(self._drawn + 1, self._drawn + count + 1, device=self.device)
        self._drawn += count
        z = self.seeds[..., None] + counter * signed(GOLDEN)
        for shift, factor in MIXING:
            z = (z ^ _shift_right(z, shift)) * signed(factor)
        return (z ^ _shift_right(z, 31)).view(shape)

    def rand(self, *shape: int) -> Tensor:
        """Draw as torch.rand, from the highest 24 bits, the precision of float32."""
        return _shift_right(self.bits(*shape), 40) * 2.0**-24

    def randn(self, *shape: int) -> Tensor:
        """Draw as torch.randn, by the transform of Box and Muller on two halves of 32 bits.

        The largest number that can be drawn is 6.7.
        """
        images = len(self.seeds.shape)
        count = math.prod(shape[images:])
        bits = self.bits(*shape[:images], -(-count // 2))
        first = (_shift_right(bits, 32) + 1) * 2.0**-32  # above 0
        radius, angle = (-2 * first.log()).sqrt(), (bits & (2**32 - 1)) * (2 * math.pi * 2.0**-32)
        pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return pairs.flatten(-2)[..., :count].reshape(shape)

    def separate(self) -> "CounterRNG":
        """Return numbers of the same images that are independent of these."""
        seeds = CounterRNG(self.seeds ^ signed(SEPARATE)).bits(*self.seeds.shape)
        return CounterRNG(seeds, None if self._shared is self else self._shared.separate().seeds)

    def randint(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        """Draw as torch.randint, from the highest 32 bits."""
        return low + (_shift_right(self.bits(*shape), 32) * (high - low) >> 32)


class StepGenerator(torch.Generator):
    """Hold the seeds of the images of a training batch, as its generator.

    A mask may also draw from it as from any torch.Generator. It is then reproducible, but the mask
    of an image depends on the batch that the image is in.

    Args:
        images: Seed of each image.
        step: A seed that all images of the step share, on all processes.
        device: Device on which the numbers are drawn.
    """

    def __new__(cls, images: list[int], step: int, device: torch.device | str) -> "StepGenerator":
        return super().__new__(cls, device)

    def __init__(self, images: list[int], step: int, device: torch.device | str):
        self.manual_seed(hash((step, *images)) % 2**63)
        seeds = torch.tensor([signed(seed) for seed in (step, *images)])
        seeds = seeds.to(device, non_blocking=True)  # so that the host does not wait
        self.draws = CounterRNG(seeds[1:], seeds[0])


def mask_rng(generator: torch.Generator | None) -> MaskRNG:
    """Return the random numbers that a mask draws from, given its argument ``generator``.

        mask_rng(generator).rand(batch, tokens)            # different for each image
        mask_rng(generator).shared.randint(0, 4, (1,))     # the same for all images of the step

    Without a generator, in evaluation, the numbers are always the same.
    """
    if isinstance(generator, StepGenerator):
        return generator.draws
    return MaskRNG(fixed(generator))


def head_rng(generator: torch.Generator | None) -> MaskRNG:
    """Return the random numbers that the loss of a head draws from.

    They are those of the images too, and independent of the numbers of the mask.
    """
    if isinstance(generator, StepGenerator):
        return generator.draws.separate()
    return MaskRNG(fixed(generator))


def fixed(generator: torch.Generator | None) -> torch.Generator:
    """Return the generator; if there is none (evaluation), a new one with a fixed seed."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def signed(number: int) -> int:
    """Return the int64 that has the same 64 bits as ``number``."""
    return (number + 2**63) % 2**64 - 2**63


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift to the right and fill with zeros; ``>>`` alone would fill with the sign of an int64."""
    return (z >> bits) & (2 ** (64 - bits) - 1)
