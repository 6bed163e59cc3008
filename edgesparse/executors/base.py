"""What all executors share: the step, the KV cache, the parameters and the protocol."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgesparse.formats.signs import SignPlanes
from edgesparse.formats.weight import Weight
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.plan import Plan

__all__ = ["CancelFlag", "Executor", "KVCache", "Parameters", "Step"]

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Parameters:
    """The numbers of a model, by the names that ops use.

    Attributes
    ----------
    weights : mapping of str to Weight
        Matrices of linear and embed ops.
    vectors : mapping of str to float32 ndarray
        Norm weights and biases, contiguous.
    tables : mapping of str to float32 ndarray, shape (n_ctx, rope_dim)
        Rotary tables: cosines in the first half of a row, sines in the second.
    signs : mapping of str to SignPlanes
        Sign planes of matrices whose dead outputs are predicted.
    """

    weights: Mapping[str, Weight]
    vectors: Mapping[str, Float32]
    tables: Mapping[str, Float32]
    signs: Mapping[str, SignPlanes] = field(default_factory=dict)


class KVCache:
    """Keys and values of one sequence.

    Attributes
    ----------
    keys, values : ndarray, shape (n_layers, n_kv_heads, capacity, row_items)
        Elements and rows as the plan's `CacheType` of each says; for f16, head_dim halfs a row.
        Zero pages until written, so an unused context costs no memory.
    raw : uint8 ndarray
        All their bytes.
    capacity : int
        Positions that fit.
    """

    def __init__(self, plan: Plan, capacity: int) -> None:
        kinds = (plan.cache_type_k, plan.cache_type_v)
        shapes = [self.shape(plan, kind, capacity) for kind in kinds]
        sizes = [
            math.prod(shape) * kind.dtype.itemsize
            for shape, kind in zip(shapes, kinds, strict=True)
        ]
        # Anonymous pages without huge-page advice: numpy's own zeros would make a first touch
        # of every head's plane cost 2 MiB.
        self.raw: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, max(1, sum(sizes))), np.uint8)
        split = np.split(self.raw[: sum(sizes)], [sizes[0]])
        self.keys, self.values = (
            part.view(kind.dtype).reshape(shape)
            for part, kind, shape in zip(split, kinds, shapes, strict=True)
        )
        self.capacity = capacity

    @staticmethod
    def shape(plan: Plan, kind: CacheType, capacity: int) -> tuple[int, int, int, int]:
        """Return the shape of the keys or values of `capacity` positions."""
        return (plan.n_layers, plan.n_kv_heads, capacity, kind.row_items(plan.head_dim))


class CancelFlag:
    """An int32 that another thread sets to stop a running step; executors poll it between ops."""

    def __init__(self) -> None:
        self.value: Int32 = np.zeros(1, np.int32)

    def set(self) -> None:
        """Ask for a stop."""
        self.value[0] = 1

    def is_set(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self.value[0])


@dataclass(eq=False)
class Step:
    """All that varies from call to call.

    Attributes
    ----------
    tokens, positions, sequences : int32 ndarray, shape (n_tokens,)
        Token ids, their positions, and the index in `caches` of the sequence each belongs to.
    outputs : int32 ndarray, shape (n_outputs,)
        Ascending indices of the tokens whose logits are wanted.
    caches : list of KVCache
        One per sequence.
    logits : float32 ndarray, shape (n_outputs, n_vocab)
        Written by the head.
    cancel : CancelFlag, optional
        Polled between ops.
    op_ns : uint64 ndarray, shape (n_ops,), optional
        Wall-clock nanoseconds per op, added to.
    op_bytes : uint64 ndarray, shape (n_ops,), optional
        Bytes of weights that each linear op really read, added to. The native executor counts;
        the others leave it alone.
    """

    tokens: Int32
    positions: Int32
    sequences: Int32
    outputs: Int32
    caches: list[KVCache]
    logits: Float32
    cancel: CancelFlag | None = None
    op_ns: npt.NDArray[np.uint64] | None = field(default=None)
    op_bytes: npt.NDArray[np.uint64] | None = field(default=None)


class Executor(Protocol):
    """Runs a range of a plan's ops; one caller at a time, each executor locks itself."""

    name: str
    plan: Plan

    def run(self, step: Step, begin: int = 0, end: int | None = None) -> None:
        """Run ops [begin, end) for `step`.

        Raises
        ------
        Cancelled
            The step's cancel flag was set.
        UsageError
            A token, position, sequence or output index is out of range.
        """

    def buffer(self, name: str, n_tokens: int) -> Float32:
        """Return the first `n_tokens` rows of an activation buffer as an (n_tokens, width) view."""

    def close(self) -> None:
        """Release threads and buffers; further calls are errors."""
