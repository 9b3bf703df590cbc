"""A visualizer that writes curves and pictures to local files and to trackers chosen by name.

    --cfg-options visualizer.vis_backends=tensorboard

The names are ``tensorboard``, ``wandb`` and ``mlflow``; separate several by commas, as in
``wandb,tensorboard``. Install each tracker by ``pip install xtra_toolkit[NAME]``.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from mmengine.logging import print_log
from mmengine.visualization import BaseVisBackend
from mmpretrain.visualization import UniversalVisualizer

from xtra_toolkit.registry import VISUALIZERS

LOCAL = dict(type="xtra_toolkit.LocalFiles")
# A name is also that of the Python package and of the extra that installs it.
TRACKERS = dict(
    tensorboard="xtra_toolkit.TensorBoardTracker",
    wandb="xtra_toolkit.WandbTracker",
    mlflow="xtra_toolkit.MLflowTracker",
)


@VISUALIZERS.register_module()
class Visualizer(UniversalVisualizer):
    """Extend MMPretrain's visualizer: accept names of back ends, and always write local files.

    If a disk is full or another file error occurs, it warns and lets training continue.

    Args:
        name: Name of the instance, as in MMEngine.
        vis_backends: One or several of ``'tensorboard'``, ``'wandb'``, ``'mlflow'``, or configs of
            back ends, for a tracker with arguments.
        **kwargs: Arguments of MMEngine's ``Visualizer``.

    Raises:
        ValueError: If a name is unknown or its package is not installed.
    """

    def __init__(
        self,
        name: str = "visualizer",
        vis_backends: str | dict | Iterable[str | dict | BaseVisBackend] = (),
        **kwargs: Any,
    ):
        if isinstance(vis_backends, str | dict | BaseVisBackend):
            vis_backends = [vis_backends]
        backends = [_to_config(backend) for backend in vis_backends or ()]
        if not any(_class_name(b) in ("LocalVisBackend", "LocalFiles") for b in backends):
            backends.insert(0, dict(LOCAL))
        super().__init__(name, vis_backends=backends, **kwargs)
        self._reported_errors: set[str] = set()

    def add_config(self, *args: Any, **kwargs: Any) -> None:
        """Extend MMEngine's method: warn if files cannot be written."""
        with self._warn_on_file_error():
            super().add_config(*args, **kwargs)

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        """Extend MMEngine's method: warn if files cannot be written."""
        with self._warn_on_file_error():
            super().add_image(*args, **kwargs)

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Extend MMEngine's method: warn if files cannot be written."""
        with self._warn_on_file_error():
            super().add_scalar(*args, **kwargs)

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        """Extend MMEngine's method: warn if files cannot be written."""
        with self._warn_on_file_error():
            super().add_scalars(*args, **kwargs)

    @contextmanager
    def _warn_on_file_error(self) -> Iterator[None]:
        """Turn an OSError into a warning, once for each cause."""
        try:
            yield
        except OSError as error:
            cause = error.strerror or str(error)
            if cause not in self._reported_errors:
                self._reported_errors.add(cause)
                folders = {str(backend._save_dir) for backend in self._vis_backends.values()}
                print_log(
                    f"Curves and pictures cannot be written to {', '.join(sorted(folders))}: "
                    f"{cause}. Training goes on, and what it logs is lost until there is room.",
                    logger="current",
                    level=logging.WARNING,
                )


def _class_name(backend: Any) -> str:
    """Return the class name of a back end or of its config."""
    kind = backend["type"] if isinstance(backend, dict) else type(backend)
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def _to_config(backend: Any) -> Any:
    """Return the config of a back end given by its name; return anything else unchanged."""
    if not isinstance(backend, str):
        return backend
    if backend == "local":
        return dict(LOCAL)
    if backend not in TRACKERS:
        raise ValueError(
            f"visualizer.vis_backends names {backend!r}; the trackers are {', '.join(TRACKERS)}. "
            "Local files are always written."
        )
    if find_spec(backend) is None:
        raise ValueError(
            f"visualizer.vis_backends names {backend!r}, which is not installed: "
            f"pip install xtra_toolkit[{backend}]"
        )
    return dict(type=TRACKERS[backend])
