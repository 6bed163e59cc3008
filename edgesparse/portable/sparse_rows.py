"""Rows of a pruned cache (numba twin of ``plan/sparse_rows.py``)."""

from __future__ import annotations

from edgesparse.portable.bind import Bytes, Float32
from edgesparse.portable.jit import njit
from edgesparse.portable.numerics import ZERO, half_in_bytes

__all__ = ["prune_row", "widen_sparse"]


@njit
def magnitude(row: Bytes, i: int) -> int:
    """Return the bits of half i without its sign: they order halfs by magnitude."""
    return int(row[2 * i]) | (int(row[2 * i + 1]) & 0x7F) << 8


@njit
def threshold(whole: Bytes, n: int, n_dropped: int) -> int:
    """Return the smallest magnitude that more than `n_dropped` of n halfs do not exceed."""
    low, high = 0, 0x7FFF
    while low < high:
        middle = (low + high) // 2
        count = 0
        for i in range(n):
            count += magnitude(whole, i) <= middle
        if count > n_dropped:
            high = middle
        else:
            low = middle + 1
    return low


@njit
def prune_row(row: Bytes, whole: Bytes, n: int, n_kept: int) -> None:
    """Keep the `n_kept` largest of n halfs, of equal ones those that come last."""
    n_dropped = n - n_kept
    bound = threshold(whole, n, n_dropped)
    equal = n_dropped
    for i in range(n):
        equal -= magnitude(whole, i) < bound
    bitmap_bytes = (n + 63) // 64 * 8
    for b in range(bitmap_bytes):
        row[b] = 0
    at = bitmap_bytes
    for i in range(n):
        size = magnitude(whole, i)
        if size == bound and equal > 0:
            equal -= 1
        elif size >= bound:
            row[i // 8] |= 1 << i % 8
            row[at] = whole[2 * i]
            row[at + 1] = whole[2 * i + 1]
            at += 2


@njit
def widen_sparse(out: Float32, row: Bytes) -> None:
    """Widen a row; what was dropped is +0."""
    n = out.shape[0]
    at = (n + 63) // 64 * 8
    for i in range(n):
        if row[i // 8] >> (i % 8) & 1:
            out[i] = half_in_bytes(row, at)
            at += 2
        else:
            out[i] = ZERO
