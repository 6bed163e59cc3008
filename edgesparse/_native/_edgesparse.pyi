"""The compiled module, written by cffi from native/include/edgesparse.h."""

from typing import Any

ffi: Any
lib: Any
