"""Test ``compile`` in a config: a compiled run has the losses of an uncompiled run."""

import pytest
import torch
from helpers.tiny_runs import run
from mmengine.config import Config
from mmengine.hooks import Hook
from torch._dynamo.utils import counters

COMPILE = Config(dict(compile=dict(backend="eager")))
STEPS = dict(type="xtra_toolkit.GlobalBatchLoop", max_epochs=1, global_batch=8)  # 5 of 4 + 4 images


def settings(wrapper):
    """Return the settings of mmconfigs/_base_/runtime.py."""
    return dict(
        optim_wrapper=dict(
            type=f"xtra_toolkit.{wrapper}",
            optimizer=dict(type="torch.optim.AdamW", lr=1e-3, fused=True),
            clip_grad=dict(max_norm=1.0),
            paramwise_cfg=dict(flat_decay_mult=0.0),
        ),
        custom_hooks=[
            dict(type="xtra_toolkit.SafeResume"),
            dict(type="xtra_toolkit.StopOnNonFiniteLoss"),
        ],
        train_cfg=STEPS,
        param_scheduler=[],
    )


@pytest.mark.parametrize("wrapper", ["AutocastOptimWrapper", "MasterWeightsOptimWrapper"])
def test_a_compiled_run_equals_an_uncompiled_run(wrapper, tmp_path, one_thread):
    """Train with accumulation, clipping, exemptions from weight decay, and hooks on gradients.

    The graphs are made and run as they are (``backend="eager"``), which is exact.
    """
    _, plain = run(tmp_path / "plain", "XTRA", **settings(wrapper))
    torch._dynamo.reset()
    counters.clear()
    _, compiled = run(tmp_path / "compiled", "XTRA", cfg=COMPILE, **settings(wrapper))
    graphs = counters["stats"]["unique_graphs"]
    assert 1 <= graphs <= 2  # the loss, and the hook of this test
    assert len(plain.losses) == 5 and compiled.losses == plain.losses


class Overflow(Hook):
    """Make the weights of a layer so large before step 1 that its output is infinite."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 1:
            runner.model.backbone.layers[1].ffn.layers[1].weight.data.fill_(1e38)


def test_an_uncompiled_replay_finds_the_layer_in_which_a_compiled_run_failed(tmp_path, one_thread):
    changes = settings("AutocastOptimWrapper")
    changes["custom_hooks"].append(Overflow())
    with pytest.raises(FloatingPointError, match=r"the forward pass of backbone\.ln1"):
        run(tmp_path, "XTRA", cfg=COMPILE, **changes)
