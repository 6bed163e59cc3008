"""Formats that leave zeros out, by name: bitmaps, csr and 2:4 (pictures in README.md)."""

from __future__ import annotations

from math import comb

import numpy as np
import numpy.typing as npt

from edgesparse.formats.bitmap import bitmap_is_valid, count_codes, pack_bitmap, unpack_bitmap
from edgesparse.formats.csr import count_entries, csr_is_valid, pack_csr, unpack_csr
from edgesparse.formats.two_of_four import (
    count_kept,
    pack_two_of_four,
    two_of_four_is_valid,
    unpack_two_of_four,
)
from edgesparse.formats.weight import (
    BITMAP_CHUNKS,
    BITMAP_HEAD,
    BITMAP_SLACK,
    BITMAP_TILE,
    BLOCK,
    Format,
    Weight,
    storage_bytes,
)

__all__ = ["expected_bytes", "pack_sparse", "sparse_is_valid", "unpack_sparse", "zero_share"]

U8 = npt.NDArray[np.uint8]
I8 = npt.NDArray[np.int8]
F16 = npt.NDArray[np.float16]


def pack_sparse(codes: I8, d: F16, fmt: Format) -> U8:
    """Store codes and steps, leaving codes of 0 out; see the function of the format."""
    if fmt is Format.CSR:
        return pack_csr(codes, d)
    if fmt.is_two_of_four:
        return pack_two_of_four(codes, d, fmt)
    return pack_bitmap(codes, d, fmt)


def unpack_sparse(weight: Weight, rows: npt.NDArray[np.intp]) -> tuple[I8, F16, None]:
    """Take rows apart; results as of `unpack_blocks`.

    In csr, blocks of a row without codes have no step: it reads as 0.

    Raises
    ------
    ValueError
        The bytes contradict each other: see `sparse_is_valid`.
    """
    if weight.format is Format.CSR:
        return unpack_csr(weight, rows)
    if weight.format.is_two_of_four:
        return unpack_two_of_four(weight, rows)
    return unpack_bitmap(weight, rows)


def sparse_is_valid(weight: Weight) -> bool:
    """Tell whether a matrix's bytes agree with each other, so that kernels stay inside them."""
    if weight.format is Format.CSR:
        return csr_is_valid(weight)
    if weight.format.is_two_of_four:
        return two_of_four_is_valid(weight)
    return bitmap_is_valid(weight)


def zero_share(weight: Weight) -> float:
    """Count the codes of 0, padding not included, as a share of all."""
    if weight.format is Format.CSR:
        n_kept = count_entries(weight)
    else:
        n_kept = (count_kept if weight.format.is_two_of_four else count_codes)(weight)
    return 1 - n_kept / (weight.n_rows * weight.k)


def expected_bytes(fmt: Format, n_rows: int, k: int, zeros: float) -> int:
    """Estimate the bytes of a matrix of which a share of `zeros` codes, anywhere, is 0."""
    if fmt.is_two_of_four:
        return storage_bytes(fmt, n_rows, k)
    n_tiles, n_blocks = -(-n_rows // BITMAP_TILE), -(-k // BLOCK)
    n_values = (1 - zeros) * n_rows * k
    if fmt is Format.CSR:
        per_block = 2 + 4 * _expected_words(zeros) + 2 * BITMAP_TILE * (1 - zeros**BLOCK)
        return int(8 * (n_tiles + 1) + n_tiles * n_blocks * per_block + 2 * n_values + BITMAP_SLACK)
    if fmt is Format.BMP4:  # half of the chunks end in half a byte
        n_values = n_values / 2 + n_tiles * n_blocks * BITMAP_CHUNKS * 0.25 * (0 < zeros < 1)
    return int(8 * (n_tiles + 1) + n_tiles * n_blocks * BITMAP_HEAD + n_values + BITMAP_SLACK)


def _expected_words(zeros: float) -> float:
    """Words of a block of csr, two entries of each row in one: as the fullest of 16 rows wants."""
    at_most = np.cumsum(
        [comb(BLOCK, n) * (1 - zeros) ** n * zeros ** (BLOCK - n) for n in range(BLOCK + 1)]
    )
    return float(np.sum(1 - np.minimum(at_most[:BLOCK:2], 1) ** BITMAP_TILE))
