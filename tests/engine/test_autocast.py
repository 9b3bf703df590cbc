"""Test that autocast is used only on the given devices."""

import pytest
import torch
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from xtra_toolkit.engine import AutocastOptimWrapper


def wrapper(**kwargs):
    model = nn.Linear(2, 2)
    config = dict(type="xtra_toolkit.AutocastOptimWrapper", **kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, OPTIM_WRAPPERS.build(config, default_args=dict(optimizer=optimizer))


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, torch.float32),
        ({"devices": ("cuda", "cpu")}, torch.bfloat16),
        ({"devices": ("cuda", "cpu"), "dtype": "float32"}, torch.float32),
    ],
)
def test_the_cpu_has_autocast_only_on_request(options, dtype):
    model, optim = wrapper(**options)
    with optim.optim_context(model):
        loss = model(torch.ones(1, 2))
    assert loss.dtype == dtype
    optim.update_params(loss.float().sum())
    assert model.weight.dtype == torch.float32


@pytest.mark.gpu
def test_a_gpu_has_autocast():
    model, optim = wrapper()
    model.cuda()
    with optim.optim_context(model):
        assert model(torch.ones(1, 2, device="cuda")).dtype == torch.bfloat16


def test_gradients_are_synchronised_once_a_step():
    model, optim = wrapper(accumulative_counts=3)
    held_back = []
    model.no_sync = lambda: held_back.append(optim.inner_count) or torch.no_grad()
    for _ in range(6):
        with optim.optim_context(model):
            pass
        optim.update_params(model(torch.ones(1, 2)).sum())
    assert held_back == [0, 1, 3, 4]


def test_float16_is_refused_with_an_alternative():
    with pytest.raises(ValueError, match=r"no loss scaler.*AmpOptimWrapper"):
        AutocastOptimWrapper(dtype="float16", optimizer=None)
    with pytest.raises(ValueError, match="'bfloat16' or 'float32', not 'int8'"):
        AutocastOptimWrapper(dtype="int8", optimizer=None)
