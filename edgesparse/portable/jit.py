"""`njit`: the one place where numba's decorator is called.

The arithmetic contract forbids contraction and reassociation, so ``fastmath`` stays off and
division follows IEEE 754. Machine code is cached on disk when the cache can be trusted, and
compiled anew in every process otherwise.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

__all__ = ["njit"]

Function = TypeVar("Function", bound=Callable[..., Any])


def njit(function: Function) -> Function:
    """Compile `function` on its first call; it runs without the GIL.

    Parameters
    ----------
    function : callable
        Plain Python over arrays and scalars, and over other functions made by `njit`.

    Returns
    -------
    callable
        The same signature; compiled once per combination of argument types.
    """
    options = {"nogil": True, "fastmath": False, "error_model": "numpy"}
    if _cache_is_trustworthy():
        try:
            cached = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            pass  # no folder can be written: compile in every process
        else:
            if _stamp_cache(cached):
                return cast(Function, cached)
    return cast(Function, numba.njit(cache=False, **options)(function))


def _stamp_cache(dispatcher: Any) -> bool:
    """Tie the cache entry to every kernel source; False when this numba keeps no such stamp.

    numba compares only the file in which a function stands, yet the helpers that it calls are
    inlined into its machine code: a change to them alone would leave stale kernels behind.
    """
    file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if not hasattr(file, "_source_stamp"):
        return False
    file._source_stamp = _source_digest()
    return True


@cache
def _source_digest() -> str:
    """Digest of all files of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def _cache_is_trustworthy() -> bool:
    """Whether NUMBA_CACHE_DIR, when set, is closed to other users: a cache entry is a pickle."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if not folder or not hasattr(os, "getuid"):
        return True
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return True  # numba makes it, as ours
    except OSError:
        return False
    return status.st_uid == os.getuid() and not status.st_mode & stat.S_IWOTH
