"""Test that our targets pass the kit, and that broken ones fail each check with its message."""

import time

import numpy as np
import pytest
import torch
from torch import nn

from xtra_toolkit.grid import PatchGrid
from xtra_toolkit.objective.links import Links
from xtra_toolkit.registry import MODELS
from xtra_toolkit.targets import NextToken, Target
from xtra_toolkit.testing import check_target

TOKENS = dict(type="xtra_toolkit.TokenCausal")
BLOCKS = dict(type="xtra_toolkit.BlockCausal", block_size=2)
PREFIX = dict(type="xtra_toolkit.PrefixCausal")
SHOWN = dict(type="xtra_toolkit.RandomShown")
SMALL = PatchGrid(3, 4, (2, 2))
OURS = {
    "NextToken": [(dict(), PREFIX, SMALL), (dict(look_ahead=2), TOKENS, SMALL)],
    "NextEmbedding": [(dict(), TOKENS, SMALL)],
    "NextBlock": [(dict(look_ahead=2, normalise=False), BLOCKS, PatchGrid(4, 4, (2, 2)))],
    "MaskedPatches": [(dict(), SHOWN, SMALL)],
    "SumOfTargets": [
        (
            dict(
                targets=[
                    dict(type="xtra_toolkit.MaskedPatches"),
                    dict(type="xtra_toolkit.HOG", cell=4, window=8),
                ]
            ),
            SHOWN,
            PatchGrid(4, 4, (8, 8)),
        )
    ],
    "HOG": [
        (dict(cell=4, window=8), SHOWN, PatchGrid(4, 4, (8, 8))),
        (dict(target=dict(type="NextBlock"), cell=2, window=0), BLOCKS, PatchGrid(2, 4, (4, 2))),
    ],
    "NextColour": [(dict(clusters="clusters.npy"), TOKENS, PatchGrid(3, 4))],
}
CASES = [
    (dict(type=f"xtra_toolkit.{name}", **arguments), mask, grid)
    for name in sorted(MODELS.module_dict)
    if hasattr(MODELS.module_dict[name], "links")
    and MODELS.module_dict[name].__module__.startswith("xtra_toolkit.")
    for arguments, mask, grid in OURS.get(name, [(dict(), TOKENS, SMALL)])
]


@pytest.fixture(autouse=True)
def clusters(tmp_path, monkeypatch):
    """Write a file of colour clusters as ``xtra clusters`` does, for iGPT."""
    monkeypatch.chdir(tmp_path)
    np.save("clusters.npy", np.random.default_rng(0).uniform(-1, 1, (8, 3)))


@pytest.mark.parametrize(("target", "mask", "grid"), CASES)
def test_ours(target, mask, grid):
    check_target(target, mask, grid)


class NoWidth(Target):
    def links(self, mask, grid): ...
    def values(self, images, grid): ...
    def normalise(self, values): ...


class Flat(NextToken):
    def pairs(self, mask, grid):
        return [Links(torch.arange(11).view(1, -1), torch.arange(11).view(1, -1) + 1)]


class Beyond(NextToken):
    def pairs(self, mask, grid):
        at = torch.arange(12).view(1, -1, 1)
        return [Links(at, at + 1)]


class Sees(NextToken):
    def pairs(self, mask, grid):
        at = torch.arange(12).view(1, -1, 1)
        return [Links(at, at)]


class Slow(NextToken):
    def pairs(self, mask, grid):
        started = time.process_time()
        while time.process_time() - started < 0.02:
            pass
        return super().pairs(mask, grid)


class Image(NextToken):
    def values(self, images, grid):
        return images


class Wide(NextToken):
    def width(self, grid):
        return 7


class Classes(NextToken):
    """Returns class ids up to 9 for 4 classes."""

    classes = True

    def __init__(self):
        super().__init__(normalise=False)

    def width(self, grid):
        return 4

    def values(self, images, grid):
        return super().values(images, grid).abs().long()[..., :1] + 9


class Unsaid(Classes):
    classes = False


class NoEpsilon(NextToken):
    def normalise(self, values):
        return values / values.std(-1, keepdim=True)


class OverTheBatch(NextToken):
    def values(self, images, grid):
        return super().values(images - images.mean(0), grid)


class Dropout(NextToken):
    def values(self, images, grid):
        return super().values(nn.functional.dropout(images, 0.5, self.training), grid)


class Forgets(NextToken):
    """Uses a random projection that no checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(12, 12), persistent=False)

    def values(self, images, grid):
        return super().values(images, grid) @ self.projection


class Blurs(NextToken):
    def values(self, images, grid):
        return super().values(nn.functional.avg_pool2d(images, 3, 1, 1), grid)


class AcrossLinks(NextToken):
    """Returns local values, but normalises them over the image."""

    def normalise(self, values):
        return values - values.mean((1, 2), keepdim=True)


class Tuples(NextToken):
    def __init__(self, scale=(1, 2)):
        super().__init__()
        self.scale = 2 if isinstance(scale, tuple) else 3

    def values(self, images, grid):
        return super().values(images, grid) * self.scale


class Loose(NextToken):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(12)

    def values(self, images, grid):
        return super().values(images, grid) - self.mean


class Single(NextToken):
    def values(self, images, grid):
        return super().values(images, grid).float()


class Asks(NextToken):
    def values(self, images, grid):
        return super().values(images, grid) * (2 if images.max().item() > 0 else 1)


class Rounds(NextToken):
    """Fails on images in float64."""

    def values(self, images, grid):
        return super().values(images, grid) @ torch.eye(12, device=images.device)


BROKEN = [
    (NoWidth, "a target implements .*this one lacks width; derive it from"),
    (
        Flat,
        r"`source_positions` of a link is torch.int64 of shape \(1, 11\).*\(1, predictions",
    ),
    (
        Beyond,
        "`target_positions` names positions from 1 to 12 .*links hold sequence positions",
    ),
    (Sees, r"cannot be certified with .*the prediction of patch \(0, 0\)"),
    (Slow, "more than 0.01 s; use tensor operations in links"),
    (Image, r"values\(\) of 3 images has shape \(3, 3, 6, 8\); it must be \(3, 12, V\)"),
    (
        Wide,
        r"width\(\) returns 7, so values\(\) must return 7 values .*\(3, 12, 12\)",
    ),
    (Classes, r"width\(\) returns 4, .* one class id of each token, 0 to 3"),
    (
        Unsaid,
        r"returns torch.int64, and `classes` is False; .* with classes = True",
    ),
    (NoEpsilon, r"normalise\(\) of images of one colour .*add an epsilon"),
    (OverTheBatch, "the values of image 0 depend on the other images of its batch"),
    (Dropout, "returns other values when it is called again.*keep a teacher in evaluation"),
    (Forgets, "resumed from a checkpoint predicts other values.*register_buffer"),
    (Blurs, r"values of patch \(0, 1\) depend on pixels of patch \(0, 0\).*set local = False"),
    (AcrossLinks, r"values of patch \(0, 1\) depend on pixels of patch \(0, 0\)"),
    (Tuples, "has been through JSON it predicts other values"),
    (Loose, r"`mean` is a plain tensor.*use self.register_buffer\(name, tensor\)"),
    (
        Rounds,
        "a training step fails on cpu in torch.float64; use the device and dtype",
    ),
    (Single, r"for torch.float64 images values\(\) returns torch.float32"),
    (Asks, r"fails on the meta device.*read no value \(.item"),
]
GIVEN = {Tuples: dict(scale=(1, 2))}


@pytest.fixture
def register(monkeypatch):
    monkeypatch.setattr(MODELS, "_module_dict", dict(MODELS.module_dict))
    return lambda kind: MODELS.register_module(module=kind)


@pytest.mark.parametrize(("kind", "sentence"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_target_is_told_what_to_do(kind, sentence, register):
    register(kind)
    config = dict(type=f"xtra_toolkit.{kind.__name__}", **GIVEN.get(kind, {}))
    with pytest.raises(AssertionError, match=sentence):
        check_target(config, TOKENS, SMALL, seconds=0.01 if kind is Slow else 10.0)


def test_what_cannot_be_built_or_linked():
    with pytest.raises(AssertionError, match=r"no target can be built.*unknown target"):
        check_target(dict(type="xtra_toolkit.NextDream"), TOKENS)
    with pytest.raises(AssertionError, match=r"nothing to predict under .*shows every token"):
        check_target(dict(type="xtra_toolkit.MaskedPatches"), TOKENS)


def test_values_of_the_whole_image_are_declared(register):
    @register
    class DeclaredBlur(Blurs):
        local = False

    check_target(dict(type="xtra_toolkit.DeclaredBlur"), TOKENS, SMALL)
