"""Test that the random numbers of masks are uniform and depend on the image alone."""

import pytest
import torch
from helpers.accelerator import META, NoCopies, NoLists
from scipy.stats import chisquare, kstest

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.masks import BlockCausal, PrefixCausal, RandomShown, mask_rng
from xtra_toolkit.masks.rng import CounterRNG, StepGenerator, head_rng, signed

GRID = PatchGrid(4, 4)


def gen(images, step=5):
    return StepGenerator(images, step, "cpu")


def test_the_bits_are_splitmix64s():
    """Compare with the published outputs for seed 1234567 (Vigna, prng.di.unimi.it)."""
    drawn = CounterRNG(torch.tensor([1234567]))
    bits = [*drawn.bits(1, 2)[0].tolist(), *drawn.bits(1, 3)[0].tolist()]  # and it goes on
    assert [bit % 2**64 for bit in bits] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert signed(2**64 - 1) == -1 and signed(2**63 - 1) == 2**63 - 1


@pytest.mark.parametrize("across", ["images", "numbers"])
def test_uniform(across):
    """Apply the tests of Kolmogorov and Pearson along one stream and over neighbouring seeds."""
    seeds, count = ([7], 20000) if across == "numbers" else (list(range(20000)), 1)
    drawn = mask_rng(gen(seeds))
    numbers = drawn.rand(len(seeds), count).flatten()
    assert numbers.dtype == torch.float32 and numbers.min() >= 0 and numbers.max() < 1
    assert kstest(numbers.double().numpy(), "uniform").pvalue > 0.01
    whole = drawn.randint(-3, 8, (len(seeds), count)).flatten()
    assert chisquare((whole + 3).bincount(minlength=11)).pvalue > 0.01
    assert set(whole.tolist()) == set(range(-3, 8))
    both = torch.stack([numbers[:-1], numbers[1:]])  # nor do neighbours go together
    assert torch.corrcoef(both)[0, 1].abs() < 0.03


@pytest.mark.parametrize("across", ["images", "numbers"])
def test_normal(across):
    """Apply Kolmogorov's test along one stream, of an odd number, and over neighbouring seeds."""
    seeds, count = ([7], 19999) if across == "numbers" else (list(range(20000)), 1)
    numbers = mask_rng(gen(seeds)).randn(len(seeds), count, 1)
    assert numbers.dtype == torch.float32 and numbers.shape == (len(seeds), count, 1)
    numbers = numbers.flatten()
    assert kstest(numbers.double().numpy(), "norm").pvalue > 0.01
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 0.03
    assert numbers.abs().max() > 3.5


def test_heads_draw_other_numbers_than_masks():
    seeds = list(range(2000))
    one, other = (rng(gen(seeds)).rand(2000, 4).flatten() for rng in (mask_rng, head_rng))
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.04
    assert kstest(other.double().numpy(), "uniform").pvalue > 0.01
    assert torch.equal(head_rng(gen(seeds[5:7], step=9)).rand(2, 4).flatten(), other[20:28])


def test_masks_are_uniform():
    """Check AIM's prefixes, MAE's orders and XTRA's block orders over many images or steps."""
    numbers = torch.randint(2**62, (4096,), generator=torch.Generator().manual_seed(0))
    seeds = [int(number) for number in numbers]
    prefixes = PrefixCausal()(GRID, 4096, gen(seeds)).context.sum(1)
    assert chisquare(prefixes.bincount(minlength=16)[1:]).pvalue > 0.001
    order = RandomShown()(GRID, 4096, gen(seeds)).order
    assert (order.sort(1).values == torch.arange(16)).all()
    for token in (0, 7, 15):
        assert chisquare((order == token).sum(0)).pvalue > 0.001
    random = BlockCausal(2, order="random")
    firsts = [int(random(GRID, 2, gen([1, 2], step)).order[0]) for step in seeds[:400]]
    assert chisquare(torch.tensor(firsts).unique(return_counts=True)[1]).pvalue > 0.001


def test_numbers_of_heads_are_separate_and_share_those_of_the_step():
    one, other = (head_rng(gen([seed])).shared.rand(4) for seed in (1, 2))  # of two processes
    assert torch.equal(one, other)
    assert torch.equal(head_rng(gen([1, 2])).shared.rand(4), one)
    assert not torch.equal(mask_rng(gen([1])).shared.rand(4), one)
    assert not torch.equal(head_rng(gen([1], step=6)).shared.rand(4), one)


def test_an_images_numbers_are_its_own_and_those_shared_are_the_steps():
    whole, alone = mask_rng(gen([3, 4, 5])), mask_rng(gen([5]))
    assert torch.equal(whole.rand(3, 2, 2)[2:], alone.rand(1, 2, 2))
    assert torch.equal(whole.randint(0, 99, (3, 1))[2:], alone.randint(0, 99, (1, 1)))
    assert torch.equal(whole.shared.rand(6), alone.shared.rand(6))
    assert not torch.equal(whole.shared.rand(6), mask_rng(gen([3, 4, 5], 6)).shared.rand(6))
    generator = gen([3, 4, 5])
    assert mask_rng(generator) is mask_rng(generator)  # who draws after another goes on
    with pytest.raises(AssertionError, match="were drawn for"):
        whole.rand(2, 4)


def test_a_plain_generator_draws_as_torch_does():
    def plain():
        return torch.Generator().manual_seed(3)

    assert torch.equal(mask_rng(plain()).rand(2, 3), torch.rand(2, 3, generator=plain()))
    expected = torch.randint(1, 9, (2, 3), generator=plain())
    assert torch.equal(mask_rng(plain()).shared.randint(1, 9, (2, 3)), expected)
    assert torch.equal(mask_rng(None).rand(4), mask_rng(None).rand(4))
    assert not torch.equal(torch.rand(9, generator=gen([1, 2])), torch.rand(9, generator=gen([1])))


def test_nothing_is_drawn_on_the_host():
    drawn = CounterRNG(torch.empty(3, dtype=torch.long, device=META), None)
    with NoCopies(), NoLists():
        assert drawn.rand(3, 4).device == drawn.randint(0, 4, (3, 1)).device == META


@pytest.mark.gpu
def test_a_gpu_draws_the_same():
    seeds = list(range(2**64 - 5, 2**64))
    one, other = mask_rng(gen(seeds)), mask_rng(StepGenerator(seeds, 5, "cuda"))
    assert torch.equal(one.rand(5, 7), other.rand(5, 7).cpu())
    assert torch.equal(one.randint(0, 9, (5, 7)), other.randint(0, 9, (5, 7)).cpu())
    assert torch.equal(one.shared.rand(7), other.shared.rand(7).cpu())
