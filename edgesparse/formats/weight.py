"""`Weight`: one matrix in the bytes that kernels read (byte pictures in README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "BITMAP_CHUNKS",
    "BITMAP_HEAD",
    "BITMAP_SLACK",
    "BITMAP_TILE",
    "BLOCK",
    "COLUMN_WIDTH",
    "NEURON_MAJOR",
    "NEURON_TILE",
    "ROW_BY_ROW",
    "SLICE_TILE",
    "SPARSE",
    "TILE",
    "Format",
    "Slices",
    "Weight",
    "Zeros",
    "blocks_of_groups",
    "row_bytes",
    "row_tiles",
    "storage_bytes",
    "storage_codes",
]

TILE = 8
"""Rows that stand side by side in the tiled formats."""
NEURON_TILE = 128
"""Rows that share bytes in the neuron-major format."""
COLUMN_WIDTH = 8
"""Lines of a tile of the formats by columns, at most."""
SLICE_TILE = 64
"""Rows that stand side by side in the bit-slice formats."""
BITMAP_TILE = 16
"""Rows that stand side by side in the formats without zeros."""
BITMAP_CHUNKS = 8
"""Words of 64 bits in the bitmap of one block."""
BITMAP_HEAD = 2 * BITMAP_TILE + 8 * BITMAP_CHUNKS
"""Bytes of the steps and the bitmap in front of the codes of one block."""
BITMAP_SLACK = 64
"""Bytes behind the last codes that kernels may read."""
BLOCK = 32
"""Columns that share one step in the block formats, and one sum in the bit-slice formats."""


class Format(IntEnum):
    """Storage formats; the values are those of `ES_FORMAT_*` in native/include/edgesparse.h."""

    T2 = 1
    T5 = 2
    Q8 = 3
    Q4 = 4
    Q8M = 5
    Q4M = 6
    Q6 = 7
    F16 = 8
    BF16 = 9
    F32 = 10
    T2N = 11
    Q8N = 12
    Q4N = 13
    Q4MN = 14
    Q8MN = 15
    BS1 = 16
    BS2 = 17
    BS3 = 18
    BS4 = 19
    BST = 20
    Q8R = 36
    Q4R = 37
    Q4MR = 38
    Q8MR = 39
    BMP8 = 24
    BMP4 = 25
    CSR = 26
    NM8 = 27
    NM4 = 28
    COO = 29
    BS2N = 41
    BS3N = 42
    BS4N = 43

    @property
    def is_ternary(self) -> bool:
        """Whether activations are quantised to int8 per token."""
        return self in (Format.T2, Format.T5, Format.T2N)

    @property
    def is_neuron_major(self) -> bool:
        """Whether the outputs of one input lie together, so that an input of zero costs nothing."""
        return self is Format.T2N or self.is_column

    @property
    def is_column(self) -> bool:
        """Whether codes are stored by columns over a tile of rows."""
        return Format.Q8N <= self <= Format.Q8MN or self >= Format.BS2N

    @property
    def is_row(self) -> bool:
        """Whether blocks are stored row by row, so that a row that is not needed costs nothing."""
        return Format.Q8R <= self <= Format.Q8MR

    @property
    def row_format(self) -> Format:
        """The plain format with the same codes and steps; itself where there is no other."""
        return _ROW_FORMATS.get(self, _TILED.get(self, SPARSE.get(self, self)))

    @property
    def tile_rows(self) -> int:
        """Rows that share stored bytes, in formats of tiles."""
        if self is Format.T2N:
            return NEURON_TILE
        if self.is_column:
            return COLUMN_WIDTH * self.line_rows
        if self.is_sliced:
            return SLICE_TILE
        return BITMAP_TILE if self.is_sparse else TILE

    @property
    def line_rows(self) -> int:
        """Rows in a line of a column: of bytes 64, of less than a byte 128."""
        return 64 if self in (Format.Q8N, Format.Q8MN) else 128

    @property
    def line_bytes(self) -> int:
        """Bytes of a line of a column."""
        return 32 if self is Format.BS2N else 64

    @property
    def is_block(self) -> bool:
        """Whether activations are quantised to int16 per block of 32."""
        by_columns = self.is_column and not self.is_sliced
        return Format.Q8 <= self <= Format.Q6 or by_columns or self.is_row or self.is_sparse

    @property
    def in_blocks_of_int8(self) -> bool:
        """Whether activations are quantised to int8 per block of 32."""
        return self.is_sliced and self is not Format.BST

    @property
    def is_sparse(self) -> bool:
        """Whether zeros are left out: bitmaps, csr, 2:4 (`edgesparse.formats.without_zeros`)."""
        return Format.BMP8 <= self <= Format.NM4

    @property
    def is_two_of_four(self) -> bool:
        """Whether two of every four columns are stored (`edgesparse.formats.two_of_four`)."""
        return self in (Format.NM8, Format.NM4)

    @property
    def is_aside(self) -> bool:
        """Whether matrices only stand beside others: outliers (`edgesparse.formats.coo`)."""
        return self is Format.COO

    @property
    def has_varying_length(self) -> bool:
        """Whether the bytes of a matrix depend on its zeros."""
        return (self.is_sparse and not self.is_two_of_four) or self.is_aside

    @property
    def is_sliced(self) -> bool:
        """Whether codes of 1 to 4 bits have steps for groups of columns, and bst.

        Bit planes (`edgesparse.formats.bitslice`), or by columns (`.slice_columns`).
        """
        return Format.BS1 <= self <= Format.BST or self >= Format.BS2N

    @property
    def has_row_scales(self) -> bool:
        """Whether `Weight.scales` holds one step per row: the ternary formats and bst."""
        return self.is_ternary or self is Format.BST

    @property
    def planes(self) -> int:
        """Bits of a code of a bit-slice format; 0 for the others."""
        if not self.is_sliced:
            return 0
        if self.is_column:
            return self - Format.BS2N + 2
        return 2 if self is Format.BST else self - Format.BS1 + 1


class Zeros(IntEnum):
    """What a group of a bit-slice format has beside its step; values of `ES_ZEROS_*`."""

    NONE = 0
    """Nothing: value = step * (code - middle)."""
    POINTS = 1
    """A zero point: value = step * (code - point)."""
    OFFSETS = 2
    """An offset: value = step * code + offset."""


@dataclass(frozen=True)
class Slices:
    """How the steps of a bit-slice matrix (bs1 to bs4, bs2n to bs4n) are stored.

    Attributes
    ----------
    group : int
        Columns that share a step: 32, 64, 128, or 0 for all of a row.
    zeros : Zeros
        What stands beside every step.
    wide : bool
        Steps and offsets are float32 instead of float16.
    """

    group: int = 32
    zeros: Zeros = Zeros.NONE
    wide: bool = False

    @property
    def head_bytes(self) -> int:
        """Bytes of steps and zeros in front of a group, of 64 rows."""
        element = 4 if self.wide else 2
        beside = {Zeros.NONE: 0, Zeros.POINTS: 1, Zeros.OFFSETS: element}[self.zeros]
        return SLICE_TILE * (element + beside)

    def n_groups(self, k: int) -> int:
        """Count the groups along a row of `k` columns."""
        return -(-k // self.group) if self.group else 1


def blocks_of_groups(n_blocks: int, slices: Slices | None) -> list[tuple[int, int]]:
    """First block and number of blocks of every group."""
    size = n_blocks if slices is None or slices.group == 0 else slices.group // BLOCK
    return [(first, min(size, n_blocks - first)) for first in range(0, n_blocks, size)]


_ROW_FORMATS = {
    Format.T2N: Format.T2,
    Format.Q8N: Format.Q8,
    Format.Q4N: Format.Q4,
    Format.Q8MN: Format.Q8M,
    Format.Q4MN: Format.Q4M,
    Format.BS2N: Format.BS2,
    Format.BS3N: Format.BS3,
    Format.BS4N: Format.BS4,
}
NEURON_MAJOR: Final = {row: column for column, row in _ROW_FORMATS.items()}
"""The format by columns (inputs) of row-major formats that have one."""
_TILED = {
    Format.Q8R: Format.Q8,
    Format.Q4R: Format.Q4,
    Format.Q8MR: Format.Q8M,
    Format.Q4MR: Format.Q4M,
}
ROW_BY_ROW: Final = {tiled: row for row, tiled in _TILED.items()}
"""The format by single rows of tiled formats that have one."""
SPARSE: Final = {
    Format.BMP8: Format.Q8,
    Format.BMP4: Format.Q4,
    Format.CSR: Format.Q8,
    Format.NM8: Format.Q8,
    Format.NM4: Format.Q4,
}
"""The dense format with the same codes, steps and products of formats that leave zeros out."""
_TERNARY_GROUP = {Format.T2: 128, Format.T5: 160, Format.T2N: 128}
_BLOCK_BYTES = {
    Format.Q8: 272,
    Format.Q8M: 288,
    Format.Q6: 208,
    Format.Q4: 144,
    Format.Q4M: 160,
    Format.Q8N: 2048 + 128,
    Format.Q8MN: 2048 + 256,
    Format.Q4N: 2048 + 256,
    Format.Q4MN: 2048 + 512,
    Format.NM8: 32 + 64 + 256,
    Format.NM4: 32 + 64 + 128,
}
"""Bytes of one block of a tile, by columns of one line."""
_ELEMENT_BYTES = {Format.F16: 2, Format.BF16: 2, Format.F32: 4}


def row_bytes(fmt: Format, k: int) -> int:
    """Bytes of a row of `k` columns in a format by rows, a multiple of 64."""
    bits = 128 if fmt in (Format.Q4R, Format.Q4MR) else 256
    halves = 2 if fmt in (Format.Q8MR, Format.Q4MR) else 1
    return -(-(-(-k // BLOCK) * (bits // 8 + 2 * halves)) // 64) * 64


def row_tiles(n_rows: int) -> int:
    """Tiles of 8 rows that hold `n_rows`."""
    return -(-n_rows // TILE)


def storage_bytes(fmt: Format, n_rows: int, k: int, slices: Slices | None = None) -> int:
    """Bytes that an (n_rows, k) matrix takes in `fmt`, padding included, row scales excluded.

    `slices` describes the steps of bs1 to bs4, by default one half for every 32 columns. Bitmaps,
    csr and coo have no such number.
    """
    if fmt.has_varying_length:
        raise ValueError(f"the bytes of {fmt.name} depend on the zeros")
    if fmt.is_sliced:
        head = 0
        if fmt is not Format.BST:
            slices = slices or Slices()
            head = slices.n_groups(k) * slices.head_bytes
        if fmt.is_column:
            heads = -(-n_rows // fmt.line_rows) * fmt.line_rows // SLICE_TILE * head
            return heads + storage_codes(fmt, n_rows, k)
        return -(-n_rows // SLICE_TILE) * (head + -(-k // BLOCK) * fmt.planes * 8 * BLOCK)
    if fmt.is_two_of_four:
        return -(-n_rows // BITMAP_TILE) * -(-k // BLOCK) * _BLOCK_BYTES[fmt]
    if fmt.is_column:
        return -(-n_rows // fmt.line_rows) * -(-k // BLOCK) * _BLOCK_BYTES[fmt]
    if fmt.is_row:
        return n_rows * row_bytes(fmt, k)
    if fmt.is_neuron_major:
        n_rows, k = k, n_rows
    if fmt.is_ternary:
        return n_rows * -(-k // _TERNARY_GROUP[fmt]) * 32
    if fmt.is_block:
        return row_tiles(n_rows) * -(-k // BLOCK) * _BLOCK_BYTES[fmt]
    return row_tiles(n_rows) * TILE * k * _ELEMENT_BYTES[fmt]


def storage_codes(fmt: Format, n_rows: int, k: int) -> int:
    """Bytes of the codes alone in a format by columns: one line for every column."""
    return -(-n_rows // fmt.line_rows) * -(-k // BLOCK) * BLOCK * fmt.line_bytes


@dataclass(frozen=True, eq=False)
class Weight:
    """A matrix of shape (n_rows, k): n_rows output features, k input features.

    Attributes
    ----------
    name : str
        Tensor name, e.g. ``blk.0.attn_q.weight``.
    format : Format
        Layout of `data`.
    n_rows, k : int
        Logical shape, without padding.
    data : ndarray of uint8, shape (storage_bytes(format, n_rows, k, slices),)
        The stored bytes, 64-byte aligned; of bitmaps and csr as many as their codes take.
    scales : ndarray of float32, shape (n_rows,) or (0,)
        Ternary formats and bst: the step of every row; empty for the others.
    source : str
        Type in the file, for reports.
    note : str
        Why this format was chosen, when it is not the obvious one; for reports.
    is_rounded : bool
        Whether the stored values differ from the file's; for reports.
    slices : Slices, optional
        How steps are stored: bit slices but bst only.
    order : ndarray of int32, shape (k,), optional
        Input that each stored column belongs to; by default they stand as they come.
    """

    name: str
    format: Format
    n_rows: int
    k: int
    data: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float32]
    source: str = ""
    note: str = ""
    is_rounded: bool = False
    slices: Slices | None = None
    order: npt.NDArray[np.int32] | None = None

    @property
    def n_bytes(self) -> int:
        """Bytes read when every row is used once."""
        return self.data.nbytes + self.scales.nbytes
