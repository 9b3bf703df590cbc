"""Test ``compile=True`` on the real command line against an uncompiled run, for each objective."""

from pathlib import Path

import pytest
from test_mim import mim
from test_mim_processes import losses

ROOT = Path(__file__).parents[2]
OBJECTIVES = {
    "XTRA": (dict(type="BlockCausal", block_size=2), dict(type="NextBlock", normalise=False)),
    "AIM": (dict(type="PrefixCausal"), dict(type="NextToken", normalise=False)),
    "MAE": (dict(type="RandomShown"), dict(type="MaskedPatches", normalise=False)),
    "I-JEPA": (dict(type="MultiBlock", block_size=2, blocks=2), dict(type="LatentPatches")),
}
CONFIG = """
_base_ = ["{base}"]
custom_imports = dict(imports=["latent_targets"])
custom_hooks = [dict(type="xtra_toolkit." + name) for name in {hooks}]
model = dict(
    mask=dict({mask}, _delete_=True),
    target_generator=dict({target}, _delete_=True),
    backbone=dict(arch=dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)),
    neck=dict(projection=16, width=16, depth=1, heads=2),
    head=dict(hidden=None),
)
train_dataloader = dict(dataset=dict(indices=12), batch_size=4)
train_cfg = dict(global_batch=4)
default_hooks = dict(
    _delete_=True,
    logger=dict(type="mmengine.LoggerHook", interval=1),
    checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook", interval=1),
)
param_scheduler = []
val_dataloader = val_evaluator = val_cfg = None
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_of_a_compiled_and_resumed_run_equal_those_of_an_uncompiled_run(
    name, tmp_path, monkeypatch
):
    """Train three steps and three more after a resume, with kernels of torch.compile."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "plugins" / "latent_targets"))
    mask, target = (part | dict(type=f"xtra_toolkit.{part['type']}") for part in OBJECTIVES[name])
    hooks = ["SafeResume", "StopOnNonFiniteLoss", *["UpdateTeacher"] * (name == "I-JEPA")]
    base, config = ROOT / "mmconfigs" / "demo" / "xtra_digits.py", tmp_path / "config.py"
    config.write_text(CONFIG.format(base=base, hooks=hooks, mask=mask, target=target))
    epochs = ["--cfg-options", "train_cfg.max_epochs=2"]
    mim(config, *epochs, work_dir=tmp_path / "plain")
    begun = mim(
        config, "--cfg-options", "train_cfg.max_epochs=1", "compile=True", work_dir=tmp_path / "run"
    )
    assert "The loss is compiled" in begun
    again = mim(config, "--resume", *epochs, "compile=True", work_dir=tmp_path / "run")
    assert "resumed epoch: 1, iter: 3" in again
    plain, compiled = losses(tmp_path / "plain"), losses(tmp_path / "run")
    assert list(plain) == list(compiled) == [1, 2, 3, 4, 5, 6]
    assert compiled == pytest.approx(plain, rel=1e-4)
