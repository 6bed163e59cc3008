"""`Engine`: a plan, its parameters and an executor; it turns tokens into logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgesparse.errors import ContextOverflow, UsageError
from edgesparse.executors.base import NEVER_SPARSE, CancelFlag, Executor, KVCache, Step
from edgesparse.ops.two_stage import N_TILES
from edgesparse.plan.plan import Plan

__all__ = ["DEFAULT_CHUNK", "TILED_CHUNK", "Engine"]

Float32 = npt.NDArray[np.float32]

DEFAULT_CHUNK = 128
"""Tokens per prefill step: enough to use each weight many times, few enough to stop quickly."""
TILED_CHUNK = 256
"""The same where tiles (AMX) multiply so fast that unpacking weights for 128 tokens would show."""


class Engine:
    """Runs sequences. Safe to share between threads: the executor takes one step at a time.

    Parameters
    ----------
    executor : Executor
    n_threads : int
        Threads that the executor was made with, for reports.
    chunk : int
        Tokens per prefill step.

    Attributes
    ----------
    plan : Plan
    executor_name : str
    n_ctx, n_vocab, max_tokens : int
        Positions of a cache, row length of logits, tokens in one step at most.
    """

    def __init__(self, executor: Executor, *, n_threads: int, chunk: int = DEFAULT_CHUNK) -> None:
        self.executor = executor
        self.n_threads = n_threads
        self._chunk = chunk

    @property
    def plan(self) -> Plan:
        """The frozen op list."""
        return self.executor.plan

    @property
    def executor_name(self) -> str:
        """``native``, ``portable`` or ``reference``."""
        return self.executor.name

    @property
    def n_ctx(self) -> int:
        """Positions that a cache holds."""
        return self.plan.n_ctx

    @property
    def n_vocab(self) -> int:
        """Length of a row of logits."""
        return self.plan.n_vocab

    @property
    def max_tokens(self) -> int:
        """Tokens in one step, at most."""
        return self.plan.max_tokens

    def new_cache(self, capacity: int | None = None) -> KVCache:
        """Make an empty cache for `capacity` positions (n_ctx by default)."""
        return KVCache(self.plan, self.n_ctx if capacity is None else min(capacity, self.n_ctx))

    def forward(
        self,
        cache: KVCache,
        tokens: Sequence[int] | npt.NDArray[np.int32],
        start: int,
        *,
        outputs: Literal["last", "all", "none"] = "last",
        cancel: CancelFlag | None = None,
        chunk: int | None = None,
        op_bytes: npt.NDArray[np.uint64] | None = None,
        op_ns: npt.NDArray[np.uint64] | None = None,
        thresholds: bool = False,
        exact: bool = True,
    ) -> Float32:
        """Run `tokens` at positions start, start + 1, … of one sequence.

        Parameters
        ----------
        cache : KVCache
            Holds positions below `start` already; gains the new ones.
        tokens : sequence of int
        start : int
        outputs : {"last", "all", "none"}
            Which tokens' logits to return.
        cancel : CancelFlag, optional
        chunk : int, optional
            Tokens per step, instead of the engine's own; results do not depend on it.
        op_bytes, op_ns : uint64 ndarray, shape (n_ops,), optional
            See `Step`.
        thresholds : bool
            Whether these tokens are generated rather than read: small inputs are ignored where the
            plan has thresholds, but for its first `dense_tokens` positions. A prompt never is.
        exact : bool
            False: with a two-stage head, a single output has exact logits for the candidates that
            the coarse pass proposes, and -inf for all others.

        Returns
        -------
        float32 ndarray, shape (n_outputs, n_vocab) with n_outputs 1, n_tokens or 0

        Raises
        ------
        Cancelled
        ContextOverflow
            The tokens do not fit into the cache.
        UsageError
            No tokens, or an id outside the vocabulary.
        """
        ids = np.ascontiguousarray(tokens, np.int32)
        n = len(ids)
        if n == 0:
            raise UsageError("There are no tokens to run.")
        if start < 0 or start + n > cache.capacity:
            raise ContextOverflow(
                f"{start + n} tokens do not fit into a context of {cache.capacity}.",
                advice="Shorten the text or load the model with a larger n_ctx.",
                n_prompt=start + n,
                n_ctx=cache.capacity,
            )
        size = min(chunk or self._chunk, self.max_tokens)
        n_outputs = {"last": 1, "all": n, "none": 0}[outputs]
        logits = np.empty((n_outputs, self.n_vocab), np.float32)
        for first in range(0, n, size):
            end = min(first + size, n)
            if outputs == "all":
                wanted, into = np.arange(end - first, dtype=np.int32), logits[first:end]
            elif outputs == "last" and end == n:
                wanted, into = np.array([end - first - 1], np.int32), logits
            else:
                wanted, into = np.zeros(0, np.int32), logits[:0]
            self.executor.run(
                Step(
                    tokens=ids[first:end],
                    positions=np.arange(start + first, start + end, dtype=np.int32),
                    sequences=np.zeros(end - first, np.int32),
                    outputs=wanted,
                    caches=[cache],
                    logits=into,
                    cancel=cancel,
                    op_bytes=op_bytes,
                    op_ns=op_ns,
                    sparse_from=self.plan.dense_tokens if thresholds else NEVER_SPARSE,
                    n_tiles=0 if exact else N_TILES,
                )
            )
        return logits

    def close(self) -> None:
        """Stop the executor's threads and free its buffers."""
        self.executor.close()
