"""The probes of xtra probe, trained on features that are computed once."""

import pytest
import torch

from xtra_toolkit.evaluation import probing
from xtra_toolkit.evaluation.probe_sweep import ProbeSweep


@pytest.mark.parametrize("name", ["linear", "attentive"])
def test_the_joint_product_gives_the_logits_of_each_probe(name):
    torch.manual_seed(0)
    config = dict(probing.PROBES[name][0])
    shape = (5, 16)
    if name == "attentive":
        config, shape = dict(config, num_heads=4, num_queries=2), (5, 9, 16)
    head = ProbeSweep(3, 16, [1e-3, 1e-2], config).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)  # each probe with weights of its own
    features = torch.randn(shape) * 3 + 1
    probing._set_norm(head, features, torch.arange(4))
    train = features[:4].flatten(0, -2)
    torch.testing.assert_close(head.norm.running_mean, train.mean(0))
    torch.testing.assert_close(head.norm.running_var, train.var(0, correction=0))
    torch.testing.assert_close(probing._logits(head, features), head((features,)))


@pytest.mark.parametrize(("images", "epochs"), [(40, 100), (800, 66), (5_000, 10), (1_000_000, 10)])
def test_default_epochs(images, epochs):
    assert probing.default_epochs(images) == epochs
