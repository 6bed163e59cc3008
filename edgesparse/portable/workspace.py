"""`Workspace`: scratch of one executor, shared by its ops because they run one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Workspace"]

LOOK_UP_TOKENS = 4
"""Tokens in a step that look sums up in tables, at most."""
GROUP = 640
"""Columns are rounded up to this: a multiple of every format's group (32, 128, 160)."""


class Workspace:
    """Memory for quantised activations and for unpacked weights.

    Parameters
    ----------
    max_tokens, max_k : int
        Tokens in one step and columns of one weight, at most.
    n_workers : int
        Threads, each with unpacking scratch of its own.
    """

    def __init__(self, max_tokens: int, max_k: int, n_workers: int) -> None:
        columns = -(-max(1, max_k) // GROUP) * GROUP
        self.max_tokens = max_tokens
        self._x = _aligned(max_tokens * columns, np.float32)
        self._q8 = {n: _aligned(max_tokens * columns, np.int8) for n in (1, 4, 5)}
        self._q16 = _aligned(max_tokens * columns, np.int16)
        self._per_block = [_aligned(max_tokens * columns // 32, np.float32) for _ in range(3)]
        self._q8_blocks = _aligned(max_tokens * columns, np.int8)
        self._per_slice = [_aligned(max_tokens * columns // 32, np.float32) for _ in range(3)]
        self._tables = [_aligned(LOOK_UP_TOKENS * columns * 4, np.int16) for _ in range(2)]
        self._per_token = [_aligned(max_tokens, np.float32) for _ in range(2)]
        # The most greedy user is a tile of 8 float32 rows.
        self._unpacked = [_aligned(8 * columns, np.float32) for _ in range(n_workers)]
        self._gathered: dict[tuple[int, int], npt.NDArray[np.float32]] = {}

    def floats(self, k: int) -> npt.NDArray[np.float32]:
        """Return (max_tokens, k) float32: input of a linear op after its prologue."""
        return _shaped(self._x, (self.max_tokens, k))

    def int8(
        self, k: int, n_planes: int
    ) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Return q (max_tokens, padded k) int8, and scale and sum of q (max_tokens,)."""
        scale, total = self._per_token
        group = 32 * n_planes
        q = _shaped(self._q8[n_planes], (self.max_tokens, -(-k // group) * group))
        return q, scale, total.view(np.int32)

    def int16(
        self, k: int
    ) -> tuple[
        npt.NDArray[np.int16],
        npt.NDArray[np.float32],
        npt.NDArray[np.int32],
        npt.NDArray[np.float32],
    ]:
        """Return q (max_tokens, 32 blocks) int16, and d, Σq and dΣq (max_tokens, blocks)."""
        n_blocks = -(-k // 32)
        step, total, product = (_shaped(m, (self.max_tokens, n_blocks)) for m in self._per_block)
        q = _shaped(self._q16, (self.max_tokens, n_blocks * 32))
        return q, step, total.view(np.int32), product

    def int8_blocks(
        self, k: int
    ) -> tuple[
        npt.NDArray[np.int8],
        npt.NDArray[np.float32],
        npt.NDArray[np.int32],
        npt.NDArray[np.float32],
    ]:
        """Return q (max_tokens, 32 blocks) int8, and d, Σq and dΣq (max_tokens, blocks)."""
        n_blocks = -(-k // 32)
        step, total, product = (_shaped(m, (self.max_tokens, n_blocks)) for m in self._per_slice)
        q = _shaped(self._q8_blocks, (self.max_tokens, n_blocks * 32))
        return q, step, total.view(np.int32), product

    def tables(self, k: int, per_token: bool) -> npt.NDArray[np.int16]:
        """Return (LOOK_UP_TOKENS, quads, 16) int16: sums of activations, per block or per token."""
        quads = -(-k // 32) * 8
        flat = self._tables[int(per_token)]
        return flat[: LOOK_UP_TOKENS * quads * 16].reshape(LOOK_UP_TOKENS, quads, 16)

    def gathered(self, index: int, width: int) -> npt.NDArray[np.float32]:
        """Return (max_tokens, width) float32: output number `index` of one expert."""
        key = index, width
        if key not in self._gathered:
            self._gathered[key] = np.zeros((self.max_tokens, width), np.float32)
        return self._gathered[key]

    def unpacked(self, worker: int) -> npt.NDArray[np.float32]:
        """Return the flat scratch of one worker for a tile of unpacked weights."""
        return self._unpacked[worker]


def _aligned(n_items: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros that start on a 64-byte boundary."""
    n_bytes = n_items * np.dtype(dtype).itemsize
    memory = np.zeros(n_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + n_bytes].view(dtype)


def _shaped(flat: npt.NDArray[Any], shape: tuple[int, int]) -> npt.NDArray[Any]:
    """Return the start of `flat` as a matrix."""
    return flat[: shape[0] * shape[1]].reshape(shape)
