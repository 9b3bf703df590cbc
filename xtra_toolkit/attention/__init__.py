"""Attention under a pattern: ``attention(q, k, v, pattern)`` and its back ends, one per file."""

from xtra_toolkit.attention.dispatch import BACKENDS, Pattern, attention, choose, get_attention

__all__ = ["BACKENDS", "Pattern", "attention", "choose", "get_attention"]
