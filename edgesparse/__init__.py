"""edgesparse: ternary and sparse language models on ordinary CPUs.

>>> import edgesparse
>>> model = edgesparse.load()                      # the model that ships with the package
>>> model.chat().send("What is the capital of France?").text

The package is laid out along the path that data takes:

1. ``checkpoint``: a file becomes named tensors; ``tokenizer``: text becomes ids and back
2. ``formats``: tensors become weights in the bytes that kernels read
3. ``architectures``: a configuration becomes a list of ops
4. ``plan``: the frozen op list and what it costs
5. ``ops``, ``portable``: each op's numpy truth and its numba twin (the C is in ``native/``)
6. ``executors``: reference, portable, native, and lockstep, which compares two of them
7. ``engine``, ``session``: tokens become logits; a conversation owns its cache
8. ``sampling``, ``generate``, ``chat``, ``cli``: logits become text
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from edgesparse import errors

if TYPE_CHECKING:
    from edgesparse.cancel import CancelToken
    from edgesparse.load_model import load
    from edgesparse.model import Model

__all__ = ["CancelToken", "Model", "__version__", "errors", "load"]

__version__ = "0.1.0"

if sys.maxsize < 1 << 32:
    raise ImportError(
        "edgesparse needs a 64-bit Python. On a Raspberry Pi install the 64-bit Raspberry Pi OS: "
        "a 64-bit kernel under 32-bit programs is not enough."
    )

_HOMES = {
    "CancelToken": "edgesparse.cancel",
    "Model": "edgesparse.model",
    "load": "edgesparse.load_model",
}


def __getattr__(name: str) -> Any:
    """Import the heavy half of the package when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgesparse' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
