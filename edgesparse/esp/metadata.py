"""Metadata as the key-value part of a GGUF header without tensors, for our GGUF reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.strings import StringArray

__all__ = ["pack_metadata"]

_LEFT_OUT = ("split.", "general.alignment")
_ARRAYS = {
    np.dtype(np.uint8): 0,
    np.dtype(np.int8): 1,
    np.dtype(np.uint16): 2,
    np.dtype(np.int16): 3,
    np.dtype(np.uint32): 4,
    np.dtype(np.int32): 5,
    np.dtype(np.float32): 6,
    np.dtype(np.bool_): 7,
    np.dtype(np.uint64): 10,
    np.dtype(np.int64): 11,
    np.dtype(np.float64): 12,
}


def pack_metadata(metadata: Mapping[str, MetadataValue]) -> bytes:
    """Write all values but those about the old container; floats as float64, so nothing is lost."""
    kept = {k: v for k, v in metadata.items() if not k.startswith(_LEFT_OUT)}
    parts = [b"GGUF", struct.pack("<IQQ", 3, 0, len(kept))]
    for key, value in kept.items():
        parts += [_text(key.encode()), _value(value)]
    return b"".join(parts)


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _value(value: MetadataValue) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<Iq", 11, value) if value < 1 << 63 else struct.pack("<IQ", 10, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value.encode())
    if isinstance(value, StringArray):
        strings = b"".join(_text(value.raw(i)) for i in range(len(value)))
        return struct.pack("<IIQ", 9, 8, len(value)) + strings
    array = np.ascontiguousarray(value)
    if array.size == 0 and isinstance(value, list):
        array = array.astype(np.int32)
    array = array.astype(array.dtype.newbyteorder("<"))
    kind = _ARRAYS[np.dtype(array.dtype.newbyteorder("="))]
    return struct.pack("<IIQ", 9, kind, array.size) + array.tobytes()
