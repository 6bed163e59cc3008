"""The container of pre-packed files: a header, a table of sections, sections with checksums.

All numbers are little-endian. Sections tile the file in the order of the table: each begins at the
first multiple of its alignment behind the one before, gaps hold zeros, the last ends with the file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.errors import ModelFormatError

__all__ = [
    "HEADER",
    "INDEX",
    "MAGIC",
    "METADATA",
    "PLAN",
    "TOKENIZER_JSON",
    "TOKENIZER_MODEL",
    "Section",
    "is_esp",
    "pack_table",
    "place",
    "read_table",
]

MAGIC = b"EDGESP\r\n"
"""The line end shows transfers as text, which break a file."""
VERSION = 1
HEADER = struct.Struct("<8sIIQQII")
"""Magic, version, sections, bytes of the file, reserved (0), checksums of the table and of what
stands before in the header."""
ENTRY = struct.Struct("<16sQQII")
"""Name, offset, bytes, CRC-32, reserved (0)."""
SMALL, LARGE = 64, 1 << 16
"""Alignments: of a cache line, and of the largest page of any CPU that runs this (64 KiB)."""
MAX_SECTIONS = 1 << 18

METADATA, INDEX, PLAN = "metadata", "index", "plan"
TOKENIZER_JSON, TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"
BLOB = "blob"
"""Name of every section that holds an array."""
_NAMES = frozenset({METADATA, INDEX, PLAN, TOKENIZER_JSON, TOKENIZER_MODEL, BLOB})


@dataclass(frozen=True)
class Section:
    """One record of the table: bytes [offset, offset + n_bytes) of the file."""

    name: str
    offset: int
    n_bytes: int
    crc: int


def is_esp(source: SourceFile) -> bool:
    """Tell whether a file begins like a pre-packed one."""
    n = min(source.n_bytes, len(MAGIC))
    return source.read_at(0, n, "magic") == MAGIC


def place(sizes: Sequence[int]) -> list[int]:
    """Give the offset of every section behind header and table."""
    offsets = []
    end = HEADER.size + ENTRY.size * len(sizes)
    for size in sizes:
        align = LARGE if size >= LARGE else SMALL
        begin = -(-end // align) * align
        offsets.append(begin)
        end = begin + size
    return offsets


def pack_table(sections: Sequence[Section]) -> bytes:
    """Write header and table."""
    table = b"".join(
        ENTRY.pack(s.name.encode("ascii"), s.offset, s.n_bytes, s.crc, 0) for s in sections
    )
    n_bytes = sections[-1].offset + sections[-1].n_bytes
    front = HEADER.pack(MAGIC, VERSION, len(sections), n_bytes, 0, zlib.crc32(table), 0)
    return front[:-4] + struct.pack("<I", zlib.crc32(front[:-4])) + table


def read_table(source: SourceFile) -> list[Section]:
    """Read header and table, and check them against the file.

    Raises
    ------
    ModelFormatError
        ``truncated``, ``value`` (magic, checksum), ``unsupported`` (version), ``limit`` or
        ``layout``.
    """
    if source.n_bytes < HEADER.size:
        raise _error(source, "truncated", "header", f"the file has {source.n_bytes} bytes")
    front = source.read_at(0, HEADER.size, "header")
    magic, version, count, n_bytes, reserved, table_crc, front_crc = HEADER.unpack(front)
    if magic != MAGIC:
        raise _error(source, "value", "magic", f"expected {MAGIC!r}, found {magic!r}")
    if zlib.crc32(front[:-4]) != front_crc:
        raise _error(source, "value", "header", "its checksum does not match")
    if version != VERSION or reserved:
        detail = f"version {version}; this build reads version {VERSION}"
        raise _error(source, "unsupported", "version", detail, _AGAIN)
    if n_bytes != source.n_bytes:
        detail = f"expected a file of {n_bytes} bytes, found {source.n_bytes}"
        raise _error(source, "truncated", "length", detail)
    if not 1 <= count <= MAX_SECTIONS or HEADER.size + count * ENTRY.size > n_bytes:
        raise _error(source, "limit", "sections", f"{count} sections in {n_bytes} bytes")
    table = source.read_at(HEADER.size, count * ENTRY.size, "table")
    if zlib.crc32(table) != table_crc:
        raise _error(source, "value", "table", "its checksum does not match")
    sections = [_section(source, i, *entry) for i, entry in enumerate(ENTRY.iter_unpack(table))]
    offsets = place([section.n_bytes for section in sections])
    for i, (section, offset) in enumerate(zip(sections, offsets, strict=True)):
        if section.offset != offset:
            detail = f"begins at {section.offset}, expected {offset}"
            raise _error(source, "layout", f"section {i}", detail)
    end = sections[-1].offset + sections[-1].n_bytes
    if end != n_bytes:
        detail = f"the last section ends at {end} of {n_bytes} bytes"
        raise _error(source, "layout", "sections", detail)
    return sections


_AGAIN = "Convert the model again with this version."


def _section(
    source: SourceFile, i: int, raw: bytes, offset: int, n_bytes: int, crc: int, reserved: int
) -> Section:
    name = raw.rstrip(b"\0").decode("ascii", "replace")
    if name not in _NAMES or reserved:
        raise _error(source, "unsupported", f"section {i}", f"its name is {shown(name)}", _AGAIN)
    if offset + n_bytes > source.n_bytes:
        detail = f"needs {n_bytes} bytes at {offset}, the file has {source.n_bytes}"
        raise _error(source, "truncated", f"section {i}", detail)
    return Section(name, offset, n_bytes, crc)


def _error(
    source: SourceFile, kind: str, field: str, detail: str, advice: str = "Convert it again."
) -> ModelFormatError:
    return ModelFormatError(kind, field, detail, path=shown(source.path, 400), advice=advice)
