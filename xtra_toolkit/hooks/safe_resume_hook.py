"""Save checkpoints that torch loads without executing what is in them.

MMEngine 0.10.7 pickles HistoryBuffer objects and NumPy scalars into a checkpoint. Its loader
(``load_from_local`` in runner/checkpoint.py) calls ``torch.load`` with the default, which is
``weights_only=True`` since torch 2.6 and refuses them, so every ``--resume`` fails.
"""

from typing import Any

from mmengine.hooks import Hook

from xtra_toolkit.registry import HOOKS
from xtra_toolkit.utils.config_text import resumed_differences
from xtra_toolkit.utils.safe_encoding import decode, encode


@HOOKS.register_module()
class SafeResume(Hook):
    """Encode the bookkeeping of a checkpoint when it is saved, and decode it when it is loaded.

    Weights and optimizer state are tensors already. Checkpoints saved without this hook load as
    before. MMEngine keeps the last million values of each logged scalar, copies them in each step
    and saves them in each checkpoint; this hook limits their number.

    Args:
        history: Number of values of each scalar to keep. A ``log_processor`` averages over at most
            this many, whatever its ``window_size``.
    """

    priority = "LOWEST"  # what other hooks add to the checkpoint is encoded as well
    parts = ("meta", "message_hub", "param_schedulers")

    def __init__(self, history: int = 10_000):
        if history < 1:
            raise ValueError(f"SafeResume(history={history}) was given; it keeps at least 1 value")
        self.history = history

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Limit the history of every scalar; a buffer shortens itself when it is updated."""
        for buffer in runner.message_hub.log_scalars.values():
            buffer.max_length = self.history

    def before_save_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Encode the checkpoint. The runner calls this just before it writes the file."""
        for part in checkpoint.keys() & self.parts:
            checkpoint[part] = encode(checkpoint[part])

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Decode the checkpoint, and log which settings of the resumed run have changed.

        The runner calls this before it reads the parts.
        """
        for part in checkpoint.keys() & self.parts:
            checkpoint[part] = decode(checkpoint[part])
        if getattr(runner, "_resume", False) is True:
            former = str((checkpoint.get("meta") or {}).get("cfg") or "")
            for sentence in resumed_differences(former, runner.cfg.to_dict()):
                runner.logger.warning(sentence)
