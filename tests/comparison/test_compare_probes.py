"""Test the probes of frozen features, and fine-tuning."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import print_log

from xtra_toolkit.comparison import finetuning, probes
from xtra_toolkit.comparison.finetuning import classifier_config, fine_tune
from xtra_toolkit.data.datasets.packed_images import write_packed
from xtra_toolkit.evaluation.inference import InferenceValLoop

DEMO = Path(__file__).parents[2] / "mmconfigs" / "demo" / "xtra_digits.py"


def clusters(count, width=8, classes=4, noise=0.1):
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(classes, (count,), generator=generator)
    x = torch.eye(width)[labels] + noise * torch.randn(count, width, generator=generator)
    return probes.Labelled(x, labels)


@pytest.fixture
def config():
    return Config.fromfile(DEMO)


@pytest.fixture
def packed(tmp_path):
    """Dark and bright images of 8×8 px, with noise."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 64), ("test", 40)):
        labels = generator.integers(0, 2, count)
        images = 120 * labels[:, None, None, None] + generator.integers(0, 120, (count, 8, 8, 1))
        write_packed(tmp_path, split, images.astype(np.uint8), labels, ["dark", "bright"])
    return tmp_path


@pytest.mark.parametrize("probe", [probes.linear, probes.nearest])
def test_a_probe_separates_clusters_and_not_noise(probe):
    assert probe(clusters(200), clusters(100)) == 100
    noise = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    assert probe(clusters(200), probes.Labelled(noise, clusters(400).y)) < 50


def test_the_attentive_probe_finds_the_token_that_depends_on_the_class():
    def tokens(count):
        pooled = clusters(count, noise=0.02)
        x = 0.1 * torch.randn(count, 6, 8, generator=torch.Generator().manual_seed(count))
        x[:, 3] += 2 * pooled.x
        return probes.Labelled(x.half(), pooled.y)

    assert probes.attentive(tokens(400), tokens(100), heads=2, batch=40) > 95


def test_settings_are_chosen_on_training_images_alone(monkeypatch):
    """Other test labels change the accuracy, but not the probe."""
    fitted, fit = [], probes._fit_attentive
    monkeypatch.setattr(
        probes, "_fit_attentive", lambda *args: fitted.append(args[3]) or fit(*args)
    )
    tokens = probes.Labelled(clusters(100).x[:, None].half(), clusters(100).y)
    wrong = tokens._replace(y=(tokens.y + 1) % 4)
    scores = [probes.attentive(tokens, test, 2, 4, 20) for test in (tokens, wrong)]
    assert fitted[0] == fitted[2] == probes.RATES and fitted[1] == fitted[3]
    assert scores[0] > scores[1]


def test_a_random_encoder_is_drawn_from_its_seed(config, packed):
    images = probes.load_images(config, packed, "test")
    first, again, other = (
        probes.pool(probes.tokens_of(probes.build_encoder(config, None, seed), images)).x
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (40, 64)


def test_fine_tuning_learns_and_is_not_run_twice(config, packed, tmp_path, capsys):
    made = classifier_config(config, packed, range(48), epochs=6)
    accuracy = fine_tune(made, tmp_path / "run")
    print_log("the log of the run is closed by now", logger="current")
    assert "Logging error" not in capsys.readouterr().err
    assert accuracy > 90
    assert json.loads((tmp_path / "run" / "accuracy.json").read_text())["accuracy"] == accuracy
    log = (tmp_path / "run" / "train.log").read_text()
    assert fine_tune(made, tmp_path / "run") == accuracy
    assert (tmp_path / "run" / "train.log").read_text() == log


def test_a_signal_in_the_last_validation_stops_the_comparison_after_the_result(
    config, packed, tmp_path, monkeypatch
):
    def stopped(loop):
        signal.raise_signal(signal.SIGTERM)
        return run(loop)

    run = InferenceValLoop.run
    monkeypatch.setattr(InferenceValLoop, "run", stopped)
    made = classifier_config(config, packed, range(48), epochs=1)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(made, tmp_path / "run")
    monkeypatch.setattr(finetuning, "Runner", None)  # it is not run again
    assert fine_tune(made, tmp_path / "run") > 0


def test_fine_tuning_has_the_precision_of_pretraining(config, packed):
    config.optim_wrapper.update(devices=["cuda", "cpu"], dtype="bfloat16")
    made = classifier_config(config, packed, range(48), 1)
    assert made.optim_wrapper.devices == ["cuda", "cpu"]
    config.optim_wrapper.type = "AmpOptimWrapper"
    made = classifier_config(config, packed, range(48), 1)
    assert made.optim_wrapper.type == "xtra_toolkit.AutocastOptimWrapper"
    assert "devices" not in made.optim_wrapper


def test_a_mask_may_be_changed_for_training_with_labels(config, packed):
    made = classifier_config(
        config, packed, range(48), 1, mask=dict(type="xtra_toolkit.Bidirectional")
    )
    assert made.model.backbone.mask.type == "xtra_toolkit.Bidirectional"
    assert made.train_dataloader.dataset.pipeline == config.train_dataloader.dataset.pipeline
