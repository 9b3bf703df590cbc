"""Test ``xtra_toolkit.load``: an encoder and its transform from a checkpoint alone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.builds import MASKS
from helpers.folders import PREPROCESSOR, write_checkpoint
from mmpretrain.registry import MODELS
from PIL import Image

import xtra_toolkit
from xtra_toolkit.models.encoder_mask import KEY, unpack

RECORD = f"backbone.{KEY}.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "x.pth"
    return path, write_checkpoint(path)


def picture(height=90, width=70):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_the_documented_lines_run(saved):
    """The features are those of the pretrainer with the pipeline and preprocessor of a config."""
    path, model = saved
    encoder, transform = xtra_toolkit.load(path)
    image = picture()
    feature = encoder(transform(Image.fromarray(image))[None])
    assert not encoder.training and feature.shape == (1, 48)
    resized = Image.fromarray(image).resize((73, 94), Image.Resampling.BICUBIC)
    crop = np.asarray(resized)[15:79, 4:68, ::-1].copy()  # BGR, as files are read
    data = dict(inputs=torch.from_numpy(crop).permute(2, 0, 1)[None], data_samples=None)
    preprocessor = MODELS.build(PREPROCESSOR)
    expected = model.extract_feat(preprocessor(data)["inputs"])[0].mean(1)
    torch.testing.assert_close(feature, expected, atol=1e-5, rtol=1e-5)


def test_load_takes_arrays_and_files_and_gives_every_output(saved, tmp_path):
    path, _ = saved
    _, transform = xtra_toolkit.load(path)
    Image.fromarray(picture()).save(tmp_path / "x.png")
    torch.testing.assert_close(transform(tmp_path / "x.png"), transform(picture()))
    shapes = dict(mean=(2, 48), tokens=(2, 64, 48), map=(2, 48, 8, 8))
    for output, shape in shapes.items():
        encoder, _ = xtra_toolkit.load(path, output)
        assert encoder(torch.zeros(2, 3, 64, 64)).shape == shape
    for output, sentence in (("class_token", "this encoder has none"), ("all", "valid: mean")):
        with pytest.raises(ValueError, match=sentence):
            xtra_toolkit.load(path, output)
    with pytest.raises(ValueError, match="an image is a PIL image"):
        transform(3)


@pytest.mark.parametrize(
    ("mask", "target", "options"),
    [
        ("shown", "masked", dict(with_cls_token=True, positions="sincos")),
        ("prefix", "token", dict(bias=False, patch_cfg=dict(norm_cfg=dict(type="LN", eps=1e-6)))),
        ("token", "token", dict(in_channels=1, image=(32, 64), layer_scale_init_value=0.1)),
    ],
)
def test_load_reads_encoders_of_other_shapes(mask, target, options, tmp_path):
    grey = dict(PREPROCESSOR, mean=[9.0], std=[3.0], to_rgb=False)
    if "in_channels" in options:
        options = dict(options, data_preprocessor=grey)
    from helpers.builds import pretrainer, randomise

    options = dict(data_preprocessor=PREPROCESSOR) | options
    model = randomise(pretrainer(mask, target, **options))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "x.pth")
    encoder, transform = xtra_toolkit.load(tmp_path / "x.pth", "tokens")
    images = transform(picture())[None]
    extra = model.backbone.grid.extra
    torch.testing.assert_close(encoder(images), model.extract_feat(images)[0][:, extra:])


def test_importing_the_package_stays_light():
    code = "import sys, xtra_toolkit; print('torch' in sys.modules, xtra_toolkit.load.__name__)"
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True)
    assert ran.stdout.decode().split() == ["False", "load"]


def test_an_encoder_can_be_exported_by_torch(saved):
    """The exported program keeps the mask: a block attends to no later one."""
    path, _ = saved
    encoder, _ = xtra_toolkit.load(path, "tokens")
    images = torch.randn(2, 3, 64, 64)
    program = torch.export.export(encoder, (images,)).module()
    torch.testing.assert_close(program(images), encoder(images), atol=1e-5, rtol=1e-5)
    changed = images.clone()
    changed[..., 48:, 48:] += 1  # the last block
    moved = (program(changed) - program(images)).abs().amax((0, 2)).view(8, 8) > 0
    assert moved[6:, 6:].all() and moved.sum() == 4


PARTS = [
    ("block", "block", {}),
    ("block", "block", dict(positions="relative")),
    ("shown", "masked", dict(positions="relative", with_cls_token=True)),
    ("block", "block", dict(positions="none", rope="dinov3")),
    ("shown", "masked", dict(mask_tokens=True)),
]


@pytest.mark.parametrize(("mask", "target", "options"), PARTS)
def test_an_encoder_with_other_parts_can_be_exported_by_torch(mask, target, options, tmp_path):
    write_checkpoint(tmp_path / "x.pth", mask, target, **options)
    encoder, _ = xtra_toolkit.load(tmp_path / "x.pth")
    images = torch.randn(1, 3, 64, 64)
    program = torch.export.export(encoder, (images,)).module()
    torch.testing.assert_close(program(images), encoder(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mask", "target", "options"), PARTS)
def test_an_encoder_can_be_exported_to_onnx(mask, target, options, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    write_checkpoint(tmp_path / "x.pth", mask, target, **options)
    encoder, _ = xtra_toolkit.load(tmp_path / "x.pth")
    images = torch.randn(1, 3, 64, 64)
    torch.onnx.export(encoder, (images,), tmp_path / "x.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "x.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    np.testing.assert_allclose(found, encoder(images).detach(), atol=1e-4)


def tampered(saved, tmp_path, change):
    """Return a checkpoint whose record was changed."""
    state = torch.load(saved[0], weights_only=True)["state_dict"]
    record = json.loads(bytes(state[RECORD].tolist()))
    change(record)
    text = json.dumps(record).encode()
    state[RECORD] = torch.tensor(list(text), dtype=torch.uint8)
    torch.save(dict(state_dict=state), tmp_path / "t.pth")
    return tmp_path / "t.pth"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda r: r["encoder"]["arch"].update(embed_dims=99998), "no valid arch"),
        (lambda r: r["encoder"]["arch"].update(embed_dims=3 << 16), "whose patch_embed.proj"),
        (lambda r: r["encoder"]["arch"].update(num_layers=500), r"whose layers\.499.*holds none"),
        (lambda r: r["encoder"]["arch"].update(num_heads=0), "no valid arch"),
        (lambda r: r["encoder"].update(img_size=[1 << 19, 1 << 19]), r"whose pos_embed"),
        (lambda r: r["encoder"].update(img_size=[60, 64]), "do not tile"),
        (lambda r: r["encoder"].update(patch_size="os.system"), "no valid patch_size"),
        (lambda r: r["encoder"].update(norm_eps=dict(type="os.system")), "no valid norm_eps"),
        (lambda r: r["encoder"].update(positions="os.system"), "no valid positions"),
        (lambda r: r["encoder"].update(unrecorded=["layer_cfgs"]), "not record all.*layer_cfgs"),
        (lambda r: r["images"].update(mean=[float("nan")] * 3), "no valid mean"),
        (lambda r: r["images"].update(std=[0.0] * 3), "no valid std"),
        (lambda r: r["images"].update(order="CMYK"), "no valid order"),
        (lambda r: r.update(grid=[8, "8"]), "no valid mask and grid"),
        (lambda r: r["mask"].update(type="os.system"), "not registered here"),
        (lambda r: r.pop("encoder"), "does not tell the sizes"),
        (lambda r: r.pop("images"), "does not tell how images are normalised"),
    ],
)
def test_a_record_with_wrong_values_is_refused(saved, tmp_path, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        xtra_toolkit.load(tampered(saved, tmp_path, change))


def test_a_record_that_is_no_json_is_refused(saved, tmp_path):
    state = torch.load(saved[0], weights_only=True)["state_dict"]
    for text in (b"\xff\xfe", b"[" * 100_000, b"[]"):
        state[RECORD] = torch.tensor(list(text), dtype=torch.uint8)
        torch.save(dict(state_dict=state), tmp_path / "t.pth")
        with pytest.raises(ValueError, match="record of its encoder"):
            xtra_toolkit.load(tmp_path / "t.pth")


def test_an_older_checkpoint_loads_into_its_model(saved, tmp_path):
    def older(record):
        record.pop("encoder"), record.pop("images")

    model = saved[1]
    state = torch.load(tampered(saved, tmp_path, older), weights_only=True)["state_dict"]
    assert set(unpack(state[RECORD])) == {"mask", "grid"}
    model.load_state_dict(state)
    assert unpack(model.state_dict()[RECORD])["images"]["order"] == "RGB"


def test_another_number_of_heads_is_refused(saved):
    from helpers.builds import arch

    config = dict(type="xtra_toolkit.MaskedViT", arch=arch(heads=2), img_size=64, patch_size=8)
    state = {n.removeprefix("backbone."): v for n, v in saved[1].state_dict().items()}
    state = {n: v for n, v in state.items() if not n.startswith(("neck.", "head."))}
    with pytest.raises(ValueError, match="\\(num_heads\\) is 2 in the config and 3"):
        MODELS.build(dict(config, mask=MASKS["block"])).load_state_dict(state)


RMS = dict(type="xtra_toolkit.RMSNorm", eps=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        dict(layer_cfgs=dict(ffn_type="swiglu_fused"), layer_scale_init_value=0.1),
        dict(layer_cfgs=dict(ffn_type="swiglu", sub_ln=True, qk_norm=True), rope="eva02"),
        dict(norm_cfg=RMS, patch_cfg=dict(norm_cfg=RMS), image=(32, 64)),
        dict(rope=dict(type="dinov3", theta=50.0), positions="none"),
        dict(layer_cfgs=[dict(qk_norm=True)] * 2),
    ],
)
def test_encoders_with_modern_parts(options, tmp_path):
    """The encoder is rebuilt from the file alone, also from what `xtra convert` makes of it."""
    from helpers.folders import write_checkpoint

    from xtra_toolkit.weights.checkpoint import Checkpoint

    model = write_checkpoint(tmp_path / "x.pth", **options)
    encoder, transform = xtra_toolkit.load(tmp_path / "x.pth", "tokens")
    images = transform(picture())[None]
    expected = model.extract_feat(images)[0][:, model.backbone.grid.extra :]
    assert torch.equal(encoder(images), expected)
    state = torch.load(tmp_path / "x.pth", weights_only=True)["state_dict"]
    converted = Checkpoint.of(state)
    torch.save(converted.layout("encoder"), tmp_path / "y.pth")
    assert torch.equal(xtra_toolkit.load(tmp_path / "y.pth", "tokens")[0](images), expected)
    with pytest.raises(ValueError, match="has parts that a plain ViT of mmpretrain lacks"):
        converted.layout("mmpretrain", full_attention=True)


@pytest.mark.parametrize(
    "parts",
    [
        dict(rope=dict(type="os.system")),
        dict(rope="dinov3", other=1),
        dict(norm="os.system"),
        dict(ffn_type=["swiglu"]),
        dict(qk_norm=1),
        dict(registers=0),
        dict(registers=1 << 40),
    ],
)
def test_a_record_of_parts_is_checked(saved, tmp_path, parts):
    path = tampered(saved, tmp_path, lambda r: r["encoder"].update(parts=parts))
    with pytest.raises(ValueError, match="record of its encoder has no valid"):
        xtra_toolkit.load(path)


def test_options_that_differ_between_layers_must_be_given_again(tmp_path):
    """A checkpoint records what all layers share. MMEngine would load the others without a word."""
    layer_cfgs = [dict(act_cfg=dict(type="mmpretrain.QuickGELU")), {}]
    model = write_checkpoint(tmp_path / "x.pth", layer_cfgs=layer_cfgs)
    with pytest.raises(ValueError, match="does not record all of its encoder: layer_cfgs"):
        xtra_toolkit.load(tmp_path / "x.pth")
    init = dict(type="Pretrained", checkpoint=str(tmp_path / "x.pth"), prefix="backbone.")
    config = dict(type="xtra_toolkit.MaskedViT", init_cfg=init, out_type="raw")
    with pytest.raises(ValueError, match=r"layer_cfgs; give them .* model\.backbone\.layer_cfgs"):
        MODELS.build(config)
    again = MODELS.build(dict(config, layer_cfgs=layer_cfgs)).eval()
    again.init_weights()
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(again(images)[0], model.backbone(images)[0])


def test_a_checkpoint_of_other_rotary_positions_is_refused(tmp_path):
    """No tensor shows them, so the record must."""
    from helpers.builds import pretrainer

    state = pretrainer("block", "block", rope="dinov3").state_dict()
    with pytest.raises(
        ValueError, match=r"model\.backbone\.rope is None in the config and .*dinov3"
    ):
        pretrainer("block", "block").load_state_dict(state)
