"""MMEngine's back ends for TensorBoard, Weights & Biases and MLflow, adapted to resumed runs.

Choose them in ``visualizer.vis_backends`` (see :mod:`xtra_toolkit.visualization.visualizer`).
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.visualization import MLflowVisBackend, TensorboardVisBackend, WandbVisBackend

from xtra_toolkit.registry import VISBACKENDS
from xtra_toolkit.visualization.local_files import jpeg


@VISBACKENDS.register_module()
class TensorBoardTracker(TensorboardVisBackend):
    """Continue the curves of the run that is resumed, and record pictures as JPEG.

    MMEngine's back end writes to a new folder at each start, which TensorBoard shows as a new run.
    """

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config; a resumed run writes to the newest folder with events."""
        if config.get("resume"):
            events = Path(self._save_dir).parents[1].glob("*/vis_data/events.out.tfevents.*")
            folders = sorted(file.parent for file in events)
            self._save_dir = str(folders[-1]) if folders else self._save_dir
        super().add_config(config, **kwargs)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record a picture as JPEG; torch's writer would write a PNG, several times larger."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = image.shape[:2]
        size = dict(height=height, width=width, colorspace=3)
        picture = Summary.Image(encoded_image_string=jpeg(image), **size)
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        self.experiment._get_file_writer().add_summary(summary, step)


@VISBACKENDS.register_module()
class WandbTracker(WandbVisBackend):
    """Record curves over iterations; MMEngine's back end counts the calls of the logger instead.

    Set everything else by W&B's own environment variables: ``WANDB_PROJECT``,
    ``WANDB_MODE=offline``, and ``WANDB_RUN_ID`` with ``WANDB_RESUME=allow`` to continue a run.

    Args:
        save_dir: Folder to write to, set by MMEngine.
        init_kwargs: Arguments of ``wandb.init``.
        **kwargs: Arguments of MMEngine's ``WandbVisBackend``.
    """

    def __init__(self, save_dir: str, init_kwargs: dict | None = None, **kwargs: Any):
        kwargs.setdefault("define_metric_cfg", [dict(name="*", step_metric="iter")])
        # the config of a resumed run differs by resume=True
        super().__init__(save_dir, {"allow_val_change": True, **(init_kwargs or {})}, **kwargs)

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config, but no code; MMEngine would upload all code in the current folder."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record a picture at its iteration, which MMEngine's back end leaves out."""
        picture = self.experiment.Image(image, file_type="jpg")
        self.experiment.log({name: picture, "iter": step}, commit=self._commit)


@VISBACKENDS.register_module()
class MLflowTracker(MLflowVisBackend):
    """Write to MLflow's default store; MMEngine's default is a folder, which MLflow 3 refuses.

    Choose the store and the run by MLflow's own environment variables: ``MLFLOW_TRACKING_URI``
    (default: mlflow.db in the current folder, as for ``mlflow ui``), ``MLFLOW_EXPERIMENT_NAME``,
    and ``MLFLOW_RUN_ID`` to continue a run.
    """

    def _init_env(self) -> None:
        import mlflow

        self._tracking_uri = self._tracking_uri or mlflow.get_tracking_uri()
        self._exp_name = self._exp_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        super()._init_env()

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Record the config, unless a run is continued: MLflow refuses to change its parameters."""
        if "MLFLOW_RUN_ID" in os.environ:
            self._tracked_config_keys = ()
        super().add_config(config, **kwargs)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Record a picture at its step; MMEngine gives a file name without the required suffix."""
        self.experiment.log_image(image, key=name, step=step)
