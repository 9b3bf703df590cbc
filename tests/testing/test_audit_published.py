"""Two published toolkits train predictions that see their targets: docs/audit.md.

    pip install xtra_toolkit[audit]

As shipped they fail the audit, corrected they pass. If a release mends a fault, its test fails: say
so in docs/audit.md and pin the version in which it stands.
"""

from importlib.metadata import PackageNotFoundError, version

import pytest
import torch
from torch import nn

from xtra_toolkit.testing import assert_no_leak, audit

EXAMINED = {"lightly": "1.6.0", "stable-pretraining": "0.1.8"}


def needs(package):
    """Skip without the examined version of a package."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = "none"
    wanted = EXAMINED[package]
    return pytest.mark.skipif(installed != wanted, reason=f"{package} {wanted} is not installed")


def lightlys_aim(img_size=32, patch_size=8, corrected=False):
    """Build the model of lightly's examples/pytorch/aim.py, smaller."""
    from lightly.models import utils
    from lightly.models.modules import AIMPredictionHead, MaskedCausalVisionTransformer

    class AIM(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = vit = MaskedCausalVisionTransformer(
                img_size=img_size,
                patch_size=patch_size,
                embed_dim=48,
                depth=2,
                num_heads=3,
                qk_norm=False,
                class_token=False,
                no_embed_class=True,
                global_pool="avg",
            )
            utils.initialize_2d_sine_cosine_positional_embedding(
                pos_embedding=vit.pos_embed, has_class_token=vit.has_class_token
            )
            self.patch_size = vit.patch_embed.patch_size[0]
            self.num_patches = vit.patch_embed.num_patches
            self.projection_head = AIMPredictionHead(
                input_dim=48, output_dim=3 * patch_size**2, hidden_dim=48, num_blocks=1
            )

        def forward(self, images):
            mask = utils.random_prefix_mask(
                size=(images.shape[0], self.num_patches),
                max_prefix_length=self.num_patches - 1,
                device=images.device,
            )
            features = self.backbone.forward_features(images, mask=mask)
            features = self.backbone._pos_embed(features)
            predictions = self.projection_head(features)
            patches = utils.patchify(images, self.patch_size)
            patches = utils.normalize_mean_var(patches, dim=-1)
            if not corrected:
                return nn.functional.mse_loss(predictions, patches)
            # the prediction at position i is of patch i + 1, and counts outside the prefix
            loss = (predictions[:, :-1] - patches[:, 1:]).square().mean(-1)
            return (loss * mask[:, 1:]).sum() / mask[:, 1:].sum()

    return AIM()


@needs("lightly")
def test_lightlys_aim_sees_all_that_it_predicts():
    model, images = lightlys_aim(), torch.zeros(1, 3, 32, 32)
    report = audit(model, images, patch=8, head="projection_head", draws=2)
    assert report.leaking == list(range(16))
    corrected = lightlys_aim(corrected=True)
    report = assert_no_leak(corrected, images, patch=8, head="projection_head")
    assert report.compared.any()


def igpt(monkeypatch, corrected=False):
    """Build stable-pretraining's iGPT around a small ViT of timm."""
    import timm
    from stable_pretraining.methods import igpt

    shipped = igpt._causal_mask
    assert shipped(3, "cpu").tolist() == torch.ones(3, 3).triu(1).bool().tolist()
    if corrected:
        monkeypatch.setattr(igpt, "_causal_mask", lambda n, device: ~shipped(n, device))
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=64, num_classes=0, depth=2, embed_dim=48, num_heads=3
    )
    return igpt.iGPT(vit, patch_size=16, image_size=64).train()


@needs("stable-pretraining")
@pytest.mark.filterwarnings("ignore")
def test_stable_pretrainings_igpt_sees_all_that_it_predicts_and_nothing_before(monkeypatch):
    images = torch.zeros(1, 3, 64, 64)
    report = audit(igpt(monkeypatch), images, patch=16, head="head", draws=2)
    assert report.leaking == list(range(15))
    # each sees its own patch through the residual, none of those before, and all that follow
    assert torch.equal(report.sees.any(0), torch.ones(15, 16).triu().bool())
    corrected = igpt(monkeypatch, corrected=True)
    report = assert_no_leak(corrected, images, patch=16, head="head")
    assert report.before_and_after() == (120, 120, 0, 105)
