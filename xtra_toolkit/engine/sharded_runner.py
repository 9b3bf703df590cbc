"""Run a strategy through MMEngine's FlexibleRunner, with features that only Runner has."""

from mmengine.hooks import CheckpointHook
from mmengine.runner import FlexibleRunner

from xtra_toolkit.engine.config_keys import refuse_unknown_arguments
from xtra_toolkit.registry import RUNNERS

# These read or change weights outside of the forward pass, where each process holds a part only
NEED_WHOLE_WEIGHTS = ("EMAHook", "UpdateTeacher", "KNNValLoop", "KNNTestLoop")


@RUNNERS.register_module()
class ShardedRunner(FlexibleRunner):
    """Extend MMEngine's FlexibleRunner: find the checkpoint as Runner does.

    Raises:
        ValueError: The config has a key that nothing reads, a part of it needs whole weights
            outside of the forward pass, or ``model_wrapper_cfg`` is set.
    """

    @classmethod
    def from_cfg(cls, cfg: dict) -> "ShardedRunner":
        """Build the runner. GlobalBatchLoop reads ``compile``, which MMEngine ignores here."""
        refuse_unknown_arguments(cfg)
        if cfg.get("model_wrapper_cfg"):
            raise ValueError(
                "model_wrapper_cfg is set, and FlexibleRunner ignores it: set its options "
                "in strategy.model_wrapper instead."
            )
        hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or ())]
        for part in (*hooks, cfg.get("val_cfg"), cfg.get("test_cfg")):
            kind = part.get("type") if isinstance(part, dict) else type(part)
            name = getattr(kind, "__name__", str(kind))  # the type is a class or its name
            if name.rpartition(".")[2] in NEED_WHOLE_WEIGHTS:
                raise ValueError(
                    f"{name} needs whole weights outside of the forward pass, and each process "
                    "holds a part of them: leave it out, or use the config without sharding."
                )
        return super().from_cfg(cfg)

    def load_or_resume(self) -> None:
        """Let the checkpoint hook choose the checkpoint, then load or resume.

        MMEngine 0.10.7 reads ``last_checkpoint`` before any hook could correct it.
        """
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook) and not self._has_loaded:
                hook.before_run(self)
        super().load_or_resume()
