"""Test ``xtra complete``: draw a picture from a config, a checkpoint and image files."""

import functools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.builds import pretrainer, randomise
from helpers.commands import words, xtra
from mmengine import Config
from mmpretrain.models import SelfSupDataPreprocessor
from mmpretrain.registry import MODELS
from PIL import Image

from xtra_toolkit.data import Digits
from xtra_toolkit.visualization.predictions.image_panels import panels
from xtra_toolkit.visualization.predictions.load import read_images, to_pixels
from xtra_toolkit.visualization.predictions.sheet import edges

CONFIGS = Path(__file__).parents[2] / "mmconfigs"
PIXELS = dict(type="xtra_toolkit.MaskedPatches", normalise=False)
SHAPE = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Write a folder with four digits and a smaller copy of the demo's config."""
    folder = tmp_path_factory.mktemp("digits")
    for i, sample in zip(range(4), Digits("test"), strict=False):
        Image.fromarray(sample["img"][..., 0]).save(folder / f"{i}.png")
    config = Config.fromfile(CONFIGS / "demo" / "xtra_digits.py")
    config.model.backbone.arch = SHAPE
    config.dump(folder / "raw.py")
    config.model.target_generator.normalise = True
    config.dump(folder / "normalised.py")
    return folder


@pytest.fixture(scope="module")
def checkpoint(digits):
    torch.save(dict(state_dict=built(digits / "raw.py").state_dict()), digits / "x.pth")
    return digits / "x.pth"


def built(config):
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(config).model)
    model.init_weights()
    return model.eval()


def train(model, steps=40):
    """Train for a few steps on digits."""
    data = torch.from_numpy(np.stack([sample["img"] for sample in Digits("train")]))
    data, optimizer = data.permute(0, 3, 1, 2), torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(steps):
        batch = dict(inputs=data[torch.randint(len(data), (32,))], data_samples=None)
        model.train().loss(model.data_preprocessor(batch)["inputs"])["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


complete = functools.partial(xtra, "complete", columns=200)


def errors(output, name):
    return [float(error) for error in re.findall(rf"^  {name}  (\S+)  ", output, re.MULTILINE)]


def test_a_short_training_improves_the_predictions(digits, checkpoint):
    images, out = sorted(digits.glob("?.png")), digits / "picture.png"
    before = complete(digits / "raw.py", checkpoint, *images, "--out", out)
    assert before.exit_code == 0, before.output
    torch.save(dict(state_dict=train(built(digits / "raw.py")).state_dict()), digits / "y.pth")
    after = complete(digits / "raw.py", digits / "y.pth", *images, "--out", out)
    for name in ("teacher-forced", "free-running"):
        untrained, trained = errors(before.output, name), errors(after.output, name)
        assert len(trained) == 4 and sum(trained) < 0.8 * sum(untrained)
    assert sum(errors(after.output, "teacher-forced")) < sum(errors(after.output, "free-running"))
    width, height = Image.open(out).size
    assert width == 4 * 360 and 4 * 360 < height < 4.4 * 360  # 4 panels of 4 images
    assert f"{out}: drawn" in after.output


def test_normalised_targets_are_continued_only_with_statistics_of_the_image(digits, checkpoint):
    args = (digits / "normalised.py", checkpoint, digits / "0.png", "--out", digits / "n.svg")
    forced = complete(*args)
    assert forced.exit_code == 0, forced.output
    assert "Free running is left out" in words(forced)
    assert "teacher-forced" in forced.output and "Add --stats previous to use" in words(forced)
    picture = (digits / "n.svg").read_text()
    assert "<!-- teacher-forced -->" in picture and "<!-- free-running -->" not in picture
    done = complete(*args, "--stats", "previous", "--given", "3")
    assert done.exit_code == 0, done.output
    picture = (digits / "n.svg").read_text()  # texts are named in comments
    for caption in (
        "3 of 16 units",
        "target's own mean and std",
        "previous unit's mean and std",
    ):
        assert f"<!-- {caption} -->" in picture


def refusal(digits, checkpoint, config="raw.py", **given):
    image, out = given.pop("image", digits / "0.png"), given.pop("out", digits / "r.png")
    options = [part for name, value in given.items() for part in (f"--{name}", value)]
    return complete(digits / config, checkpoint, image, "--out", out, *options)


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (dict(given=16), 1, "--given 16 units; BlockCausal × NextBlock on a grid of 8×8 tokens"),
        (dict(stats="previous"), 1, "predicts raw pixels and needs no statistics; leave out"),
        (dict(out="x.txt"), 2, "x.txt: name a file that ends in"),
        (dict(config=CONFIGS / "demo" / "probe_digits.py"), 1, "only a pretraining config"),
        (dict(config=CONFIGS / "small" / "fashion_mae.py"), 1, "is no checkpoint of the model in"),
        (dict(image=CONFIGS / "metafile.yml"), 1, "Cannot read the image"),
    ],
)
def test_invalid_input_is_refused_with_a_message(options, code, sentence, digits, checkpoint):
    result = refusal(digits, checkpoint, **options)
    assert result.exit_code == code and sentence in words(result), result.output
    assert isinstance(result.exception, SystemExit)  # no traceback


def test_an_existing_image_is_not_overwritten(digits, checkpoint):
    result = refusal(digits, checkpoint, out=digits / "0.png")
    assert result.exit_code == 2 and "is one of the images; name another" in words(result)


def test_the_checkpoint_of_another_model_is_refused_and_a_missing_tensor_named(digits, tmp_path):
    torch.save(dict(state_dict=dict(fc=torch.ones(1))), tmp_path / "z.pth")
    result = refusal(digits, tmp_path / "z.pth")
    assert result.exit_code == 1
    assert "it lacks" in words(result) and "has, unknown to it, 1 tensors, the first 'fc'" in words(
        result
    )


def test_visible_patches_are_copied_and_hidden_patches_predicted():
    images = torch.randn(2, 3, 64, 64)
    model = randomise(pretrainer("shown", PIXELS, with_cls_token=True))
    shown, made, truth = panels(model, images)
    hidden = shown.images.isnan()
    assert shown.note == "16 of 64 patches" and hidden.float().mean() == 0.75
    assert torch.equal(made.images[~hidden], images[~hidden]) and truth.images is images
    assert not made.images.isnan().any() and (made.images - images)[hidden].abs().min() > 0
    error = ((made.images - images)[0][hidden[0]] ** 2).mean()
    torch.testing.assert_close(made.error(shown.images, images)[0], error)


def test_a_perfect_prediction_reconstructs_the_image_and_the_caption_names_the_statistics():
    images = torch.randn(2, 3, 64, 64)
    model = pretrainer("shown", "masked")
    model.reconstruct = model.target_values
    _, made, _ = panels(model, images)
    torch.testing.assert_close(made.images, images, rtol=0, atol=1e-5)
    assert made.note == "target's own mean and std"


@pytest.mark.parametrize(
    "options", [{}, dict(positions="relative"), dict(rope="dinov3", positions="none")]
)
def test_an_encoder_with_mask_tokens_reconstructs(options):
    images = torch.randn(2, 3, 64, 64)
    model = randomise(pretrainer("shown", PIXELS, mask_tokens=True, **options))
    shown, made, _ = panels(model, images)
    hidden = shown.images.isnan()
    assert hidden.float().mean() == 0.75 and torch.equal(made.images[~hidden], images[~hidden])
    plan = model.objective(2, images.device)
    (prediction,) = model.reconstruct(images, plan)
    patches = model.backbone.grid.patchify(made.images)
    tokens = plan.groups[0].tokens.flatten(1)[..., None].expand_as(prediction)
    torch.testing.assert_close(patches.gather(1, tokens), prediction)


def test_rotary_positions_and_gated_ffns_are_continued(digits, tmp_path):
    config = Config.fromfile(digits / "raw.py")
    parts = dict(rope="dinov3", positions="none", layer_cfgs=dict(ffn_type="swiglu", qk_norm=True))
    config.model.backbone.update(parts)
    config.model.neck.update(parts)
    config.dump(tmp_path / "modern.py")
    torch.save(built(tmp_path / "modern.py").state_dict(), tmp_path / "x.pth")
    paths = tmp_path / "modern.py", tmp_path / "x.pth", digits / "0.png"
    done = complete(*paths, "--out", tmp_path / "x.png")
    assert done.exit_code == 0, done.output
    assert len(errors(done.output, "free-running")) == 1


@pytest.mark.parametrize("options", [dict(given=3), dict(stats="previous")])
def test_a_reconstruction_refuses_the_options_of_a_continuation(options):
    model = pretrainer("shown", "masked")
    with pytest.raises(ValueError, match="reconstructs what its mask hides, and continues nothing"):
        panels(model, torch.randn(1, 3, 64, 64), **options)


def test_targets_other_than_pixels_are_refused(tmp_path):
    np.save(tmp_path / "colours.npy", np.random.rand(8, 3))
    target = dict(type="xtra_toolkit.NextColour", clusters=str(tmp_path / "colours.npy"))
    head = dict(loss="cross_entropy")
    model = pretrainer("token", target, image=4, patch=1, with_cls_token=True, head=head)
    with pytest.raises(ValueError, match="NextColour predicts something else than the pixels"):
        panels(model, torch.randn(1, 3, 4, 4))


@pytest.mark.parametrize("to_rgb", [True, False])
def test_colours_are_those_of_the_file(to_rgb, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    model = pretrainer("token", "token", image=(32, 64))
    mean, std = [120.0, 110.0, 100.0], [58.0, 57.0, 56.0]
    model.data_preprocessor = SelfSupDataPreprocessor(mean=mean, std=std, to_rgb=to_rgb)
    images = read_images([tmp_path / "x.png"], model)
    first = pixels[0, 0] if to_rgb else pixels[0, 0, ::-1]
    expected = (torch.tensor(first.astype("float32")) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(images[0, :, 0, 0], expected)
    images[:, :, 5, 7] = torch.nan
    (back,) = to_pixels(images, model.data_preprocessor)
    assert back[5, 7, 3] == 0 and (back[..., 3] == 255).sum() == 32 * 64 - 1
    seen = back[..., 3] > 0
    assert np.array_equal(back[seen][:, :3], pixels[seen])


def test_images_are_cropped_at_the_centre(tmp_path):
    pixels = np.zeros((64, 192), np.uint8)
    pixels[:, 64:128] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    model = pretrainer("token", "token", in_channels=1)
    assert (read_images([tmp_path / "x.png"], model) == 255).all()


def test_the_border_separates_context_from_the_rest():
    region = np.array([[True, True, True], [True, False, False]])
    assert sorted(edges(region)) == [
        ((0.5, 0.5), (0.5, 1.5)),  # to the right of the second row's first pixel
        ((0.5, 0.5), (1.5, 0.5)),
        ((1.5, 0.5), (2.5, 0.5)),
    ]
