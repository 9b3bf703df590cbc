"""Build a target from its config, and explain why if that fails."""

from xtra_toolkit.objective.target import Target
from xtra_toolkit.plugins import failures, find
from xtra_toolkit.registry import MODELS


def build_target(cfg: dict | Target) -> Target:
    """Build a target from its config, for instance ``dict(type='NextBlock')``.

    A target is returned as it is.

    Raises:
        ValueError: No target can be built of the config; the message says why.
    """
    if isinstance(cfg, Target):
        return cfg
    if not isinstance(cfg, dict) or not cfg.get("type"):
        raise ValueError(
            f"a target_generator must be a dict with a `type`, or a Target; given: {cfg!r}"
        )
    kind = cfg["type"]
    factory = find(MODELS, kind) if isinstance(kind, str) else kind
    if not _is_target(factory):
        known = sorted(name for name, found in MODELS.module_dict.items() if _is_target(found))
        failed = failures(kind) if isinstance(kind, str) else ""
        raise ValueError(f"unknown target {kind!r}; known targets: {', '.join(known)}{failed}")
    args = {name: value for name, value in cfg.items() if name != "type"}
    try:
        return factory(**args)
    except TypeError as error:
        raise ValueError(f"target {kind!r} cannot be made of {args}: {error}") from error


def _is_target(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Target)
