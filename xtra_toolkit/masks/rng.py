"""What a mask draws with: numbers of each image's own, or shared by all images of a step.

How a step's images are spread over micro-batches, workers and processes must not change their
masks, or a run could not go on elsewhere. So in training no stream of numbers passes from image to
image: an image's numbers are hashed from a seed of its own (splitmix64, on the device).
"""

import math

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
MIXING = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class MaskRNG:
    """Random numbers of a torch.Generator, on its device; see :func:`draws`."""

    def __init__(self, generator: torch.Generator):
        self._generator, self.device = generator, generator.device

    @property
    def shared(self) -> "MaskRNG":
        """Draws that all images of a step have in common, on all processes; of any shape."""
        return self

    def rand(self, *shape: int) -> Tensor:
        """Uniform over 0 to 1, 1 excluded; the first dimension of the shape is the image."""
        return torch.rand(shape, generator=self._generator, device=self.device)

    def randint(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        """Whole numbers, uniform over low to high, high excluded; the first dimension likewise."""
        return torch.randint(low, high, shape, generator=self._generator, device=self.device)


class CounterRNG(MaskRNG):
    """Random numbers that follow from seeds.

    Args:
        seeds: (B,) int64, of each image; or (), for draws that are shared.
        step: (), int64, the seed of :attr:`shared`.
    """

    def __init__(self, seeds: Tensor, step: Tensor | None = None):
        self.seeds, self.device, self._drawn = seeds, seeds.device, 0
        self._shared = self if step is None else CounterRNG(step)

    @property
    def shared(self) -> MaskRNG:
        """Of the step's seed."""
        return self._shared

    def bits(self, *shape: int) -> Tensor:
        """int64, all 64 bits random; each call goes on where the last one stopped."""
        images = self.seeds.shape
        assert shape[: len(images)] == images, f"{shape} were drawn for {tuple(images)} images"
        count = math.prod(shape[len(images) :])
        at = torch.arange(self._drawn + 1, self._drawn + count + 1, device=self.device)
        self._drawn += count
        z = self.seeds[..., None] + at * signed(GOLDEN)
        for shift, factor in MIXING:
            z = (z ^ _shifted(z, shift)) * signed(factor)
        return (z ^ _shifted(z, 31)).view(shape)

    def rand(self, *shape: int) -> Tensor:
        """As torch.rand: the highest 24 bits, which is what float32 holds."""
        return _shifted(self.bits(*shape), 40) * 2.0**-24

    def randint(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        """As torch.randint, of the highest 32 bits."""
        return low + (_shifted(self.bits(*shape), 32) * (high - low) >> 32)


class StepGenerator(torch.Generator):
    """The generator of a batch in training, which knows the seeds of the batch's images.

    A mask that draws from it as from any torch.Generator is reproducible too, but changes with
    the batch that an image happens to be in.

    Args:
        images: the seed of each image.
        step: a seed that all images of the step share, on all processes.
        device: to draw on.
    """

    def __new__(cls, images: list[int], step: int, device: torch.device | str) -> "StepGenerator":
        return super().__new__(cls, device)

    def __init__(self, images: list[int], step: int, device: torch.device | str):
        self.manual_seed(hash((step, *images)) % 2**63)
        seeds = torch.tensor([signed(seed) for seed in (step, *images)])
        seeds = seeds.to(device, non_blocking=True)  # which the host does not wait for
        self.draws = CounterRNG(seeds[1:], seeds[0])


def mask_rng(generator: torch.Generator | None) -> MaskRNG:
    """What a mask draws with, from the ``generator`` that it was given.

        mask_rng(generator).rand(batch, tokens)            # each image's own
        mask_rng(generator).shared.randint(0, 4, (1,))     # one for all images of the step

    Without a generator, in evaluation, it always draws the same.
    """
    if isinstance(generator, StepGenerator):
        return generator.draws
    return MaskRNG(fixed(generator))


def fixed(generator: torch.Generator | None) -> torch.Generator:
    """The generator given, or for evaluation a fresh one that always draws the same."""
    return torch.Generator().manual_seed(0) if generator is None else generator


def signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def _shifted(z: Tensor, by: int) -> Tensor:
    """To the right, with zeros from the left: ``>>`` of an int64 would repeat its sign."""
    return (z >> by) & (2 ** (64 - by) - 1)
