"""Build a toy training run in the process of the test."""

import uuid

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset


class Vectors(Dataset):
    metainfo = {"classes": ("a", "b")}

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": torch.eye(4)[index % 4]}


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, mode="tensor"):
        loss = (self.layer(x) - x.flip(-1)).square().mean()
        return {"loss": loss} if mode == "loss" else [loss]


@pytest.fixture
def build(tmp_path):
    """Return a function that builds a Runner of 4 epochs of 4 iterations from a changed config."""

    def build(epochs=4, **changes):
        torch.manual_seed(0)
        config = dict(
            model=Toy(),
            work_dir=str(tmp_path),
            train_dataloader=dict(
                dataset=changes.pop("dataset", Vectors()),
                sampler=dict(type="DefaultSampler"),
                batch_size=2,
                collate_fn=dict(type="default_collate"),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.05)),
            param_scheduler=[
                dict(type="MultiStepLR", milestones=[1, 3], gamma=0.5, end=4),
                dict(type="PolyLR", by_epoch=False, end=16),
            ],
            randomness=dict(seed=3),
            experiment_name=uuid.uuid4().hex,  # equal names share MMEngine's message hub
        )
        return Runner(**{**config, **changes})

    return build
