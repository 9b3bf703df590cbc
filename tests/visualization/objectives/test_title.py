"""Test that titles show exactly what a config gives."""

import pytest
from mmengine.config import ConfigDict

from xtra_toolkit.masks import TokenCausal
from xtra_toolkit.visualization.objectives.title import pair, written

BLOCKS = dict(type="xtra_toolkit.BlockCausal", block_size=4)
TEACHER = dict(type="mmpretrain.ViT", arch=dict(embed_dims=24, num_layers=2), img_size=32, patch=4)


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (BLOCKS, "BlockCausal(block_size=4)"),
        (dict(type="NextToken"), "NextToken"),
        (dict(type=TokenCausal), "TokenCausal"),
        (
            dict(type="x.Reordered", order=dict(type="x.Spiral"), mask=BLOCKS),
            "Reordered(BlockCausal(block_size=4), order=Spiral)",
        ),
        (
            dict(type="LowPass", cutoff=1 / 3, target=dict(type="NextBlock", normalise=False)),
            "LowPass(NextBlock(normalise=False), cutoff=0.333333)",
        ),
        (dict(type="M", sizes=[4, 2, 1], order="random"), "M(sizes=[4, 2, 1], order='random')"),
        (dict(type="FrozenTeacher", teacher=TEACHER), "FrozenTeacher(teacher=ViT(…))"),
        (dict(type="M", sizes=list(range(99))), "M(sizes=(…))"),
    ],
)
def test_a_part_is_written_as_it_would_be_called(config, title):
    assert written(ConfigDict(config)) == title


def test_the_title_is_the_mask_and_the_target():
    model = dict(mask=BLOCKS, target_generator=dict(type="xtra_toolkit.NextBlock", distance=2))
    assert pair(model) == "BlockCausal(block_size=4) × NextBlock(distance=2)"
