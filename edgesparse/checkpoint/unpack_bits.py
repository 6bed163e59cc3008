"""Codes of 2 to 8 bits in 32-bit words, as GPTQ, AWQ and compressed-tensors lay them out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["awq_columns", "bit_stream", "padded_words"]

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]

_AWQ_SLOTS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Slot of its word in which output i of eight stands (AutoAWQ's gemm kernel)."""


def bit_stream(words: U32, bits: int, n: int) -> U8:
    """Read a dense stream, least significant bit first; values may straddle words.

    Parameters
    ----------
    words : (n_rows, >= ceil(n * bits / 32)) uint32
        One stream per row.
    bits : int
        1 to 8.
    n : int
        Values per row.

    Returns
    -------
    (n_rows, n) uint8
    """
    words = np.ascontiguousarray(words, dtype="<u4")
    if bits == 8:
        return words.view(np.uint8)[:, :n]
    if bits in (2, 4):
        packed = words.view(np.uint8)
        out = np.empty((*packed.shape, 8 // bits), np.uint8)
        for lane in range(8 // bits):
            np.right_shift(packed, lane * bits, out=out[..., lane])
        out &= (1 << bits) - 1
        return out.reshape(len(words), -1)[:, :n]
    # Every `bits` words begin anew: there stand 32 values.
    n_periods = -(-n // 32)
    padded = np.zeros((len(words), n_periods * bits), np.uint32)
    n_words = min(padded.shape[1], words.shape[1])
    padded[:, :n_words] = words[:, :n_words]
    periods = padded.reshape(len(words), n_periods, bits)
    out = np.empty((len(words), n_periods, 32), np.uint8)
    for lane in range(32):
        word, shift = divmod(lane * bits, 32)
        value = periods[..., word] >> np.uint32(shift)
        if shift + bits > 32:
            value |= periods[..., word + 1] << np.uint32(32 - shift)
        out[..., lane] = value & np.uint32((1 << bits) - 1)
    return out.reshape(len(words), -1)[:, :n]


def padded_words(words: U32, bits: int, n: int) -> U8:
    """Read words of floor(32 / bits) values each, whose top bits are waste; as `bit_stream`."""
    per_word = 32 // bits
    out = np.empty((*words.shape, per_word), np.uint8)
    for lane in range(per_word):
        out[..., lane] = (words >> np.uint32(lane * bits)) & np.uint32((1 << bits) - 1)
    return out.reshape(len(words), -1)[:, :n]


def awq_columns(words: U32) -> U8:
    """Read words that hold eight outputs each, in AutoAWQ's order of slots.

    Parameters
    ----------
    words : (n, n_outputs / 8) uint32

    Returns
    -------
    (n_outputs, n) uint8
    """
    columns = np.ascontiguousarray(words.T, dtype="<u4")
    out = np.empty((len(columns), 8, columns.shape[1]), np.uint8)
    for i, slot in enumerate(_AWQ_SLOTS):
        out[:, i] = (columns >> np.uint32(4 * slot)) & np.uint32(15)
    return out.reshape(-1, columns.shape[1])
