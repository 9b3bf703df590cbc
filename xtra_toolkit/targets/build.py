"""From a config to a target factory, with a sentence where that fails."""

from torch import nn

from xtra_toolkit.registry import MODELS


def build_target(cfg: dict | nn.Module) -> nn.Module:
    """A target factory from ``dict(type='NextBlock')``; a module is passed on."""
    from xtra_toolkit.plugins import failures, find  # late: it imports plugins, and they us

    if isinstance(cfg, nn.Module):
        return cfg
    if not hasattr(cfg, "get") or not cfg.get("type"):
        raise ValueError(
            f"a target_generator must be a dict with a `type`, or a module; given: {cfg!r}"
        )
    kind = cfg["type"]
    factory = find(MODELS, kind) if isinstance(kind, str) else kind
    if not hasattr(factory, "links"):
        known = sorted(n for n, f in MODELS.module_dict.items() if hasattr(f, "links"))
        said = failures(kind) if isinstance(kind, str) else ""
        raise ValueError(f"unknown target {kind!r}; known targets: {', '.join(known)}{said}")
    args = {name: value for name, value in cfg.items() if name != "type"}
    try:
        return factory(**args)
    except TypeError as error:
        raise ValueError(f"target {kind!r} cannot be made of {args}: {error}") from error
