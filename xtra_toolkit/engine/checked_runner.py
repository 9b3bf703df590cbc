"""Run a config after checks that MMEngine does not make."""

from mmengine.config import Config
from mmengine.runner import BaseLoop, Runner

from xtra_toolkit.engine.config_keys import refuse_unknown_arguments
from xtra_toolkit.models.classifier import check_classes
from xtra_toolkit.registry import RUNNERS
from xtra_toolkit.utils.unwrap import unwrap_model


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """Extend MMEngine's Runner: refuse unknown keys, and heads with fewer classes than the images.

        runner_type = "xtra_toolkit.CheckedRunner"

    MMEngine builds the model before any hook or loop of a config could check it.
    """

    @classmethod
    def from_cfg(cls, cfg: dict | Config) -> "CheckedRunner":
        """Check the keys of a config and build the runner.

        Raises:
            ValueError: A key is unknown; the nearest known ones are named.
        """
        refuse_unknown_arguments(cfg)
        return super().from_cfg(cfg)

    def build_train_loop(self, loop: dict | BaseLoop) -> BaseLoop:
        """Build the loop, and compare the classes of its images with those of the model's head.

        Raises:
            ValueError: The head has fewer classes.
        """
        loop = super().build_train_loop(loop)
        check_classes(loop.dataloader.dataset, getattr(unwrap_model(self.model), "head", None))
        return loop
