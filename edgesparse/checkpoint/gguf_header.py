"""GGUF header: magic, counts, key/value pairs and the raw tensor table.

Layout (little-endian): magic, u32 version, u64 n_tensors, u64 n_kv; then per pair
``string key, u32 type, value``; then per tensor ``string name, u32 n_dims, u64 dim[n_dims]
(contiguous first), u32 type id, u64 offset``. A string is ``u64 length, UTF-8 bytes``.
Nothing is allocated from a count before it has been compared with the bytes left.
"""

from __future__ import annotations

import struct
from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.strings import StringArray
from edgesparse.errors import ModelFormatError

__all__ = ["GgufHeader", "MetadataValue", "RawTensor", "read_header"]

MetadataValue = bool | int | float | str | list[int] | npt.NDArray[np.generic] | StringArray

MAX_RECORDS = 65_536
MAX_KEY_BYTES = 65_535
MAX_NAME_BYTES = 64
MAX_STRING_BYTES = 16 << 20
MAX_HEADER_BYTES = 256 << 20
MAX_ARRAY = 64 << 20
MAX_ALIGNMENT = 65_536
_FIRST_READ = 256 << 10
_NEXT_READ = 4 << 20
_UTF8_STEP = 1 << 20

_STRING, _BOOL, _ARRAY = 8, 7, 9
_SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<B"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32 = _SCALARS[4]
_U64 = _SCALARS[10]


class RawTensor(NamedTuple):
    """One record of the tensor table, checked in itself but not against the others."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


class GgufHeader(NamedTuple):
    """Everything before the data section of one file."""

    magic: bytes
    metadata: dict[str, MetadataValue]
    tensors: list[RawTensor]
    alignment: int
    data_start: int


class _Cursor:
    """Forward reader over the header; grows a private copy by bytes actually read."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.buffer = bytearray()
        self.position = 0

    def fail(self, kind: str, field: str, detail: str, advice: str = "") -> ModelFormatError:
        return ModelFormatError(
            kind, shown(field), detail, path=shown(self.source.path, 400), advice=advice
        )

    @property
    def bytes_left(self) -> int:
        return self.source.n_bytes - self.position

    def need(self, n_bytes: int, field: str) -> None:
        """Make sure that `n_bytes` from the position on are in the buffer."""
        end = self.position + n_bytes
        have = len(self.buffer)
        if end <= have:
            return
        if end > self.source.n_bytes:
            raise self.fail(
                "truncated",
                field,
                f"needs {n_bytes} bytes at {self.position}, the file has {self.source.n_bytes}",
                "The file is incomplete: fetch it again.",
            )
        if end > MAX_HEADER_BYTES:
            raise self.fail("limit", field, "the header exceeds 256 MiB")
        step = _NEXT_READ if have else _FIRST_READ
        more = min(max(end - have, step), self.source.n_bytes - have)
        self.buffer += self.source.read_at(have, more, field)

    def u32(self, field: str) -> int:
        return int(self.number(_U32, field))

    def u64(self, field: str) -> int:
        return int(self.number(_U64, field))

    def number(self, layout: struct.Struct, field: str) -> int | float:
        self.need(layout.size, field)
        value: int | float = layout.unpack_from(self.buffer, self.position)[0]
        self.position += layout.size
        return value

    def text(self, field: str, min_bytes: int, max_bytes: int) -> str:
        length = self.u64(field)
        if length > self.bytes_left:
            raise self.fail(
                "truncated", field, f"a string of {length} bytes, {self.bytes_left} are left"
            )
        if not min_bytes <= length <= max_bytes:
            raise self.fail(
                "limit", field, f"a string of {length} bytes, allowed {min_bytes} to {max_bytes}"
            )
        self.need(length, field)
        raw = bytes(self.buffer[self.position : self.position + length])
        self.position += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("value", field, "the text is not UTF-8") from None


def read_header(source: SourceFile) -> GgufHeader:
    """Read and check everything before the data section.

    Parameters
    ----------
    source : SourceFile
        Open file.

    Raises
    ------
    ModelFormatError
        With the kinds ``truncated``, ``overflow``, ``limit``, ``type``, ``duplicate``, ``range``,
        ``value`` and ``unsupported``.
    """
    cursor = _Cursor(source)
    cursor.need(24, "header")
    magic = bytes(cursor.buffer[:4])
    cursor.position = 4
    if magic not in (b"GGUF", b"PWRI"):
        raise cursor.fail(
            "value", "magic", f"expected GGUF, found {magic!r}", "Give a .gguf file or a folder."
        )
    _check_version(cursor)
    n_tensors = _count(cursor, "tensor_count", 33)
    n_pairs = _count(cursor, "kv_count", 14)
    metadata: dict[str, MetadataValue] = {}
    for _ in range(n_pairs):
        key = cursor.text("metadata key", 1, MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.fail("duplicate", key, "the key occurs twice")
        type_id = cursor.u32(key)
        if key == "general.alignment" and type_id != 4:
            raise cursor.fail("type", key, f"expected value type 4 (u32), found {type_id}")
        metadata[key] = _value(cursor, key, type_id)
    alignment = metadata.get("general.alignment", 32)
    if (
        not isinstance(alignment, int)
        or not 1 <= alignment <= MAX_ALIGNMENT
        or alignment & (alignment - 1)
    ):
        raise cursor.fail(
            "range", "general.alignment", f"expected a power of two to 65536, found {alignment}"
        )
    tensors = _tensor_table(cursor, n_tensors)
    data_start = -(-cursor.position // alignment) * alignment
    return GgufHeader(magic, metadata, tensors, alignment, data_start)


def _check_version(cursor: _Cursor) -> None:
    version = cursor.u32("version")
    if version in (2, 3):
        return
    if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, 2, 3):
        detail, advice = "the file is big-endian", "Convert it on a little-endian machine."
    else:
        detail, advice = f"version {version}, this reader knows 2 and 3", "Convert the model again."
    raise cursor.fail("unsupported", "version", detail, advice)


def _count(cursor: _Cursor, field: str, min_record_bytes: int) -> int:
    count = cursor.u64(field)
    if count > MAX_RECORDS:
        raise cursor.fail("limit", field, f"{count} records, at most {MAX_RECORDS} are read")
    if count * min_record_bytes > cursor.bytes_left:
        raise cursor.fail(
            "truncated", field, f"{count} records cannot fit in {cursor.bytes_left} bytes"
        )
    return count


def _value(cursor: _Cursor, key: str, type_id: int) -> MetadataValue:
    if type_id == _STRING:
        return cursor.text(key, 0, MAX_STRING_BYTES)
    if type_id == _ARRAY:
        return _array(cursor, key)
    layout = _SCALARS.get(type_id)
    if layout is None:
        raise cursor.fail("type", key, f"unknown value type {type_id}")
    value = cursor.number(layout, key)
    if type_id == _BOOL:
        if value not in (0, 1):
            raise cursor.fail("value", key, f"a bool must be 0 or 1, found {value}")
        return bool(value)
    return value


def _array(cursor: _Cursor, key: str) -> MetadataValue:
    type_id = cursor.u32(key)
    count = cursor.u64(key)
    if type_id == _ARRAY:
        raise cursor.fail("unsupported", key, "arrays of arrays are not read")
    layout = _SCALARS.get(type_id)
    if layout is None and type_id != _STRING:
        raise cursor.fail("type", key, f"unknown element type {type_id}")
    element_bytes = 8 if layout is None else layout.size
    if count > cursor.bytes_left // element_bytes:
        raise cursor.fail(
            "truncated", key, f"{count} elements cannot fit in {cursor.bytes_left} bytes"
        )
    if count > MAX_ARRAY:
        raise cursor.fail("limit", key, f"{count} elements, at most {MAX_ARRAY} are read")
    if layout is None:
        return _string_array(cursor, key, count)
    cursor.need(count * layout.size, key)
    end = cursor.position + count * layout.size
    raw = bytes(cursor.buffer[cursor.position : end])
    cursor.position = end
    values = np.frombuffer(raw, dtype=np.dtype(layout.format))
    if type_id == _BOOL:
        if count and int(values.max()) > 1:
            raise cursor.fail("value", key, "a bool element is neither 0 nor 1")
        return values.view(np.bool_)
    return values


def _string_array(cursor: _Cursor, key: str, count: int) -> StringArray:
    """Find the offsets in one tight loop; the strings stay bytes until somebody asks."""
    begin = position = cursor.position
    buffer = cursor.buffer
    end = len(buffer)
    offsets = array("q")
    lengths = array("q")
    append_offset, append_length, unpack = offsets.append, lengths.append, _U64.unpack_from
    for _ in range(count):
        if position + 8 > end:
            cursor.position = position
            cursor.need(8, key)
            end = len(buffer)
        (length,) = unpack(buffer, position)
        if length > MAX_STRING_BYTES:
            raise cursor.fail(
                "limit", key, f"a string of {length} bytes, at most {MAX_STRING_BYTES} are read"
            )
        position += 8
        append_offset(position)
        append_length(length)
        position += length
    cursor.position = begin
    cursor.need(position - begin, key)
    cursor.position = position
    starts = np.frombuffer(offsets, dtype=np.int64) - begin
    stops = starts + np.frombuffer(lengths, dtype=np.int64)
    blob = _checked_text(cursor, key, buffer[begin:position], starts)
    return StringArray(blob, starts, stops)


def _checked_text(
    cursor: _Cursor, key: str, text: bytearray, starts: npt.NDArray[np.int64]
) -> bytes:
    """Check UTF-8 of all strings at once.

    The length prefixes are overwritten with NUL, which is valid UTF-8 and ends any sequence: the
    whole is valid exactly when every string is.
    """
    view = np.frombuffer(text, dtype=np.uint8)
    for place in range(8):
        view[starts - 8 + place] = 0
    blob = bytes(text)
    begin = 0
    while begin < len(blob):
        end = len(blob)
        if end - begin > _UTF8_STEP:
            at = int(np.searchsorted(starts, begin + _UTF8_STEP, side="right"))
            end = int(starts[at]) - 8 if at < len(starts) else end
        try:
            blob[begin:end].decode("utf-8")
        except UnicodeDecodeError:
            raise cursor.fail("value", key, "a string is not UTF-8") from None
        begin = end
    return blob


def _tensor_table(cursor: _Cursor, n_tensors: int) -> list[RawTensor]:
    tensors: list[RawTensor] = []
    names: set[str] = set()
    for index in range(n_tensors):
        name = cursor.text(f"tensor {index}", 1, MAX_NAME_BYTES)
        if name in names:
            raise cursor.fail("duplicate", name, "the tensor name occurs twice")
        names.add(name)
        n_dims = cursor.u32(name)
        if not 1 <= n_dims <= 4:
            raise cursor.fail("range", name, f"{n_dims} dimensions, expected 1 to 4")
        dims = [cursor.u64(name) for _ in range(n_dims)]
        for dim in dims:
            if dim >= 1 << 40:
                raise cursor.fail("overflow", name, f"a dimension of {dim}")
        type_id = cursor.u32(name)
        tensors.append(RawTensor(name, tuple(reversed(dims)), type_id, cursor.u64(name)))
    return tensors
