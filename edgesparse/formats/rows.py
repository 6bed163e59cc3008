"""q8r, q4r, q4mr, q8mr: the blocks of `blocks.py` stored row by row (picture in README.md).

A row can be left out without reading it, which tiles of 8 rows do not allow. Codes and steps are
those of the tiled formats. The functions here define the bytes; native/repack/blocks.c writes the
same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import BLOCK, Format, Weight, row_bytes

__all__ = ["pack_rows", "unpack_rows"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]


def _is_nibble(fmt: Format) -> bool:
    return fmt in (Format.Q4R, Format.Q4MR)


def _has_minimum(fmt: Format) -> bool:
    return fmt in (Format.Q8MR, Format.Q4MR)


def pack_rows(codes: I8, d: F16, m: F16 | None, fmt: Format) -> U8:
    """Lay codes and steps out row by row; parameters as for `blocks.pack_blocks`."""
    n_rows, k = codes.shape
    n_blocks = -(-k // BLOCK)
    stored = np.zeros((n_rows, n_blocks, BLOCK), dtype=np.uint8)
    stored.reshape(n_rows, -1)[:, :k] = codes.view(np.uint8)
    if _is_nibble(fmt):
        stored += np.uint8(8 if fmt is Format.Q4R else 0)
        stored = stored[..., :16] & np.uint8(15) | stored[..., 16:] << np.uint8(4)
    parts = [stored.reshape(n_rows, -1), np.ascontiguousarray(d, "<f2").view(np.uint8)]
    if m is not None:
        parts.append(np.ascontiguousarray(m, "<f2").view(np.uint8))
    packed = np.concatenate(parts, axis=1)
    rows = np.zeros((n_rows, row_bytes(fmt, k)), dtype=np.uint8)
    rows[:, : packed.shape[1]] = packed
    return rows.reshape(-1)


def unpack_rows(weight: Weight, rows: npt.NDArray[np.intp]) -> tuple[I8, F16, F16 | None]:
    """Take rows of a weight apart; results as for `blocks.unpack_blocks`."""
    fmt, n_blocks = weight.format, -(-weight.k // BLOCK)
    found = weight.data.reshape(weight.n_rows, -1)[rows]
    n_codes = n_blocks * (16 if _is_nibble(fmt) else BLOCK)
    stored = found[:, :n_codes]
    if _is_nibble(fmt):
        bytes_ = stored.reshape(len(rows), n_blocks, 16)
        stored = np.concatenate([bytes_ & 15, bytes_ >> 4], axis=2).reshape(len(rows), -1)
        stored = stored - np.uint8(8 if fmt is Format.Q4R else 0)  # wraps to what int8 reads
    codes = np.ascontiguousarray(stored[:, : weight.k]).view(np.int8)
    n_halves = 2 if _has_minimum(fmt) else 1
    steps = np.ascontiguousarray(found[:, n_codes : n_codes + 2 * n_halves * n_blocks])
    halves = steps.view("<f2").astype(np.float16, copy=False).reshape(len(rows), n_halves, -1)
    return codes, halves[:, 0], halves[:, 1] if n_halves == 2 else None
