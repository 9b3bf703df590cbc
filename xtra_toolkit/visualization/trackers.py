"""MMEngine's back ends of TensorBoard, Weights & Biases and MLflow, made to fit our runs.

They are named in ``visualizer.vis_backends`` (see :mod:`xtra_toolkit.visualization.visualizer`).
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
    """A resumed run goes on in the curves of the run that it resumes; pictures are JPEGs.

    MMEngine begins a folder, to TensorBoard a run, at each start.
    """

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Records the config; where a run of this work folder is resumed, among its events."""
        if config.get("resume"):
            events = Path(self._save_dir).parents[1].glob("*/vis_data/events.out.tfevents.*")
            folders = sorted(file.parent for file in events)
            self._save_dir = str(folders[-1]) if folders else self._save_dir
        super().add_config(config, **kwargs)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Records a picture; torch's writer would encode it as PNG, several times as large."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        height, width = image.shape[:2]
        size = dict(height=height, width=width, colorspace=3)
        picture = Summary.Image(encoded_image_string=jpeg(image), **size)
        summary = Summary(value=[Summary.Value(tag=name, image=picture)])
        self.experiment._get_file_writer().add_summary(summary, step)


@VISBACKENDS.register_module()
class WandbTracker(WandbVisBackend):
    """Curves over iterations, which MMEngine draws over calls of the logger.

    What it does not set follows W&B's own variables: ``WANDB_PROJECT``, ``WANDB_MODE=offline``, and
    ``WANDB_RUN_ID`` with ``WANDB_RESUME=allow`` to go on in a run.

    Args:
        save_dir: MMEngine's.
        init_kwargs: of ``wandb.init``.
        **kwargs: of MMEngine's ``WandbVisBackend``.
    """

    def __init__(self, save_dir: str, init_kwargs: dict | None = None, **kwargs: Any):
        kwargs.setdefault("define_metric_cfg", [dict(name="*", step_metric="iter")])
        # a resumed run has another config, resume=True
        super().__init__(save_dir, {"allow_val_change": True, **(init_kwargs or {})}, **kwargs)

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Records the config. MMEngine would upload all code below the current folder too."""
        self.experiment.config.update(config.to_dict(), allow_val_change=True)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Records a picture at its iteration; MMEngine's has none."""
        picture = self.experiment.Image(image, file_type="jpg")
        self.experiment.log({name: picture, "iter": step}, commit=self._commit)


@VISBACKENDS.register_module()
class MLflowTracker(MLflowVisBackend):
    """Into MLflow's own store: MMEngine asks for files, which MLflow 3 refuses.

    The store and what else is not set follows MLflow's own variables: ``MLFLOW_TRACKING_URI``
    (default: mlflow.db in the current folder, as for ``mlflow ui``), ``MLFLOW_EXPERIMENT_NAME``,
    and ``MLFLOW_RUN_ID`` to go on in a run.
    """

    def _init_env(self) -> None:
        import mlflow

        self._tracking_uri = self._tracking_uri or mlflow.get_tracking_uri()
        self._exp_name = self._exp_name or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        super()._init_env()

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Records the config; MLflow refuses other parameters than a run has that goes on."""
        if "MLFLOW_RUN_ID" in os.environ:
            self._tracked_config_keys = ()
        super().add_config(config, **kwargs)

    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Records a picture of a step; MMEngine's name lacks the suffix that MLflow asks for."""
        self.experiment.log_image(image, key=name, step=step)
