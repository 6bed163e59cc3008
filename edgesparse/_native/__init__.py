"""Find the compiled module, or say why there is none.

Nothing is loaded until somebody asks: importing this package costs nothing and never fails. The
module itself is built from ``native/``; its declarations are those of
``native/include/edgesparse.h``. Setting ``EDGESPARSE_NO_NATIVE=1`` makes it count as absent, which
is how the portable path is tried on a machine that has both.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType
from typing import Any

from edgesparse.errors import NativeUnavailable

__all__ = ["available", "ffi", "lib", "why_not"]

_MODULE = "edgesparse._native._edgesparse"
_ABSENT = "edgesparse._native._absent"
_SWITCH = "EDGESPARSE_NO_NATIVE"


def available() -> bool:
    """Tell whether the compiled module is there and can be loaded."""
    return not why_not()


def why_not() -> str:
    """Give the reason why the compiled module cannot be used, empty if it can."""
    if os.environ.get(_SWITCH, "") not in ("", "0"):
        return f"{_SWITCH} is set"
    return _load()[1]


def ffi() -> Any:
    """Return cffi's ``ffi`` object: ``new``, ``cast``, ``from_buffer``, ``string``.

    Raises
    ------
    NativeUnavailable
        The compiled module is absent, switched off, or was built for another machine.
    """
    return _require().ffi


def lib() -> Any:
    """Return the engine's C functions and constants as attributes of one object.

    Raises
    ------
    NativeUnavailable
        The compiled module is absent, switched off, or was built for another machine.
    """
    return _require().lib


def _require() -> Any:
    reason = why_not()
    if reason:
        advice = (
            f"Unset {_SWITCH} to use it."
            if reason.startswith(_SWITCH)
            else "Reinstall edgesparse with a C compiler at hand, or use the portable executor."
        )
        raise NativeUnavailable(f"the native engine is not available: {reason}.", advice=advice)
    return _load()[0]


@cache
def _load() -> tuple[ModuleType | None, str]:
    """Import the module once; return it with an empty reason, or nothing with the reason."""
    try:
        return importlib.import_module(_MODULE), ""
    except ModuleNotFoundError as error:
        if error.name != _MODULE:
            return None, f"the compiled module needs '{error.name}', which is not installed"
        return None, _recorded_reason()
    except ImportError as error:
        return None, f"the compiled module does not load here ({error})"


def _recorded_reason() -> str:
    """Read the note that the build leaves in place of the module."""
    try:
        return str(importlib.import_module(_ABSENT).REASON)
    except ModuleNotFoundError:
        return "the compiled module has not been built"
