"""What all executors share: the step, the KV cache, the parameters and the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgesparse.executors.kv_cache import KVCache
from edgesparse.formats.coarse import Coarse
from edgesparse.formats.signs import SignPlanes
from edgesparse.formats.weight import Weight
from edgesparse.plan.plan import Plan

__all__ = ["NEVER_SPARSE", "CancelFlag", "Executor", "KVCache", "Parameters", "Step"]

NEVER_SPARSE = 2**31 - 1
"""A position that no token reaches."""

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
    coarse : Coarse, optional
        Copy of the head that proposes candidates, for steps with `Step.n_tiles`.
    signs : mapping of str to SignPlanes
        Sign planes of matrices whose dead outputs are predicted.
    """

    weights: Mapping[str, Weight]
    vectors: Mapping[str, Float32]
    tables: Mapping[str, Float32]
    coarse: Coarse | None = None
    signs: Mapping[str, SignPlanes] = field(default_factory=dict)


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
    sparse_from : int
        First position whose inputs the thresholds of linear ops apply to (lossy).
    op_ns : uint64 ndarray, shape (n_ops,), optional
        Wall-clock nanoseconds per op, added to.
    op_bytes : uint64 ndarray, shape (n_ops,), optional
        Bytes of weights that each linear op really read, added to. The native executor counts;
        the others leave it alone.
    n_tiles : int
        With a coarse head and one output: how many tiles of 8 rows are computed exactly, all other
        logits being -inf. 0: every logit.
    """

    tokens: Int32
    positions: Int32
    sequences: Int32
    outputs: Int32
    caches: list[KVCache]
    logits: Float32
    cancel: CancelFlag | None = None
    sparse_from: int = NEVER_SPARSE
    op_ns: npt.NDArray[np.uint64] | None = field(default=None)
    op_bytes: npt.NDArray[np.uint64] | None = field(default=None)
    n_tiles: int = 0


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
