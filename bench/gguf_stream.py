"""A GGUF writer in bounded memory: sizes are known beforehand, data comes block by block.

Layout: header, metadata, tensor records, padding, then every tensor at a multiple of 32 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from edgesparse.whole_file import replacing

__all__ = ["Tensor", "write_gguf"]

ALIGNMENT = 32
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9

Scalar = str | bool | int | float
Value = Scalar | Sequence[str] | npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Tensor:
    """A tensor whose bytes are made while they are written.

    Attributes
    ----------
    name : str
    type_id : int
        GGUF tensor type.
    shape : tuple of int
        Rows first, as numpy has it; the file stores it reversed.
    n_bytes : int
        Bytes that the blocks add up to.
    blocks : callable
        Starts a fresh run over uint8 arrays.
    """

    name: str
    type_id: int
    shape: tuple[int, ...]
    n_bytes: int
    blocks: Callable[[], Iterable[Bytes]]


def write_gguf(path: Path, metadata: Mapping[str, Value], tensors: Sequence[Tensor]) -> int:
    """Write a GGUF version 3 file, whole or not at all, and return its size in bytes.

    Parameters
    ----------
    path : Path
    metadata : mapping of str to value
        ``bool``, ``int`` (stored as u32), ``float`` (f32), ``str``, sequences of ``str`` and int32
        arrays.
    tensors : sequence of Tensor

    Raises
    ------
    ValueError
        The blocks of a tensor do not add up to its size.
    OSError
        The file cannot be written.
    """
    with replacing(path) as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_text(key) + _value(value))
        offset = 0
        for tensor in tensors:
            dims = struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape))
            file.write(_text(tensor.name) + struct.pack("<I", len(tensor.shape)) + dims)
            file.write(struct.pack("<IQ", tensor.type_id, offset))
            offset += tensor.n_bytes + -tensor.n_bytes % ALIGNMENT
        _pad(file)
        for tensor in tensors:
            _write_data(file, tensor)
        return file.tell()


def _write_data(file: BinaryIO, tensor: Tensor) -> None:
    written = 0
    for block in tensor.blocks():
        file.write(block.data)
        written += block.nbytes
    if written != tensor.n_bytes:
        raise ValueError(f"{tensor.name}: {written} bytes came, {tensor.n_bytes} were announced")
    _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _U32, value)
    if isinstance(value, float):
        return struct.pack("<If", _F32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        head = struct.pack("<IIQ", _ARRAY, _I32, len(value))
        return head + value.astype("<i4").tobytes()
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
