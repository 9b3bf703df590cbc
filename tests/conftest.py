"""Shared by all tests."""

import uuid

import pytest
import torch
from mmengine.registry import DefaultScope

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def mmpretrains_scope():
    """The default scope of a run of MMPretrain's, whatever a Runner left before."""
    DefaultScope.get_instance(str(uuid.uuid4()), scope_name="mmpretrain")


@pytest.fixture
def one_thread():
    """For steps that are small: two threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
