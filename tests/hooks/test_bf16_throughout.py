"""Test that everything from the pixels to the prediction runs in bfloat16, the decoder included."""

import numpy as np
import pytest
import torch
from helpers import photographs
from helpers.builds import arch, pretrainer
from mmengine.optim import OptimWrapper
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xtra_toolkit.engine import MasterWeightsOptimWrapper

XTRA = dict(type="xtra_toolkit.BlockCausal", block_size=4), "block"


class Dtypes(TorchDispatchMode):
    """Record the operations whose result has another dtype than bfloat16.

    Only an operation's first result counts: the others of a normalisation and of attention are
    the statistics that their backward pass needs, float32 by design.
    """

    def __init__(self):
        super().__init__()
        self.others, self.bfloat16 = set(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result)[:1]:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.bfloat16 += value.dtype == torch.bfloat16
                if value.dtype != torch.bfloat16:
                    self.others.add((str(function), value.dtype))
        return result


def photos(folder, size):
    """Return normalised images, (N, 3, size, size)."""
    files = sorted(photographs.write(folder, 48, size).glob("*/*.jpg"))
    images = torch.stack([torch.from_numpy(np.array(Image.open(file))) for file in files])
    images = images.permute(0, 3, 1, 2).float()
    return (images - images.mean((0, 2, 3), True)) / images.std((0, 2, 3), keepdim=True)


def train(wrapper, images, steps, width, depth, decoder, batch):
    """Return the losses, and the operations of the decoder in the last step."""
    torch.manual_seed(0)
    model = pretrainer(
        *XTRA,
        image=images.shape[-1],
        patch=16,
        arch=arch(width, depth, width // 64),
        decoder=dict(projection=width, width=width, depth=decoder, heads=width // 64),
        head=dict(hidden=4 * width),
    )
    model.init_weights()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    )
    optim = wrapper(optimizer=optimizer, clip_grad=dict(max_norm=1.0))
    draw, losses, dtypes = torch.Generator().manual_seed(1), [], Dtypes()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-5 * min(1, (step + 1) / (steps / 10))
        chosen = torch.randint(len(images), (batch,), generator=draw)
        if step == steps - 1:
            model.neck.register_forward_pre_hook(lambda *_: dtypes.__enter__() and None)
            model.neck.register_forward_hook(lambda *_: dtypes.__exit__(None, None, None))
        with optim.optim_context(model):
            loss = model.loss(images[chosen], None)["loss"]
        optim.update_params(loss)
        losses.append(loss.item())
    return torch.tensor(losses), dtypes


def compare(folder, size, **shape):
    images = photos(folder, size)
    half, dtypes = train(MasterWeightsOptimWrapper, images, **shape)
    assert not dtypes.others and dtypes.bfloat16 > 10 * shape["decoder"]
    whole, seen = train(OptimWrapper, images, **shape)
    assert seen.others and not seen.bfloat16  # the record finds float32 operations
    single = ((half - whole).abs() / whole).max().item()
    # means of ten steps, since the two trainings diverge slowly
    half, whole = (losses.view(-1, 10).mean(1) for losses in (half, whole))
    worst = ((half - whole).abs() / whole).max().item()
    print(f"losses {whole[0]:.4f} to {whole[-1]:.4f}; bfloat16 differs by at most {worst:.2%} over")
    print(f"ten steps, by {single:.2%} in one")
    assert whole[-1] < whole[0] and worst < 0.02


def test_twenty_steps_of_a_narrow_model_are_close_to_float32(tmp_path):
    compare(tmp_path, 128, steps=20, width=192, depth=2, decoder=2, batch=4)


@pytest.mark.slow
def test_two_hundred_steps_at_the_width_of_vit_b_are_close_to_float32(tmp_path):
    """This takes ten minutes on two cores."""
    compare(tmp_path, 256, steps=200, width=768, depth=6, decoder=4, batch=4)
