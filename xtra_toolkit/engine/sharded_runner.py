"""MMEngine's FlexibleRunner with what the usual Runner does before training."""

from mmengine.hooks import CheckpointHook
from mmengine.runner import FlexibleRunner

from xtra_toolkit.registry import RUNNERS

# They read or change weights outside of the forward pass, where each process has a part
OUTSIDE = ("EMAHook", "UpdateTeacher", "KNNValLoop", "KNNTestLoop")


@RUNNERS.register_module()
class ShardedRunner(FlexibleRunner):
    """MMEngine's FlexibleRunner, which finds its checkpoint as Runner does.

    Raises:
        ValueError: A part of the config needs unsharded weights.
    """

    @classmethod
    def from_cfg(cls, cfg: dict) -> "ShardedRunner":
        """Build the runner. GlobalBatchLoop reads ``compile``, which MMEngine ignores here."""
        if cfg.get("model_wrapper_cfg"):
            raise ValueError(
                "model_wrapper_cfg is set, and FlexibleRunner would leave it out: set its options "
                "in strategy.model_wrapper instead."
            )
        hooks = [*(cfg.get("default_hooks") or {}).values(), *(cfg.get("custom_hooks") or ())]
        for part in (*hooks, cfg.get("val_cfg"), cfg.get("test_cfg")):
            kind = part.get("type") if isinstance(part, dict) else type(part)
            name = getattr(kind, "__name__", str(kind))  # of a class, or as it is written
            if name.rpartition(".")[2] in OUTSIDE:
                raise ValueError(
                    f"{name} needs whole weights outside of the forward pass, and each process "
                    "has a part: leave it out, or take the config without sharding."
                )
        return super().from_cfg(cfg)

    def load_or_resume(self) -> None:
        """Let the checkpoint hook choose the file first; MMEngine 0.10.7 would not."""
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook) and not self._has_loaded:
                hook.before_run(self)
        super().load_or_resume()
