"""Finds the compiled modules, which are there where the package was built with a compiler.

Invariant: without them everything works, and is slower. Whoever asks for one has Python code that
does the same. ``SHARDWRITER_PURE_PYTHON=1`` keeps them out.
"""

import os
from importlib import import_module
from typing import Any

__all__ = ["compiled_module"]


def compiled_module(name: str) -> Any:
    """Return a compiled module by its full name, None where there is none."""
    if os.environ.get("SHARDWRITER_PURE_PYTHON"):
        return None
    try:
        return import_module(name)
    except ImportError:
        return None
