"""Write a pruned model as a Hugging Face folder of compressed-tensors' ``sparse-bitmask``.

Every pruned matrix X of [R, C] becomes four tensors: ``X.compressed``, its non-zeros row by row in
the type of the weights; ``X.bitmask``, U8 [R, ceil(C / 8)], bit i (least significant first) of byte
b for column 8 b + i; ``X.row_offsets``, I64 [R], where each row's non-zeros begin; ``X.shape``, I64
[2]. Everything else is copied as it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.names import gguf_name, module_of
from edgesparse.checkpoint.safetensors import SafeTensor, read_safetensors
from edgesparse.checkpoint.source import SourceFile
from edgesparse.checkpoint.sparse_bitmask import compress_rows
from edgesparse.compress.work import Work

__all__ = ["write_folder"]

Bytes = npt.NDArray[np.uint8]

_COPY_BYTES = 8 << 20
_WEIGHTS = "model.safetensors"
_SIDE_FILES = (".json", ".jinja", ".model", ".txt")
_FORMAT = "sparse-bitmask"
_ELEMENTS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class _Record:
    """A tensor to write: its header entry, and its bytes piece by piece."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    pieces: Callable[[], Iterator[bytes | memoryview]]


def write_folder(
    source: Path, out: Path, architecture: str, work: Work, sparsity: float, how: str
) -> None:
    """Write the folder, whole or not at all.

    Parameters
    ----------
    source : Path
        The folder that was pruned.
    out : Path
        Replaced if it exists.
    architecture : str
        GGUF architecture, for the names of tensors.
    work : Work
        Holds the matrices in the float type of `source`.
    sparsity : float
        Share of zeros in the pruned matrices.
    how : str
        ``unstructured`` or N:M.

    Raises
    ------
    ModelFormatError
        A weight file is broken.
    OSError
        Something cannot be written.
    """
    part = work.empty_folder("part")
    with ExitStack() as stack:
        records: list[_Record] = []
        for path in sorted(source.glob("*.safetensors")):
            file = SourceFile(str(path))
            stack.callback(file.close)
            for tensor in read_safetensors(file):
                name = gguf_name(tensor.name, architecture)
                if name is not None and work.has(name):
                    records += _pruned(tensor, name, work)
                else:
                    records.append(_copied(file, tensor))
        _write_weights(part / _WEIGHTS, records)
    _write_config(source, part, sparsity, how)
    for path in sorted(source.iterdir()):
        is_index = path.name.endswith(".safetensors.index.json")
        if path.is_file() and path.suffix in _SIDE_FILES and not is_index:
            if not (part / path.name).exists():
                shutil.copyfile(path, part / path.name)
    _put_in_place(part, out)


def _put_in_place(part: Path, out: Path) -> None:
    """Let `part` become `out`; what was there goes last."""
    old = out.with_name(f".{out.name}.old")
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        os.rename(out, old)
    os.rename(part, out)
    if old.exists():
        shutil.rmtree(old)


def _pruned(tensor: SafeTensor, name: str, work: Work) -> list[_Record]:
    """Describe the four tensors of one matrix; its bytes are read again when they are written."""
    n_rows, k = tensor.shape
    stem = module_of(tensor.name)
    element = np.dtype(_ELEMENTS[tensor.dtype])

    def parts() -> tuple[npt.NDArray[np.generic], Bytes, npt.NDArray[np.int64]]:
        stored = np.asarray(work.require(name)["data"], np.uint8)
        return compress_rows(stored.view(element).reshape(n_rows, k))

    def compressed() -> Iterator[bytes | memoryview]:
        yield parts()[0].tobytes()

    def bitmask() -> Iterator[bytes | memoryview]:
        yield parts()[1].tobytes()

    values, _, offsets = parts()
    nnz = len(values)
    n_mask = -(-k // 8)
    return [
        _Record(f"{stem}.compressed", tensor.dtype, (nnz,), values.nbytes, compressed),
        _Record(f"{stem}.bitmask", "U8", (n_rows, n_mask), n_rows * n_mask, bitmask),
        _Record(
            f"{stem}.row_offsets", "I64", (n_rows,), 8 * n_rows, lambda: iter((offsets.tobytes(),))
        ),
        _Record(
            f"{stem}.shape",
            "I64",
            (2,),
            16,
            lambda: iter((np.array([n_rows, k], "<i8").tobytes(),)),
        ),
    ]


def _copied(file: SourceFile, tensor: SafeTensor) -> _Record:
    def pieces() -> Iterator[bytes | memoryview]:
        for begin in range(0, tensor.n_bytes, _COPY_BYTES):
            n = min(_COPY_BYTES, tensor.n_bytes - begin)
            yield file.read_at(tensor.offset + begin, n, tensor.name)

    return _Record(tensor.name, tensor.dtype, tensor.shape, tensor.n_bytes, pieces)


def _write_weights(path: Path, records: list[_Record]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for record in records:
        header[record.name] = {
            "dtype": record.dtype,
            "shape": list(record.shape),
            "data_offsets": [begin, begin + record.n_bytes],
        }
        begin += record.n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for record in records:
            _write_record(out, record)
        out.flush()
        os.fsync(out.fileno())


def _write_record(out: BinaryIO, record: _Record) -> None:
    n_bytes = sum(out.write(piece) for piece in record.pieces())
    if n_bytes != record.n_bytes:
        raise OSError(f"{record.name}: {n_bytes} bytes written, {record.n_bytes} announced")


def _write_config(source: Path, part: Path, sparsity: float, how: str) -> None:
    """Copy the configuration and add how the weights are stored."""
    config = json.loads((source / "config.json").read_text("utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "dense",
        "quantization_status": "compressed",
        "config_groups": {},
        "ignore": ["lm_head"],
        "sparsity_config": {
            "format": _FORMAT,
            "global_sparsity": sparsity,
            "sparsity_structure": how,
            "targets": ["Linear"],
            "ignore": ["lm_head"],
        },
    }
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
