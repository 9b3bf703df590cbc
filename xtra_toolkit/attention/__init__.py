"""Compute attention under a pattern, ``attention(q, k, v, pattern)``; each back end has a file."""

from xtra_toolkit.attention.dispatch import BACKENDS, Pattern, attention, choose, get_attention

__all__ = ["BACKENDS", "Pattern", "attention", "choose", "get_attention"]
