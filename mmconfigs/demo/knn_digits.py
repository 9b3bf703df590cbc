"""xtra_digits.py with kNN accuracy as validation, a probe during training that needs no training.

    mim train mmpretrain mmconfigs/demo/knn_digits.py

or, for a checkpoint:

    mim test mmpretrain mmconfigs/demo/knn_digits.py -C work_dirs/xtra_digits/epoch_20.pth

The same three assignments add kNN validation to any pretraining config.
"""

_base_ = ["xtra_digits.py"]

knn = dict(
    k=20,
    temperature=0.07,
    bank_dataloader=dict(
        batch_size=100,
        num_workers=0,
        persistent_workers=False,
        collate_fn=dict(type="mmengine.default_collate"),
        sampler=dict(type="mmengine.DefaultSampler", shuffle=False),
        dataset=dict(type="xtra_toolkit.Digits", split="train", pipeline=_base_.pipeline),
    ),
)
accuracy = dict(type="mmpretrain.Accuracy", topk=(1,))
val_evaluator = dict(_delete_=True, **accuracy)
val_cfg = dict(type="xtra_toolkit.KNNValLoop", **knn)

test_dataloader = _base_.val_dataloader
test_evaluator = accuracy
test_cfg = dict(type="xtra_toolkit.KNNTestLoop", **knn)
