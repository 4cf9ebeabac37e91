"""Autotelic: language models that set themselves tasks, solve them and learn from what held.

The public face is small and light: nothing heavier than pydantic is imported here, so `import autotelic` stays far
under half a second. Rooms import torch, vLLM, Chroma and friends where they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from autotelic.core.registry import register
    from autotelic.graphs import Config, SelfPlay
    from autotelic.tools import tool

__all__ = ["Config", "SelfPlay", "__version__", "register", "tool"]

_LAZY = {
    "Config": "autotelic.graphs",
    "SelfPlay": "autotelic.graphs",
    "register": "autotelic.core.registry",
    "tool": "autotelic.tools",
}


def __getattr__(name: str) -> Any:
    """Resolve the public names on first use (PEP 562)."""
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'autotelic' has no attribute {name!r}")
