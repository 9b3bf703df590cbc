"""Test RankMe against the paper's formula, known ranks and another implementation."""

import math

import numpy as np
import pytest
import torch

from xtra_toolkit.evaluation.rankme import rankme


def waves():
    """Return features (200, 24) whose singular values fall from 100 to 1e-3."""
    rows, cols = np.mgrid[1:201, 1:25]
    basis = np.linalg.qr(np.sin(rows * cols * 0.7))[0]
    return torch.tensor(basis * np.geomspace(100, 1e-3, 24), dtype=torch.float32)


def papers(features, eps):
    """Compute equation 1 of arXiv 2210.02885 in NumPy, term by term."""
    singular = np.sqrt(np.linalg.eigvalsh(features.double().numpy().T @ features.double().numpy()))
    shares = [value / singular.sum() + eps for value in singular]
    return math.exp(-sum(share * math.log(share) for share in shares))


def test_it_is_the_formula_of_the_paper():
    assert rankme(waves()) == pytest.approx(papers(waves(), 1e-7), rel=1e-5)
    assert rankme(waves(), 1e-3) == pytest.approx(papers(waves(), 1e-3), rel=1e-5)
    assert 3 < papers(waves(), 1e-7) < 7


def test_it_is_the_number_of_stable_pretraining():
    """Compare with stable-pretraining 0.1.8, ``callbacks/rankme.py``, whose eps is 1e-5.

    The number is that of ``RankMe.on_validation_batch_end`` on ``waves()``.
    """
    assert rankme(waves(), 1e-5) == pytest.approx(5.494030475616455, rel=1e-6)


def test_orthogonal_features_have_full_rank_and_collapsed_ones_rank_one():
    assert rankme(torch.eye(64)[:, :16]) == pytest.approx(16, rel=1e-3)
    line = torch.randn(50, 1) * torch.randn(16)
    assert rankme(line) == pytest.approx(1, abs=1e-3)
    assert rankme(7 * waves()) == pytest.approx(rankme(waves()), rel=1e-5)  # scale has no effect


@pytest.mark.parametrize("features", [torch.full((4, 3), torch.nan), torch.zeros(4, 3)])
def test_features_without_a_rank_give_nan(features):
    assert math.isnan(rankme(features))
