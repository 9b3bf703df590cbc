"""Run a config after a check of its keys."""

from mmengine.config import Config
from mmengine.runner import Runner

from xtra_toolkit.engine.config_keys import refuse_unknown_arguments
from xtra_toolkit.registry import RUNNERS


@RUNNERS.register_module()
class CheckedRunner(Runner):
    """Extend MMEngine's Runner: refuse a config with keys that nothing reads.

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
