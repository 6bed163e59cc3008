"""The storage types of tensors on disk and the one checked function for their sizes.

A matrix is ``(n_rows, n_cols)`` with ``n_cols`` contiguous: GGUF calls the columns ``ne[0]``.
Most types cut each row into blocks of a fixed number of columns; what differs is in `Layout`.
Next file: ``source.py`` (reading bytes), then ``gguf.py`` and ``safetensors.py``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

from edgesparse.checkpoint.packed import Packed
from edgesparse.errors import ModelFormatError

__all__ = [
    "MAX_TENSOR_BYTES",
    "Layout",
    "SliceLayout",
    "TensorInfo",
    "TensorType",
    "layout_of",
    "n_bytes_of",
]

MAX_TENSOR_BYTES = 1 << 62
"""No tensor may claim more; far above any file, far below a 64-bit wrap."""


class TensorType(enum.Enum):
    """How the numbers of one tensor are stored."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    F64 = "F64"
    I8 = "I8"
    I16 = "I16"
    I32 = "I32"
    I64 = "I64"
    Q8_0 = "Q8_0"
    Q4_0 = "Q4_0"
    Q4_1 = "Q4_1"
    Q5_0 = "Q5_0"
    Q5_1 = "Q5_1"
    Q2_K = "Q2_K"
    Q3_K = "Q3_K"
    Q4_K = "Q4_K"
    Q5_K = "Q5_K"
    Q6_K = "Q6_K"
    TQ1_0 = "TQ1_0"
    TQ2_0 = "TQ2_0"
    I2_S_128X32 = "I2_S_128X32"
    I2_S_64X16 = "I2_S_64X16"
    I2_S_ROW4 = "I2_S_ROW4"
    Q2_0 = "Q2_0"
    PQ2_0 = "PQ2_0"
    PTQ1_0 = "PTQ1_0"
    Q1_0 = "Q1_0"
    IQ2_BN = "IQ2_BN"
    IQ1_BN = "IQ1_BN"
    HF_T2 = "HF_T2"
    GPTQ = "GPTQ"
    AWQ = "AWQ"
    CT_PACKED = "CT_PACKED"
    CT_INT8 = "CT_INT8"
    STORED = "STORED"
    """As kernels read it, in a pre-packed file (`edgesparse.esp`)."""

    def __repr__(self) -> str:
        return f"TensorType.{self.name}"


class Layout(NamedTuple):
    """Byte geometry of a type.

    Attributes
    ----------
    block : int
        Columns per block; the column count must be a multiple of it.
    block_bytes : int
        Bytes per block.
    row_header : int
        Bytes in front of each row's blocks (ik_llama.cpp's per-row scales).
    tensor_tail : int
        Bytes behind the last row (I2_S: a float32 scale and 28 meaningless bytes).
    row_group : int
        Rows that share bytes; row ranges must start at a multiple of it.
    """

    block: int
    block_bytes: int
    row_header: int = 0
    tensor_tail: int = 0
    row_group: int = 1


_T = TensorType
_LAYOUTS: dict[TensorType, Layout] = {
    _T.F32: Layout(1, 4),
    _T.F16: Layout(1, 2),
    _T.BF16: Layout(1, 2),
    _T.F64: Layout(1, 8),
    _T.I8: Layout(1, 1),
    _T.I16: Layout(1, 2),
    _T.I32: Layout(1, 4),
    _T.I64: Layout(1, 8),
    _T.Q8_0: Layout(32, 34),
    _T.Q4_0: Layout(32, 18),
    _T.Q4_1: Layout(32, 20),
    _T.Q5_0: Layout(32, 22),
    _T.Q5_1: Layout(32, 24),
    _T.Q2_K: Layout(256, 84),
    _T.Q3_K: Layout(256, 110),
    _T.Q4_K: Layout(256, 144),
    _T.Q5_K: Layout(256, 176),
    _T.Q6_K: Layout(256, 210),
    _T.TQ1_0: Layout(256, 54),
    _T.TQ2_0: Layout(256, 66),
    _T.I2_S_128X32: Layout(128, 32, tensor_tail=32),
    _T.I2_S_64X16: Layout(64, 16, tensor_tail=32),
    _T.I2_S_ROW4: Layout(1, 1, tensor_tail=32, row_group=4),
    _T.Q2_0: Layout(64, 18),
    _T.PQ2_0: Layout(128, 34),
    _T.PTQ1_0: Layout(128, 28),
    _T.Q1_0: Layout(128, 18),
    _T.IQ2_BN: Layout(64, 16, row_header=4),
    _T.IQ1_BN: Layout(64, 13, row_header=2),
}


def layout_of(tensor_type: TensorType) -> Layout:
    """Give the byte geometry of a type.

    `TensorType.HF_T2` has none: its rows lie in stripes over the whole tensor; neither have
    matrices of several tensors (`TensorInfo.packed`).

    Raises
    ------
    ModelFormatError
        ``layout`` for types without.
    """
    layout = _LAYOUTS.get(tensor_type)
    if layout is None:
        raise ModelFormatError("layout", tensor_type.name, "its rows have no bytes of their own")
    return layout


def n_bytes_of(tensor_type: TensorType, shape: tuple[int, ...], *, field: str = "shape") -> int:
    """Count the bytes of a tensor on disk; the only place where sizes are computed.

    Parameters
    ----------
    tensor_type : TensorType
        Storage type.
    shape : tuple of int
        Logical shape, the contiguous axis last; Python integers of any size.
    field : str
        Named in errors.

    Raises
    ------
    ModelFormatError
        ``layout`` when the shape does not fit the type's blocks, ``overflow`` when the size
        exceeds `MAX_TENSOR_BYTES`, ``range`` for a negative dimension.
    """
    n_cols = shape[-1] if shape else 1
    n_rows = 1
    for dim in shape[:-1]:
        n_rows *= dim
        if abs(n_rows) > MAX_TENSOR_BYTES:
            raise ModelFormatError("overflow", field, f"more than 2^62 rows in {shape}")
    if n_cols < 0 or any(dim < 0 for dim in shape):
        raise ModelFormatError("range", field, f"negative dimension in {shape}")
    if tensor_type is TensorType.HF_T2:
        n_bytes = -(-n_rows // 4) * n_cols
    else:
        layout = layout_of(tensor_type)
        if n_cols % layout.block:
            raise ModelFormatError(
                "layout",
                field,
                f"{tensor_type.name} needs a multiple of {layout.block} columns, "
                f"this tensor has {n_cols}",
            )
        if n_rows % layout.row_group:
            raise ModelFormatError(
                "layout",
                field,
                f"{tensor_type.name} needs a multiple of {layout.row_group} rows, "
                f"this tensor has {n_rows}",
            )
        blocks = n_cols // layout.block
        row_bytes = layout.row_header + blocks * layout.block_bytes
        n_bytes = n_rows // layout.row_group * row_bytes + layout.tensor_tail
    if n_bytes > MAX_TENSOR_BYTES:
        raise ModelFormatError("overflow", field, f"shape {shape} means more than 2^62 bytes")
    return n_bytes


class SliceLayout(NamedTuple):
    """How a tensor of bit planes is stored (`edgesparse.checkpoint.slices`).

    Attributes
    ----------
    bits : int
        Planes, 1 to 4.
    group : int
        Columns that share a step: 32, 64, 128, or 0 for all of a row.
    zeros : int
        What stands beside a step: 0 nothing, 1 a zero point, 2 an offset.
    wide : bool
        Whether steps and offsets are float32 instead of float16.
    """

    bits: int
    group: int
    zeros: int
    wide: bool


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One named tensor of a checkpoint.

    Attributes
    ----------
    name : str
        Canonical (GGUF) name, also for Hugging Face folders: ``blk.0.attn_q.weight``.
    type : TensorType
        Storage type.
    shape : tuple of int
        ``(n_rows, n_cols)`` for matrices, ``(n,)`` for vectors; numpy order.
    n_bytes : int
        Bytes on disk, tail included.
    offset : int
        Absolute position in its file.
    file : int
        Index of the file in the checkpoint.
    scale : float or None
        Ternary scale of the whole tensor when it is stored outside the rows.
    ternarize : bool
        The floats are masters of ternary weights: pass them through `ternarize` when loading.
    transposed : bool
        The file holds the matrix by columns.
    packed : Packed or None
        The tensors that GPTQ, AWQ and compressed-tensors matrices consist of.
    slices : SliceLayout or None
        For bit planes, whose `type` I8 says nothing about their numbers.
    has_outliers : bool
        A side matrix in the bytes of csr (`edgesparse.checkpoint.outliers`), likewise I8.
    """

    name: str
    type: TensorType
    shape: tuple[int, ...]
    n_bytes: int
    offset: int
    file: int = 0
    scale: float | None = None
    ternarize: bool = False
    packed: Packed | None = None
    transposed: bool = False
    slices: SliceLayout | None = None
    has_outliers: bool = False

    @property
    def n_cols(self) -> int:
        """Length of the contiguous axis."""
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        """Product of the other axes."""
        n_rows = 1
        for dim in self.shape[:-1]:
            n_rows *= dim
        return n_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row (of one row group for I2_S_ROW4)."""
        layout = layout_of(self.type)
        return layout.row_header + self.n_cols // layout.block * layout.block_bytes

    @property
    def row_group(self) -> int:
        """Rows that must be read together."""
        return layout_of(self.type).row_group
