"""``xtra features``: a frozen encoder's features, each image's once, as the encoder gives them."""

import numpy as np
import pytest
import torch
from builds import MASKS, arch, pretrainer, randomise
from click.testing import CliRunner
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression

from xtra_toolkit.cli import features, main
from xtra_toolkit.models import MaskedViT

COUNTS = dict(bank=11, test=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of two classes, black at the top or at the bottom; a kNN config; a checkpoint."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for split, count in COUNTS.items():
        for i in range(count):
            image = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
            image[32 * (i % 2) : 32 * (i % 2) + 32] = 0
            path = folder / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    model = randomise(pretrainer("block", "block"))
    torch.save(dict(state_dict=model.state_dict()), folder / "x.pth")
    knn(folder)
    return folder


def knn(folder, name="knn.py", **loader):
    """The config; its loaders would shuffle and drop the last images, given the chance."""
    pipeline = [dict(type="xtra_toolkit.LoadImage"), dict(type="mmpretrain.PackInputs")]
    model = dict(
        type="mmpretrain.ImageClassifier",
        data_preprocessor=dict(
            type="mmpretrain.ClsDataPreprocessor", mean=[9.0] * 3, std=[99.0] * 3
        ),
        backbone=dict(
            type="xtra_toolkit.MaskedViT", arch=arch(), img_size=64, patch_size=8, out_type="raw"
        ),
    )

    def images(split):
        data = dict(type="xtra_toolkit.ImageFolder", data_root=str(folder / split))
        return dict(
            dataset=dict(data, with_label=True, pipeline=pipeline),
            batch_size=4,
            num_workers=0,
            persistent_workers=False,
            collate_fn=dict(type="mmengine.default_collate"),
            sampler=dict(type="mmengine.DefaultSampler", shuffle=True),
            drop_last=True,
            **loader,
        )

    config = dict(model=model, test_dataloader=images("test"), test_cfg=dict())
    config["test_cfg"]["bank_dataloader"] = images("bank")
    Config(config).dump(folder / name)
    return folder / name


def xtra(folder, *args, config="knn.py", out="out.safetensors"):
    given = ("features", folder / config, folder / "x.pth", "--out", folder / out, *args)
    return CliRunner().invoke(main, [str(a) for a in given])


def written(folder, *args):
    result = xtra(folder, "--force", *args)
    assert result.exit_code == 0, result.output
    return load_file(folder / "out.safetensors")


def by_hand(folder, path):
    """One image's feature, without this package's loader and loop."""
    config = Config.fromfile(folder / "knn.py").model.backbone
    config.pop("type")
    encoder = MaskedViT(**config, mask=MASKS["block"]).eval()
    state = torch.load(folder / "x.pth")["state_dict"]
    state = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    encoder.load_state_dict(state)
    bgr = np.array(Image.open(path))[..., ::-1].copy()
    pixels = (torch.from_numpy(bgr).permute(2, 0, 1)[None].float() - 9) / 99
    with torch.no_grad():
        return encoder(pixels)[-1].mean(1)[0].numpy()


def names(data, part):
    return bytes(data[f"{part}.paths"]).decode().split("\n")


def test_each_image_is_written_once_in_the_order_of_the_data_set(folder):
    data = written(folder)
    for part, count in COUNTS.items():
        paths = names(data, part)
        assert paths == sorted(map(str, (folder / part).rglob("*.png"))) and len(paths) == count
        assert data[f"{part}.labels"].tolist() == [int("/b/" in path) for path in paths]
        for path, feature in zip(paths, data[f"{part}.features"], strict=True):
            np.testing.assert_allclose(feature, by_hand(folder, path), atol=1e-5)
    with safe_open(folder / "out.safetensors", "np") as file:
        assert file.metadata()["dtype"] == "float32"  # on a CPU


def test_another_batch_size_and_bfloat16_give_the_same(folder):
    full, other, half = (
        written(folder, *a) for a in ((), ("--batch-size", 3), ("--dtype", "bfloat16"))
    )
    assert full.keys() == other.keys() == half.keys()
    for key in ("bank.features", "test.features"):
        scale = np.abs(full[key]).max()
        np.testing.assert_allclose(other[key], full[key], atol=1e-5 * scale)
        assert 0 < np.abs(half[key] - full[key]).max() < 0.02 * scale
    assert all((half[key] == full[key]).all() for key in full if "features" not in key)


@pytest.mark.parametrize(("dtype", "half"), [("float32", False), ("bfloat16", True)])
def test_the_encoder_runs_in_inference_mode_and_as_often_as_there_are_batches(
    folder, dtype, half, monkeypatch
):
    seen, forward = [], MaskedViT.forward

    def watched(self, images):
        seen.append((torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
        assert not self.training
        return forward(self, images)

    monkeypatch.setattr(MaskedViT, "forward", watched)
    written(folder, "--dtype", dtype)
    assert seen == [(True, half)] * 5  # 11 images and 5, in batches of 4


def test_the_documented_lines_probe(folder):
    text = features.features.callback.__doc__.split("\b\n")[1].replace(
        "LogisticRegression", "Probe"
    )
    data = written(folder)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    assert len(lines) == 3

    class File:
        numpy = type("", (), dict(load_file=staticmethod(lambda _: data)))

    printed = []
    exec("\n".join(lines), dict(safetensors=File, Probe=LogisticRegression, print=printed.append))
    assert printed == [1.0]


def test_a_file_is_not_overwritten_unasked(folder):
    (folder / "there.safetensors").write_text("mine")
    result = xtra(folder, out="there.safetensors")
    assert result.exit_code == 2 and "overwrite it with --force" in result.output
    assert (folder / "there.safetensors").read_text() == "mine"
    assert not list(folder.glob("*.part"))
    assert xtra(folder, out="x.npy").exit_code == 2
    assert "there is no folder" in xtra(folder, out="nowhere/x.safetensors").output


def test_a_config_without_a_bank_is_refused(folder):
    config = Config.fromfile(folder / "knn.py")
    config.test_cfg = dict()
    config.dump(folder / "no_bank.py")
    result = xtra(folder, config="no_bank.py", out="n.safetensors")
    assert result.exit_code == 1 and "has no bank images" in result.output


def test_another_models_checkpoint_is_refused(folder, tmp_path):
    state = MODELS.build(dict(type="mmpretrain.ResNet", depth=18)).state_dict()
    for prefix, sentence in (("", "holds no encoder"), ("backbone.", "not of this encoder")):
        state = {prefix + name: value for name, value in state.items()}
        torch.save(dict(state_dict=state), tmp_path / "x.pth")
        given = (folder / "knn.py", tmp_path / "x.pth", "--out", tmp_path / "o.safetensors")
        result = CliRunner().invoke(main, ["features", *map(str, given)])
        assert result.exit_code == 1 and sentence in result.output


def test_the_config_can_be_changed_on_the_command_line(folder):
    data = written(folder, f"test_dataloader.dataset.data_root={folder / 'bank'}")
    assert names(data, "test") == names(data, "bank")


def test_silent_where_nobody_watches(folder):
    result = xtra(folder, "--force")
    assert result.output.count("\n") == 1
    assert "11 bank images, 5 test images, 48 values each, read in float32" in result.output
