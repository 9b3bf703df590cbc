"""Settings that all pretraining configs share: hooks, logging, precision and the seed."""

default_scope = "mmpretrain"
custom_imports = dict(imports=["xtra_toolkit"])  # imported before MMCV, to silence its warning
runner_type = "xtra_toolkit.CheckedRunner"  # refuses keys that nothing reads

default_hooks = dict(
    timer=dict(type="xtra_toolkit.Throughput"),
    logger=dict(type="xtra_toolkit.StepLogger", interval=50),
    param_scheduler=dict(type="mmengine.ParamSchedulerHook"),
    checkpoint=dict(type="xtra_toolkit.AtomicCheckpointHook", interval=10, max_keep_ckpts=3),
    preemption=dict(type="xtra_toolkit.SaveOnSignal"),
    bad_images=dict(type="xtra_toolkit.SkipBadImages", max_share=0.01),
    reconstruction=dict(type="xtra_toolkit.ReconstructionHook", interval=1000),
)

custom_hooks = [
    dict(type="xtra_toolkit.SafeResume"),
    dict(type="xtra_toolkit.StopOnNonFiniteLoss"),
]

env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl", timeout=600),  # seconds that a process waits for the others
)

# Backends besides MMEngine's local files, for example tensorboard, wandb or mlflow.
visualizer = dict(type="xtra_toolkit.Visualizer", vis_backends=[])

# MMEngine's default pattern would average val/loss over the last ten validations.
log_processor = dict(
    type="mmengine.LogProcessor",
    mean_pattern=r"^(?!val/|probe/).*(loss|time|data_time|grad_norm)",
)

log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)

# AdamW as in XTRA: no weight decay on one-dimensional parameters, but on position embeddings.
optim_wrapper = dict(
    type="xtra_toolkit.AutocastOptimWrapper",
    optimizer=dict(
        type="torch.optim.AdamW", lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True
    ),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(flat_decay_mult=0.0),
)
