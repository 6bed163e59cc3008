"""`Store`: how pruned matrices are written. Zeros stay exactly zero in each.

`rounder` lets SparseGPT know what a column will become before it goes on to the next one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse.checkpoint import TensorType, dequantize
from edgesparse.errors import UsageError

__all__ = ["STORES", "Rounder", "Store"]

Float32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

BLOCK = 32
"""Weights of a row that share a step."""


@dataclass(frozen=True)
class Store:
    """One way of writing a matrix.

    Attributes
    ----------
    name : str
        ``f16``, ``bf16``, ``f32``, ``int8`` or ``int4``.
    type : TensorType
    type_id, file_type : int
        GGUF's number of the type, and ``general.file_type`` of such a file.
    block_bytes : int
        Bytes of 32 weights.
    """

    name: str
    type: TensorType
    type_id: int
    file_type: int
    block_bytes: int

    def n_bytes(self, shape: tuple[int, int]) -> int:
        """Bytes of a matrix."""
        return shape[0] * shape[1] * self.block_bytes // BLOCK

    @property
    def is_float(self) -> bool:
        """Whether weights are stored one by one."""
        return self.name not in ("int8", "int4")

    def check(self, k: int, name: str) -> None:
        """Refuse a matrix whose rows are no whole blocks.

        Raises
        ------
        UsageError
        """
        if not self.is_float and k % BLOCK:
            raise UsageError(f"{name}: rows of {k} weights do not fall into blocks of {BLOCK}.")

    def steps(self, blocks: Float32) -> Float32:
        """Return the step of blocks (…, 32) as the half that is stored."""
        if self.name == "int8":
            step = np.abs(blocks).max(axis=-1) / np.float32(127)
        else:
            # The largest magnitude becomes −8, whatever its sign.
            at = np.abs(blocks).argmax(axis=-1)[..., None]
            step = np.take_along_axis(blocks, at, axis=-1)[..., 0] / np.float32(-8)
        half: Float32 = step.astype(np.float16).astype(np.float32)
        return half

    def codes(self, values: Float32, steps: Float32) -> Float32:
        """Round values to whole multiples of their steps; 0 stays 0."""
        low, high = (-127, 127) if self.name == "int8" else (-8, 7)
        safe = np.where(steps == 0, np.float32(1), steps)
        found: Float32 = np.clip(np.rint(values / safe), low, high)
        return np.where(steps == 0, np.float32(0), found)

    def encode(self, weight: Float32, steps: Float32 | None = None) -> tuple[Bytes, Float32]:
        """Write a matrix.

        Parameters
        ----------
        weight : float32 ndarray, shape (n_rows, k)
        steps : float32 ndarray, shape (n_rows, k / 32), optional
            Steps to use, from a `Rounder`.

        Returns
        -------
        bytes : uint8 ndarray
        stored : float32 ndarray, shape (n_rows, k)
            What a reader will make of it.

        Raises
        ------
        UsageError
            A weight does not fit into a half.
        """
        if self.is_float:
            data = self._encode_floats(weight)
            return data, self.decode(data, weight.shape)
        blocks = weight.reshape(len(weight), -1, BLOCK)
        steps = self.steps(blocks) if steps is None else steps
        codes = self.codes(blocks, steps[..., None])
        out = np.zeros((*steps.shape, self.block_bytes), np.uint8)
        out[..., :2] = steps.astype(np.float16)[..., None].view(np.uint8)
        if self.name == "int8":
            out[..., 2:] = codes.astype(np.int8).view(np.uint8)
        else:
            nibbles = (codes + 8).astype(np.uint8)
            out[..., 2:] = nibbles[..., :16] | nibbles[..., 16:] << 4
        return out.reshape(-1), (codes * steps[..., None]).reshape(weight.shape)

    def _encode_floats(self, weight: Float32) -> Bytes:
        if self.name == "f32":
            return weight.view(np.uint8).reshape(-1)
        if self.name == "bf16":
            bits = weight.view(np.uint32)
            # To nearest, ties to even.
            odd = bits >> np.uint32(16) & np.uint32(1)
            rounded = (bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            return rounded.astype(np.uint16).view(np.uint8).reshape(-1)
        with np.errstate(over="ignore"):
            halfs = weight.astype(np.float16)
        if not np.isfinite(halfs).all():
            raise UsageError("a weight is beyond the range of halfs.", advice="Use --store int8.")
        return halfs.view(np.uint8).reshape(-1)

    def decode(self, data: npt.NDArray[np.generic], shape: tuple[int, ...]) -> Float32:
        """Read what `encode` wrote, (n_rows, k)."""
        return dequantize(self.type, np.asarray(data, np.uint8), shape)


STORES = {
    "f32": Store("f32", TensorType.F32, 0, 0, 128),
    "bf16": Store("bf16", TensorType.BF16, 30, 32, 64),
    "f16": Store("f16", TensorType.F16, 1, 1, 64),
    "int8": Store("int8", TensorType.Q8_0, 8, 7, 34),
    "int4": Store("int4", TensorType.Q4_0, 2, 2, 18),
}


class Rounder:
    """Rounds the columns of one matrix from left to right, for `sparsegpt`.

    Parameters
    ----------
    store : Store
        int8 or int4.
    shape : (int, int)

    Attributes
    ----------
    steps : float32 ndarray, shape (n_rows, k / 32)
        What was used, for `Store.encode`.
    """

    def __init__(self, store: Store, shape: tuple[int, int]) -> None:
        self.store = store
        self.steps = np.zeros((shape[0], shape[1] // BLOCK), np.float32)

    def begin(self, j: int, weight: Float32, mask: npt.NDArray[np.bool_]) -> None:
        """Take the steps of a block before its first column, from the weights as they are then."""
        if j % BLOCK == 0:
            block = np.where(mask[:, j : j + BLOCK], np.float32(0), weight[:, j : j + BLOCK])
            self.steps[:, j // BLOCK] = self.store.steps(block)

    def round(self, j: int, column: Float32) -> Float32:
        """Return column j as it will be read."""
        steps = self.steps[:, j // BLOCK]
        rounded: Float32 = self.store.codes(column, steps) * steps
        return rounded
