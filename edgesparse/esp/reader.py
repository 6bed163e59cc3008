"""Opens a pre-packed file as a `Checkpoint`; matrices stay where they are."""

from __future__ import annotations

import zlib

from edgesparse.checkpoint.gguf_header import read_header
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.strict_json import parse_json
from edgesparse.checkpoint.types import TensorInfo, TensorType
from edgesparse.errors import ModelFormatError
from edgesparse.esp.layout import (
    INDEX,
    METADATA,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    Section,
    read_table,
)
from edgesparse.esp.stored import Index, StoredWeights

__all__ = ["open_esp"]

_MAX_SMALL = 256 << 20


class _Window(SourceFile):
    """Bytes of a section as a file of their own, for readers of such files."""

    def __init__(self, data: bytes, path: str) -> None:
        self.path, self.n_bytes, self._data = path, len(data), data

    def read_at(self, offset: int, n_bytes: int, field: str) -> bytes:
        self._fd = 0  # the range check asks for an open file
        self._check_range(offset, n_bytes, field)
        return self._data[offset : offset + n_bytes]


def open_esp(path: str) -> Checkpoint:
    """Open a pre-packed file.

    Raises
    ------
    ModelNotFound
    ModelFormatError
        Any offset, size, name or checksum is wrong; ``kind`` as in `open_checkpoint`.
    """
    file = SourceFile(path)
    try:
        sections = read_table(file)
        small: dict[str, bytes] = {}
        for section in sections:
            if section.name in (METADATA, INDEX, TOKENIZER_JSON, TOKENIZER_MODEL):
                small[section.name] = _read_small(file, section, small)
        for name in (METADATA, INDEX):
            if name not in small:
                raise _error(file, "missing", name, "there is no such section")
        header = read_header(_Window(small[METADATA], path))
        json = parse_json(small[INDEX], INDEX, path, max_depth=5, max_containers=1_000_000)
        index = Index(json, sections, path)
        tensors: dict[str, TensorInfo] = {}
        for record in index.weights.values():
            shape, data = (record.n_rows, record.k), sections[record.data]
            tensors[record.name] = TensorInfo(
                record.name, TensorType.STORED, shape, data.n_bytes, data.offset
            )
        for name, (blob, length) in index.vectors.items():
            if name in tensors:
                raise _error(file, "duplicate", name, "a matrix and a vector")
            data = sections[blob]
            _check_crc(file, data, file.read_at(data.offset, data.n_bytes, name), name)
            tensors[name] = TensorInfo(name, TensorType.F32, (length,), data.n_bytes, data.offset)
        checkpoint = Checkpoint(
            path,
            "esp",
            [file],
            header.metadata,
            tensors,
            [],
            tokenizer_json=small.get(TOKENIZER_JSON),
            tokenizer_model=small.get(TOKENIZER_MODEL),
        )
        checkpoint.stored = StoredWeights(index, sections, file)
        return checkpoint
    except BaseException:
        file.close()
        raise


def _read_small(file: SourceFile, section: Section, known: dict[str, bytes]) -> bytes:
    if section.name in known:
        raise _error(file, "duplicate", section.name, "there are two such sections")
    if section.n_bytes > _MAX_SMALL:
        raise _error(file, "limit", section.name, f"{section.n_bytes} bytes")
    raw = file.read_at(section.offset, section.n_bytes, section.name)
    _check_crc(file, section, raw, section.name)
    return raw


def _check_crc(file: SourceFile, section: Section, raw: bytes, field: str) -> None:
    if zlib.crc32(raw) != section.crc:
        raise _error(file, "value", field, "its checksum does not match")


def _error(file: SourceFile, kind: str, field: str, detail: str) -> ModelFormatError:
    return ModelFormatError(
        kind, shown(field), detail, path=shown(file.path, 400), advice="Convert it again."
    )
