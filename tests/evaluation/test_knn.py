"""Test kNN: compare votes with numpy and scikit-learn, and run the loops on digits."""

import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.builds import MASKS, arch, pretrainer, randomise
from helpers.folders import write_checkpoint
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint
from mmpretrain.registry import DATASETS, MODELS
from sklearn.neighbors import KNeighborsClassifier

from xtra_toolkit.evaluation.knn_vote import Bank, unit_feature, vote

CONFIGS = Path(__file__).parents[2] / "mmconfigs"


def scikit_learn(bank, k=20, temperature=0.07):
    """Make scikit-learn's classifier: cosine distance, votes exp(cosine / temperature)."""
    classifier = KNeighborsClassifier(
        k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    return classifier.fit(bank.features.numpy(), bank.labels.numpy())


def random_bank(images=300, width=16, classes=7):
    g = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(images, width, generator=g), dim=1)
    return Bank(features, torch.randint(classes, (images,), generator=g))


@pytest.mark.parametrize("chunk", [7, 64, 1000])  # fewer than k images, more, all
def test_votes_equal_those_of_eval_knn_and_scikit_learn(chunk):
    bank = random_bank()
    queries = torch.nn.functional.normalize(torch.randn(11, 16), dim=1)
    shares = vote(queries, bank, 7, 20, 0.07, chunk)
    for query, share in zip(queries.numpy(), shares.numpy(), strict=True):
        cosines = bank.features.numpy() @ query
        votes = np.zeros(7)
        for i in np.argsort(-cosines)[:20]:
            votes[bank.labels[i]] += np.exp(cosines[i] / 0.07)
        np.testing.assert_allclose(share, votes / votes.sum(), atol=1e-5)
    np.testing.assert_allclose(shares, scikit_learn(bank).predict_proba(queries), atol=1e-5)


def test_with_one_neighbour_an_image_of_the_bank_finds_itself():
    bank = random_bank()
    assert torch.equal(vote(bank.features, bank, 7, 1, 0.07).argmax(1), bank.labels)


@pytest.mark.parametrize("out_type", ["raw", "featmap"])
def test_the_feature_is_the_mean_of_the_patch_tokens_or_the_class_token(out_type):
    def model(out_type):
        vit = dict(arch=arch(), img_size=32, patch_size=8, mask=MASKS["bidirectional"])
        vit |= dict(type="xtra_toolkit.MaskedViT", with_cls_token=True, out_type=out_type)
        return randomise(MODELS.build(dict(type="mmpretrain.ImageClassifier", backbone=vit)))

    images = torch.randn(2, 3, 32, 32)
    tokens = model("raw").backbone(images)[0]
    unit = torch.nn.functional.normalize
    close = torch.testing.assert_close
    close(unit_feature(model(out_type), images), unit(tokens[:, 1:].mean(1), dim=1))
    close(unit_feature(model("cls_token"), images), unit(tokens[:, 0], dim=1))


def test_the_last_of_several_layers_is_used():
    encoder = pretrainer("block", "block").backbone
    encoder.out_indices, images = [0, 1], torch.randn(2, 3, 64, 64)
    last = encoder(images)[-1].mean(1)
    assert not torch.allclose(encoder(images)[0].mean(1), last)

    class Model:
        backbone, extract_feat = encoder, staticmethod(encoder)

    torch.testing.assert_close(unit_feature(Model, images), torch.nn.functional.normalize(last))


def test_a_pretraining_checkpoint_loads_unchanged_with_its_mask(tmp_path):
    """Use a small version of the shipped config's model; keys are those of `mim test -C`."""
    pretrained = write_checkpoint(tmp_path / "epoch_1.pth")
    config = Config.fromfile(CONFIGS / "benchmarks" / "knn" / "imagenet.py").model
    config.backbone.update(arch=arch(), img_size=64, patch_size=8)
    probed = MODELS.build(config).eval()
    load_checkpoint(probed, str(tmp_path / "epoch_1.pth"), map_location="cpu")
    assert probed.backbone.encoder_mask.config == MASKS["block"]
    images = torch.randn(2, 3, 64, 64)
    mine, reference = unit_feature(probed, images), unit_feature(pretrained, images)
    torch.testing.assert_close(mine, reference)


BANK = "test_cfg.bank_dataloader"
FEWER = {
    f"{BANK}.dataset.indices": 300,
    "val_cfg.bank_dataloader.dataset.indices": 300,
    "test_dataloader.dataset.indices": 100,
    "val_dataloader.dataset.indices": 100,
}


def digits(folder, **changes):
    """Make a runner of the shipped config with large random weights and fewer images."""
    config = Config.fromfile(CONFIGS / "demo" / "knn_digits.py")
    folder.mkdir(exist_ok=True)
    weights = folder / "weights.pth"
    torch.save({"state_dict": randomise(MODELS.build(config.model)).state_dict()}, weights)
    config.merge_from_dict(dict(load_from=str(weights), work_dir=str(folder)))
    config.merge_from_dict(dict(experiment_name=uuid.uuid4().hex, log_level="WARNING"))
    config.merge_from_dict(FEWER | changes)
    return Runner.from_cfg(config)


def features(runner, split, count):
    """Compute the mean patch tokens of normalised images, without the loops."""
    data = DATASETS.build(dict(type="xtra_toolkit.Digits", split=split, indices=count))
    images = torch.stack([torch.from_numpy(sample["img"][..., 0]) for sample in data])
    pixels = (images[:, None].float() - 77.8) / 95.9
    with torch.no_grad():
        tokens = runner.model.eval().extract_feat(pixels)[0].mean(1)
    return Bank(tokens, torch.tensor([sample["gt_label"] for sample in data]))


def test_the_loops_give_the_accuracy_of_scikit_learn(tmp_path):
    runner = digits(tmp_path)
    runner.load_or_resume()
    bank, queries = features(runner, "train", 300), features(runner, "test", 100)
    expected = 100 * scikit_learn(bank).score(queries.features.numpy(), queries.labels.numpy())
    assert 30 < expected < 99
    assert runner.test()["accuracy/top1"] == pytest.approx(expected)
    assert runner.val()["accuracy/top1"] == pytest.approx(expected)


def test_bfloat16_changes_the_features_a_little(tmp_path):
    banks = []
    for name, changes in (("full", {}), ("half", {"test_cfg.devices": ["cpu"]})):
        runner = digits(tmp_path / name, **changes)
        runner.load_or_resume()
        runner.model.eval()
        banks.append(runner.build_test_loop(runner._test_loop)._fill())
    full, half = banks
    assert torch.equal(full.labels, half.labels) and half.features.dtype == torch.float32
    assert 0 < (full.features - half.features).abs().max() < 0.02


def test_it_validates_a_pretraining_run(tmp_path):
    changes = {"train_dataloader.dataset.indices": 64, "train_cfg.max_epochs": 1}
    changes |= {"train_cfg.val_interval": 1, "default_hooks.checkpoint.save_best": "accuracy/top1"}
    runner = digits(tmp_path, **changes)
    runner.train()
    assert runner.val_loop.bank is None
    assert list(tmp_path.glob("best_accuracy_top1_epoch_*.pth"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({f"{BANK}.dataset.indices": 19}, r"k=20 needs at least .* bank_dataloader has 19"),
        ({"test_cfg.k": 0}, r"k=0 needs .* \(and one at least\)"),
        (
            {f"{BANK}.dataset.metainfo": dict(classes=[*"012345678x"])},
            r"The bank has 10 classes .* only one of them has \['9', 'x'\]",
        ),
        (
            {f"{BANK}.dataset.metainfo": dict(classes=[*"1023456789"])},
            r"and the images to classify 10, in another order\. Labels",
        ),
    ],
)
def test_an_unusable_bank_is_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        digits(tmp_path, **changes).test()


def test_a_bank_without_labels_is_refused(tmp_path):
    from helpers import photographs

    photographs.write(tmp_path / "photos", 4, size=16)
    runner = digits(tmp_path / "run")
    loop = runner.build_test_loop(runner._test_loop)
    sample = DATASETS.build(
        dict(
            type="xtra_toolkit.ImageFolder",
            data_root=str(tmp_path / "photos"),
            pipeline=[dict(type="xtra_toolkit.LoadImage"), dict(type="mmpretrain.PackInputs")],
        )
    )[0]["data_samples"]
    loop.bank_dataloader = [dict(inputs=torch.zeros(1, 1, 8, 8), data_samples=[sample])]
    with pytest.raises(ValueError, match=r"even/000\.jpg' must have one label .* not None: take"):
        loop._fill()


def _process(rank, folder):
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    ddp = dict(type="MMDistributedDataParallel", device_ids=None)
    changes = {f"{BANK}.dataset.indices": 299}  # an odd number: one image is repeated in the shares
    runner = digits(folder / f"{rank}", launcher="pytorch", model_wrapper_cfg=ddp, **changes)
    found = runner.test()["accuracy/top1"]
    bank = runner.test_loop._fill()
    torch.save((found, bank.features, bank.labels), f"{folder}/rank_{rank}")


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(tmp_path):
    torch.multiprocessing.spawn(_process, (tmp_path,), nprocs=2)
    whole = digits(tmp_path / "whole", **{f"{BANK}.dataset.indices": 299})
    accuracy, bank = whole.test()["accuracy/top1"], whole.test_loop._fill()
    for rank in range(2):
        found, vectors, labels = torch.load(tmp_path / f"rank_{rank}")
        assert found == pytest.approx(accuracy)
        torch.testing.assert_close(vectors, bank.features)
        assert torch.equal(labels, bank.labels)
