"""Where curves and pictures go: local files, and trackers by their names.

    --cfg-options visualizer.vis_backends=tensorboard

(or ``wandb``, ``mlflow``, or several, ``wandb,tensorboard``), each after
``pip install xtra_toolkit[NAME]``.
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
# a tracker, its package and the extra that installs it have one name
TRACKERS = dict(
    tensorboard="xtra_toolkit.TensorBoardTracker",
    wandb="xtra_toolkit.WandbTracker",
    mlflow="xtra_toolkit.MLflowTracker",
)


@VISUALIZERS.register_module()
class Visualizer(UniversalVisualizer):
    """MMPretrain's visualizer, whose back ends may be names; local files are always one.

    Args:
        name: of the instance, MMEngine's.
        vis_backends: one or several of ``'tensorboard'``, ``'wandb'``, ``'mlflow'``, or configs of
            back ends, where a tracker has arguments.
        **kwargs: of MMEngine's ``Visualizer``.

    Raises:
        ValueError: an unknown name, or its package is not installed.
    """

    def __init__(
        self,
        name: str = "visualizer",
        vis_backends: str | dict | Iterable[str | dict | BaseVisBackend] = (),
        **kwargs: Any,
    ):
        one = isinstance(vis_backends, str | dict | BaseVisBackend)
        others = [_config(backend) for backend in ([vis_backends] if one else vis_backends or ())]
        own = any(_kind(other) in ("LocalVisBackend", "LocalFiles") for other in others)
        local = [] if own else [{**LOCAL}]
        super().__init__(name, vis_backends=local + others, **kwargs)
        self._unwritten: set[str] = set()

    def add_config(self, *args: Any, **kwargs: Any) -> None:
        """MMEngine's; a full disk is said, and stops nothing."""
        with self._going_on():
            super().add_config(*args, **kwargs)

    def add_image(self, *args: Any, **kwargs: Any) -> None:
        """MMEngine's; a full disk is said, and stops nothing."""
        with self._going_on():
            super().add_image(*args, **kwargs)

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """MMEngine's; a full disk is said, and stops nothing."""
        with self._going_on():
            super().add_scalar(*args, **kwargs)

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        """MMEngine's; a full disk is said, and stops nothing."""
        with self._going_on():
            super().add_scalars(*args, **kwargs)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Turn an OSError, of MMEngine's without the file's name, into a warning, once a cause."""
        try:
            yield
        except OSError as error:
            cause = error.strerror or str(error)
            if cause not in self._unwritten:
                self._unwritten.add(cause)
                folders = {str(backend._save_dir) for backend in self._vis_backends.values()}
                print_log(
                    f"Curves and pictures cannot be written to {', '.join(sorted(folders))}: "
                    f"{cause}. Training goes on, and what it logs is lost until there is room.",
                    logger="current",
                    level=logging.WARNING,
                )


def _kind(backend: Any) -> str:
    """The name of the class."""
    kind = backend["type"] if isinstance(backend, dict) else type(backend)
    return getattr(kind, "__name__", str(kind)).rpartition(".")[2]


def _config(backend: Any) -> Any:
    """The config of a tracker that is named; anything else as it is."""
    if not isinstance(backend, str):
        return backend
    if backend == "local":
        return {**LOCAL}
    if backend not in TRACKERS:
        raise ValueError(
            f"visualizer.vis_backends names {backend!r}; there are {', '.join(TRACKERS)}, beside "
            "the local files, which are always written."
        )
    if find_spec(backend) is None:
        raise ValueError(
            f"visualizer.vis_backends names {backend!r}, which is not installed: "
            f"pip install xtra_toolkit[{backend}]"
        )
    return dict(type=TRACKERS[backend])
