"""coo: outliers beside a matrix, each a float with its row and column (picture in README.md).

Files hold them as csr, whose blocks of 16 rows by 32 columns have two or three numbers each at half
a percent: what a block costs a kernel is then more than what its numbers do. The functions here
define the bytes; native/repack/coo.c writes the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.formats.csr import csr_entries
from edgesparse.formats.memory import allocate
from edgesparse.formats.weight import BITMAP_TILE, Format, Weight

__all__ = ["MAX_COLUMNS", "Coo", "as_coo", "coo_is_valid", "unpack_coo"]

MAX_COLUMNS = 65536

_NO_SCALES = np.zeros(0, np.float32)
_LINE = 64


class Coo(NamedTuple):
    """The numbers of a matrix, those of a row by ascending columns.

    Attributes
    ----------
    begins : uint32 ndarray, shape (n_tiles + 1,)
        Number of entries in front of every tile of 16 rows.
    values : float32 ndarray, shape (n,)
    columns : uint16 ndarray, shape (n,)
    rows : uint8 ndarray, shape (n,)
        Within the tile.
    """

    begins: npt.NDArray[np.uint32]
    values: npt.NDArray[np.float32]
    columns: npt.NDArray[np.uint16]
    rows: npt.NDArray[np.uint8]

    @property
    def matrix_rows(self) -> npt.NDArray[np.intp]:
        """Rows of the matrix that the entries belong to, shape (n,)."""
        begins = self.begins.astype(np.intp)
        counts = begins[1:] - begins[:-1]
        firsts: npt.NDArray[np.intp] = np.arange(len(counts)) * BITMAP_TILE
        return np.repeat(firsts, counts) + self.rows


def as_coo(weight: Weight, *, native: bool | None = None) -> Weight:
    """Store the outliers of a csr matrix so that few of them cost little.

    Parameters
    ----------
    weight : Weight
        In csr, its bytes checked, of `MAX_COLUMNS` columns at most.
    native : bool, optional
        Convert in C; by default when the compiled module is available. The bytes are the same.
    """
    if weight.format is not Format.CSR or weight.k > MAX_COLUMNS:
        raise ValueError(f"{weight.name}: {weight.format.name} of {weight.k} columns is no source")
    is_native = _native.available() if native is None else native
    data = _pack_native(weight) if is_native else _pack_numpy(weight)
    data.flags.writeable = False
    said = weight.source, weight.note
    return Weight(
        *(weight.name, Format.COO, weight.n_rows, weight.k, data, _NO_SCALES, *said),
    )


def _pack_numpy(weight: Weight) -> npt.NDArray[np.uint8]:
    tile, block_column, row, column, value = csr_entries(weight)
    order = np.lexsort((column, row, block_column, tile))
    n_tiles = -(-weight.n_rows // BITMAP_TILE)
    (data,) = allocate([_n_bytes(n_tiles, len(order))], weight.name)
    data[:] = 0
    coo = _views(data, n_tiles, len(order))
    coo.begins[1:] = np.cumsum(np.bincount(tile, minlength=n_tiles))
    coo.values[:] = value[order]
    coo.columns[:] = (block_column + column)[order]
    coo.rows[:] = row[order]
    return data


def _pack_native(weight: Weight) -> npt.NDArray[np.uint8]:
    ffi, lib = _native.ffi(), _native.lib()
    source = ffi.from_buffer("uint8_t[]", weight.data)
    record = {"format": int(weight.format), "n_rows": weight.n_rows, "k": weight.k}
    c_weight = ffi.new("es_weight *", {**record, "data": source, "n_bytes": weight.data.nbytes})
    n_bytes = int(lib.es_coo_pack(c_weight, ffi.NULL, 0))
    if n_bytes < 0:
        raise ValueError(f"{weight.name}: its bytes contradict each other")
    (data,) = allocate([n_bytes], weight.name)
    lib.es_coo_pack(c_weight, ffi.from_buffer("uint8_t[]", data), n_bytes)
    return data


def _n_bytes(n_tiles: int, n: int) -> int:
    return -(-(4 * (n_tiles + 1) + 7 * n) // _LINE) * _LINE


def _views(data: npt.NDArray[np.uint8], n_tiles: int, n: int) -> Coo:
    values = 4 * (n_tiles + 1)
    columns, rows = values + 4 * n, values + 6 * n
    return Coo(
        data[:values].view("<u4"),
        data[values:columns].view("<f4"),
        data[columns:rows].view("<u2"),
        data[rows : rows + n],
    )


def coo_is_valid(weight: Weight) -> bool:
    """Tell whether lengths, rows and columns stay inside the matrix."""
    n_tiles = -(-weight.n_rows // BITMAP_TILE)
    if weight.k > MAX_COLUMNS or weight.data.nbytes < _n_bytes(n_tiles, 0):
        return False
    begins = weight.data[: 4 * (n_tiles + 1)].view("<u4")
    n = int(begins[-1])
    if begins[0] != 0 or weight.data.nbytes != _n_bytes(n_tiles, n):
        return False
    coo = _views(weight.data, n_tiles, n)
    return bool(
        (np.diff(begins.astype(np.int64)) >= 0).all()
        and (coo.columns < weight.k).all()
        and (coo.rows < BITMAP_TILE).all()
        and np.isfinite(coo.values).all()
    )


def unpack_coo(weight: Weight) -> Coo:
    """Look into a matrix.

    Raises
    ------
    ValueError
        The bytes contradict each other: see `coo_is_valid`.
    """
    if not coo_is_valid(weight):
        raise ValueError(f"{weight.name}: lengths, rows or columns contradict each other")
    n_tiles = -(-weight.n_rows // BITMAP_TILE)
    n = int(weight.data[4 * n_tiles : 4 * n_tiles + 4].view("<u4")[0])
    return _views(weight.data, n_tiles, n)
