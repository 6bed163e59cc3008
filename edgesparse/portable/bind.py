"""What an op is bound to: buffers, parameters, scratch and threads, resolved once per plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache, Parameters, Step
from edgesparse.formats.weight import Weight, storage_bytes
from edgesparse.formats.without_zeros import sparse_is_valid
from edgesparse.plan.cache_type import CHUNK
from edgesparse.plan.op import Attention, RopeKV
from edgesparse.plan.plan import Plan
from edgesparse.portable.jit import njit
from edgesparse.portable.pool import Pool
from edgesparse.portable.workspace import Workspace

__all__ = [
    "Bindings",
    "Bytes",
    "Float32",
    "Halfs",
    "Int32",
    "Runner",
    "plane_of",
    "recent_of",
    "require",
    "require_bytes",
    "require_cache",
    "tokens_of",
]

Bytes: TypeAlias = npt.NDArray[np.uint8]
Halfs: TypeAlias = npt.NDArray[np.uint16]
Float32: TypeAlias = npt.NDArray[np.float32]
Int32: TypeAlias = npt.NDArray[np.int32]

Runner: TypeAlias = Callable[[Step], None]
"""One op with everything but the step filled in."""


@dataclass(frozen=True, eq=False)
class Bindings:
    """Where the ops of one plan find their data.

    Attributes
    ----------
    plan : Plan
        Shapes of cache, tables and logits.
    buffers : mapping of str to float32 ndarray, shape (max_tokens, width)
        Activations.
    parameters : Parameters
        Weights, vectors and rotary tables.
    pool : Pool
        Threads.
    workspace : Workspace
        Scratch that the ops share, one after the other.
    """

    plan: Plan
    buffers: Mapping[str, Float32]
    parameters: Parameters
    pool: Pool
    workspace: Workspace


def require(condition: bool, op: str, what: str) -> None:
    """Refuse a plan that does not fit its parameters: kernels index without further checks.

    Raises
    ------
    UsageError
        `condition` is false.
    """
    if not condition:
        raise UsageError(f"The plan does not fit its parameters: op {op}: {what}.")


def require_bytes(op: str, weight: Weight) -> None:
    """Refuse a weight whose arrays are not as long as its shape says."""
    if weight.format.is_sparse:
        require(sparse_is_valid(weight), op, f"{weight.name}: its bytes contradict each other")
        return
    n_bytes = storage_bytes(weight.format, weight.n_rows, weight.k, weight.slices)
    n_scales = weight.n_rows if weight.format.has_row_scales else 0
    require(weight.data.nbytes == n_bytes, op, f"{weight.name} has not {n_bytes} bytes")
    require(weight.scales.size == n_scales, op, f"{weight.name} has not {n_scales} scales")


def require_cache(op: RopeKV | Attention, plan: Plan) -> None:
    """Refuse an op whose layer or heads are not those of the plan's cache."""
    require(0 <= op.layer < plan.n_layers, op.name, f"there is no layer {op.layer}")
    same = (op.n_kv_heads, op.head_dim) == (plan.n_kv_heads, plan.head_dim)
    require(same, op.name, "its kv heads differ from the cache's")


@njit
def plane_of(
    data: Bytes, n_planes: int, capacity: int, plane: int, chunk: int
) -> npt.NDArray[np.uint8]:
    """View one chunk of one kv head of one layer as rows of bytes.

    Parameters
    ----------
    data : uint8
        `CacheRows.data`.
    n_planes : int
        Layers times kv heads.
    plane : int
        ``layer * n_kv_heads + kv_head``.
    """
    row_bytes = data.shape[0] // (n_planes * capacity)
    n_rows = min(CHUNK, capacity - chunk * CHUNK)
    begin = (chunk * CHUNK * n_planes + plane * n_rows) * row_bytes
    return data[begin : begin + n_rows * row_bytes].reshape((n_rows, row_bytes))


def recent_of(cache: KVCache) -> tuple[Bytes, Bytes]:
    """Return the bytes of the latest whole rows of a pruned cache; those of the cache otherwise."""
    if cache.recent_keys is None or cache.recent_values is None:
        return cache.keys.data, cache.values.data
    return cache.recent_keys.data, cache.recent_values.data


def tokens_of(step: Step) -> list[tuple[Int32, KVCache]]:
    """Group a step's tokens by sequence: ascending token indices and the sequence's cache."""
    if len(step.caches) == 1:
        return [(np.arange(len(step.tokens), dtype=np.int32), step.caches[0])]
    return [
        (np.flatnonzero(step.sequences == index).astype(np.int32), step.caches[index])
        for index in np.unique(step.sequences)
    ]
