"""compressed-tensors' ``sparse-bitmask`` and ``sparse-24-bitmask``: read as if they were dense.

A matrix P of R rows and C columns is stored as ``P.compressed`` (the values that are not zero, row
by row), ``P.bitmask`` (U8 [R, ceil(C / 8)], column 8b + i in bit i of byte b), ``P.row_offsets``
(I64 [R], where each row's values begin) and ``P.shape`` (I64 [2]). 2:4 has no offsets: two values
of every four columns, ``compressed`` is [R, C / 2], and stored values may be zero. P is
``X.weight`` up to release 0.8.1, where vectors are stored so too, and ``X`` from 0.9.0 on.

Nothing of this is believed: the shape is the configuration's, and bitmaps, offsets and lengths are
held against each other at opening, in small pieces, before anything is allocated by them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint.gguf_header import MetadataValue
from edgesparse.checkpoint.names import gguf_name
from edgesparse.checkpoint.safetensors import DTYPES, SafeTensor
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.checkpoint.types import layout_of
from edgesparse.errors import ModelFormatError

__all__ = ["SPARSE_LAYOUTS", "BitmaskFile", "compress_rows", "expected_shape", "take_bitmasks"]

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Records = dict[str, tuple[SafeTensor, int]]

SPARSE_LAYOUTS = frozenset({"sparse-bitmask", "sparse-24-bitmask"})
_PARTS = ("compressed", "bitmask", "row_offsets", "shape")
_PIECE_BYTES = 1 << 18
_SET_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1).astype(np.int64)
_TWO_OF_FOUR = (_SET_BITS[np.arange(256) & 15] == 2) & (_SET_BITS[np.arange(256) >> 4] == 2)


def compress_rows(dense: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], U8, I64]:
    """Take a matrix apart as ``sparse-bitmask`` stores it.

    Parameters
    ----------
    dense : (R, C) array
        Of any element type; bfloat16 as uint16, where both zeros (0 and 0x8000) are left out.

    Returns
    -------
    compressed : (n,) array
        ``P.compressed``.
    bitmask : (R, ceil(C / 8)) uint8
        ``P.bitmask``.
    row_offsets : (R,) int64
        ``P.row_offsets``.
    """
    if dense.dtype == np.uint16:  # without the sign, which a zero may have, too
        kept = (dense.view(np.uint16) & np.uint16(0x7FFF)) != 0
    else:
        kept = np.asarray(dense != 0)
    counts = kept.sum(axis=1, dtype=np.int64)
    bitmask = np.packbits(kept, axis=1, bitorder="little")
    return dense[kept], bitmask, np.cumsum(counts) - counts


def expected_shape(name: str, metadata: Mapping[str, MetadataValue]) -> tuple[int, ...] | None:
    """Give the shape that the configuration means for a tensor; None for one it does not know.

    Parameters
    ----------
    name : str
        As `gguf_name` gives it.
    metadata : mapping
        Of the model.
    """
    a = metadata["general.architecture"]

    def size(key: str) -> int:
        value = metadata.get(f"{a}.{key}", 0)
        return value if isinstance(value, int) else 0

    width, head_dim = size("embedding_length"), size("attention.key_length")
    hidden = size("feed_forward_length")
    q, kv = head_dim * size("attention.head_count"), head_dim * size("attention.head_count_kv")
    module, _, parameter = name.rpartition(".")
    stem = module.split(".")[-1]
    rows = {"attn_q": q, "attn_k": kv, "attn_v": kv, "ffn_gate": hidden, "ffn_up": hidden}
    rows |= {"attn_output": width, "ffn_down": width}
    rows |= dict.fromkeys(("token_embd", "output"), size("vocab_size"))
    if parameter == "bias":
        return (rows[stem],) if stem in rows else None
    if stem in rows:
        return rows[stem], {"attn_output": q, "ffn_down": hidden}.get(stem, width)
    norms = {"attn_q_norm": head_dim, "attn_k_norm": head_dim}
    norms |= {"attn_sub_norm": q, "ffn_sub_norm": hidden}
    return (norms.get(stem, width),) if stem.endswith("norm") else None


class BitmaskFile(SourceFile):
    """The dense bytes of one such tensor, row-major; made while they are read.

    Parameters
    ----------
    file : SourceFile
        Where the parts are.
    compressed, bitmask : SafeTensor
        Checked parts.
    starts : (R + 1,) int64
        First value of every row, and their number.
    n_columns, element : int
        Columns, and bytes of an element.
    """

    def __init__(
        self,
        file: SourceFile,
        compressed: SafeTensor,
        bitmask: SafeTensor,
        starts: I64,
        n_columns: int,
        element: int,
    ) -> None:
        self.path = file.path
        self.n_bytes = 0  # no bytes of the disk's beyond those of `file`
        self._file, self._compressed, self._bitmask = file, compressed, bitmask
        self._starts, self._n_columns, self._element = starts, n_columns, element

    def read_at(self, offset: int, n_bytes: int, field: str) -> bytes:
        """Expand exactly `n_bytes` from `offset` on; errors as of `SourceFile.read_at`."""
        out = bytearray(n_bytes)
        self.read_into(memoryview(out), offset, field)
        return bytes(out)

    def read_into(self, buffer: memoryview, offset: int, field: str) -> None:
        """Fill a writable byte view from `offset` on; errors as of `SourceFile.read_into`."""
        del field  # the parts have names of their own
        row_bytes = self._n_columns * self._element
        done = 0
        while done < len(buffer):
            first, skip = divmod(offset + done, row_bytes)
            left = skip + len(buffer) - done
            end = first + min(-(-left // row_bytes), max(1, _PIECE_BYTES // row_bytes))
            rows = self._rows(first, end).reshape(-1)[skip:left]
            buffer[done : done + len(rows)] = rows.data
            done += len(rows)

    def check_unchanged(self) -> None:
        """Nothing to do: the file of the parts is checked by itself."""

    def close(self) -> None:
        """Nothing to do: the file of the parts is closed by itself."""

    def _rows(self, first: int, end: int) -> U8:
        """Expand whole rows into bytes."""
        bitmask = _read(self._file, self._bitmask, first, end, self._bitmask.shape[-1])
        kept = np.unpackbits(bitmask.reshape(end - first, -1), axis=1, bitorder="little")
        begin, stop = int(self._starts[first]), int(self._starts[end])
        if int(np.count_nonzero(kept)) != stop - begin:
            raise _error("value", self._bitmask.name, "changed while it was being read", self.path)
        values = _read(self._file, self._compressed, begin, stop, self._element)
        out = np.zeros((end - first, self._n_columns, self._element), np.uint8)
        out[kept[:, : self._n_columns].view(np.bool_)] = values.reshape(-1, self._element)
        return out


def take_bitmasks(
    records: Records,
    files: list[SourceFile],
    metadata: Mapping[str, MetadataValue],
    folder: str,
    warnings: list[str],
) -> None:
    """Replace the parts of sparse tensors in `records` by the dense tensors that they stand for.

    Each gets a `BitmaskFile`, which is added to `files`.

    Raises
    ------
    ModelFormatError
        A part is missing or of another type or shape than the others, the configuration or its own
        bitmap mean.
    """
    modules = [name.removesuffix(".bitmask") for name in records if name.endswith(".bitmask")]
    architecture = str(metadata["general.architecture"])
    unknown = 0
    for module in modules:
        parts = {part: records.pop(f"{module}.{part}", None) for part in _PARTS}
        found = {part: record for part, record in parts.items() if record is not None}
        is_old = gguf_name(module, architecture) is not None
        dense = module if is_old else f"{module}.weight"
        name = gguf_name(dense, architecture)
        shape = None if name is None else expected_shape(name, metadata)
        if shape is None:
            unknown += 1
            continue
        if dense in records:
            raise _error("duplicate", dense, "the tensor is stored dense and sparse", folder)
        tensor, file = _Bitmask(module, found, files, folder).dense(dense, shape)
        records[dense] = (tensor, len(files))
        files.append(file)
    if unknown:
        warnings.append(f"{unknown} unknown sparse tensors are not loaded")


class _Bitmask:
    """The parts of one tensor, held against each other."""

    def __init__(self, module: str, parts: Records, files: list[SourceFile], folder: str) -> None:
        self.module, self.parts, self.files, self.folder = module, parts, files, folder

    def dense(self, name: str, shape: tuple[int, ...]) -> tuple[SafeTensor, BitmaskFile]:
        """Check everything; give the record of the dense tensor, and what reads it."""
        n_rows, n_columns = shape if len(shape) == 2 else (1, shape[0])
        bitmask, file = self._part("bitmask", ("U8",))
        row_bytes = -(-n_columns // 8)
        self._expect("bitmask", bitmask, (n_rows, row_bytes) if len(shape) == 2 else (row_bytes,))
        self._check_shape(shape)
        compressed, values_file = self._part("compressed", (*DTYPES, "F8_E4M3"))
        if compressed.dtype not in DTYPES:
            raise self._error("unsupported", "compressed", f"{compressed.dtype} is not read")
        if values_file != file:
            raise self._error("layout", "compressed", "stands in another file than its bitmask")
        n_values = compressed.n_bytes // self._element(compressed)
        if "row_offsets" in self.parts:
            self._expect("compressed", compressed, (n_values,))
            counts = self._counts(bitmask, n_rows, n_columns, None)
        else:
            if n_columns % 4 or len(shape) != 2:
                raise self._error("missing", "row_offsets", "only 2:4 has none, with 4n columns")
            self._expect("compressed", compressed, (n_rows, n_columns // 2))
            counts = self._counts(bitmask, n_rows, n_columns, _TWO_OF_FOUR)
        starts = np.zeros(n_rows + 1, np.int64)
        np.cumsum(counts, out=starts[1:])
        if int(starts[-1]) != n_values:
            detail = f"{int(starts[-1])} bits are set for {n_values} values"
            raise self._error("value", "bitmask", detail)
        self._check_offsets(starts, len(shape))
        element = self._element(compressed)
        n_bytes = n_rows * n_columns * element
        made = BitmaskFile(self.files[file], compressed, bitmask, starts, n_columns, element)
        return SafeTensor(name, compressed.dtype, shape, 0, n_bytes), made

    def _element(self, compressed: SafeTensor) -> int:
        return layout_of(DTYPES[compressed.dtype]).block_bytes

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        part, file = self._part("shape", ("I64", "I32"))
        if part.shape not in ((len(shape),), (len(shape), 1)):
            raise self._error("layout", "shape", f"expected {len(shape)} numbers")
        raw = self.files[file].read_at(part.offset, part.n_bytes, part.name)
        stated = tuple(np.frombuffer(raw, "<i8" if part.dtype == "I64" else "<i4").tolist())
        if stated != shape:
            detail = f"says {shown(stated)}, config.json means {shape}"
            raise self._error("layout", "shape", detail)

    def _counts(
        self, bitmask: SafeTensor, n_rows: int, n_columns: int, legal: npt.NDArray[np.bool_] | None
    ) -> I64:
        """Count the values of every row; check padding, and for 2:4 every group of columns."""
        row_bytes = -(-n_columns // 8)
        padding = np.uint8(0xFF << n_columns % 8 & 0xFF if n_columns % 8 else 0)
        counts = np.empty(n_rows, np.int64)
        step = max(1, _PIECE_BYTES // row_bytes)
        file = self.files[self.parts["bitmask"][1]]
        for begin in range(0, n_rows, step):
            end = min(begin + step, n_rows)
            rows = _read(file, bitmask, begin, end, row_bytes).reshape(end - begin, row_bytes)
            if (rows[:, -1] & padding).any():
                raise self._error("value", "bitmask", "bits beyond the last column are set")
            if legal is not None:
                whole = rows[:, :-1] if padding else rows
                last_pairs = (_SET_BITS[rows[:, -1]] == 2).all() if padding else True
                if not (legal[whole].all() and last_pairs):
                    raise self._error("value", "bitmask", "a group of four has not two values")
            counts[begin:end] = _SET_BITS[rows].sum(axis=1)
        return counts

    def _check_offsets(self, starts: I64, rank: int) -> None:
        if "row_offsets" not in self.parts:
            return
        part, file = self._part("row_offsets", ("I64",))
        self._expect("row_offsets", part, (len(starts) - 1,) if rank == 2 else ())
        raw = self.files[file].read_at(part.offset, part.n_bytes, part.name)
        if not np.array_equal(np.frombuffer(raw, "<i8"), starts[:-1]):
            raise self._error("value", "row_offsets", "contradicts the bitmask")

    def _part(self, suffix: str, dtypes: tuple[str, ...]) -> tuple[SafeTensor, int]:
        record = self.parts.get(suffix)
        if record is None:
            raise self._error("missing", suffix, "the bitmask needs it")
        if record[0].dtype not in dtypes:
            detail = f"expected {' or '.join(dtypes)}, found {shown(record[0].dtype)}"
            raise self._error("layout", suffix, detail)
        return record

    def _expect(self, suffix: str, part: SafeTensor, shape: tuple[int, ...]) -> None:
        if part.shape != shape:
            detail = f"expected shape {shape}, found {shown(part.shape)}"
            raise self._error("layout", suffix, detail)

    def _error(self, kind: str, suffix: str, detail: str) -> ModelFormatError:
        return _error(kind, f"{self.module}.{suffix}", detail, self.folder)


def _read(file: SourceFile, part: SafeTensor, begin: int, end: int, unit: int) -> U8:
    """Read units [begin, end) of a part."""
    out = np.empty((end - begin) * unit, np.uint8)
    if out.size:
        file.read_into(out.data, part.offset + begin * unit, part.name)
    return out


def _error(kind: str, field: str, detail: str, folder: str) -> ModelFormatError:
    return ModelFormatError(kind, shown(field), detail, path=shown(folder, 400))
