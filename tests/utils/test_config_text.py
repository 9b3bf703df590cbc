"""What a resumed run says of a config that differs from that of the run so far."""

from mmengine.config import Config

from xtra_toolkit.utils.config_text import read_config_text, resumed_differences

CONFIG = dict(
    model=dict(type="A", mask=dict(type="B", sizes=(1, 2)), rate=-1.5),
    optim_wrapper=dict(optimizer=dict(type="AdamW", lr=1e-3), clip_grad=None),
    train_cfg=dict(max_epochs=2),
    log_level="INFO",
)


def test_a_written_config_is_read_back_without_executing_it(tmp_path):
    text = Config(CONFIG).pretty_text
    assert read_config_text(text)["model"] == dict(
        type="A", mask=dict(type="B", sizes=[1, 2]), rate=-1.5
    )
    assert not list(resumed_differences(text, Config(CONFIG).to_dict()))
    evil = f"model = open({str(tmp_path / 'x')!r}, 'w')\nimport os\nlog_level = 'A' 'B'"
    assert read_config_text(evil) == dict(model=None, log_level="AB")
    assert not (tmp_path / "x").exists()
    assert read_config_text("no = config(") == {}


def test_each_key_that_differs_is_named_with_the_value_that_holds():
    other = Config(CONFIG)
    other.merge_from_dict(
        {"optim_wrapper.optimizer.lr": 0.5, "train_cfg.max_epochs": 4, "log_level": "ERROR"}
    )
    assert list(resumed_differences(Config(CONFIG).pretty_text, other.to_dict())) == [
        "Resuming: optim_wrapper.optimizer.lr is 0.001, as in the run so far, and not 0.5.",
        "Resuming: train_cfg.max_epochs is 4 from now on; it was 2 in the run so far.",
    ]
