"""`Plan`: the frozen list of ops of one model, with its buffers and its cache shape."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgesparse.errors import UsageError
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import Experts, Op
from edgesparse.plan.sparse_rows import STEP_TOKENS, SparseRows

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """Everything an executor needs besides the weights.

    Attributes
    ----------
    architecture : str
        Model family that built the plan.
    ops : tuple of Op
        In order of execution.
    buffers : tuple of (str, int)
        Activation buffers and their width in floats per token.
    n_layers, n_kv_heads, head_dim : int
        Shape of the KV cache.
    n_vocab : int
        Row length of the logits.
    n_ctx : int
        Positions that the model (and its rotary tables) can hold.
    max_tokens : int
        Tokens in one step, at most.
    cache_type_k, cache_type_v : CacheType
        Storage of keys and of values.
    sparse_rows : SparseRows, optional
        How keys and values are pruned (lossy); both are halfs then.
    dense_tokens : int
        Positions at the start of a sequence that thresholds leave alone.
    """

    architecture: str
    ops: tuple[Op, ...]
    buffers: tuple[tuple[str, int], ...]
    n_layers: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    max_tokens: int
    cache_type_k: CacheType = CacheType.F16
    cache_type_v: CacheType = CacheType.F16
    dense_tokens: int = 0
    sparse_rows: SparseRows | None = None

    @property
    def n_phases(self) -> int:
        """Phases between barriers of one token's step; each expert that it uses has its own."""
        return sum(op.n_used if isinstance(op, Experts) else 1 for op in self.ops)

    @property
    def kv_dim(self) -> int:
        """Floats of one token's keys (or values) in one layer."""
        return self.n_kv_heads * self.head_dim

    @property
    def kv_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer."""
        if self.sparse_rows is not None:
            return 2 * self.n_kv_heads * self.sparse_rows.row_bytes(self.head_dim)
        return self.whole_kv_bytes

    @property
    def whole_kv_bytes(self) -> int:
        """Bytes of one token's keys and values in one layer where nothing is pruned."""
        types = (self.cache_type_k, self.cache_type_v)
        return self.n_kv_heads * sum(kind.row_bytes(self.head_dim) for kind in types)

    def with_sparse_cache(self, sparsity: float) -> Plan:
        """Return the plan with pruned keys and values, and steps short enough for that.

        Raises
        ------
        UsageError
            The sparsity is out of range, or keys or values are not halfs.
        """
        if (self.cache_type_k, self.cache_type_v) != (CacheType.F16, CacheType.F16):
            raise UsageError(
                "pruned keys and values are stored as halfs.",
                advice="Leave out --cache-type-k and --cache-type-v, or --kv-sparsity.",
            )
        rows = SparseRows(sparsity, self.head_dim)
        return replace(self, sparse_rows=rows, max_tokens=min(self.max_tokens, STEP_TOKENS))

    def cache_bytes(self, capacity: int) -> int:
        """Bytes of a sequence's cache for so many positions, whole rows of the latest included."""
        n_recent = 0 if self.sparse_rows is None else self.sparse_rows.n_recent
        return self.n_layers * (capacity * self.kv_bytes + n_recent * self.whole_kv_bytes)

    def attention_bytes(self, first: int, end: int) -> int:
        """Bytes of one layer's cache that a token at position end − 1 reads from `first` on."""
        n_sparse = 0 if self.sparse_rows is None else self.sparse_rows.n_sparse(end - 1)
        n_sparse = max(first, n_sparse)
        return (n_sparse - first) * self.kv_bytes + (end - n_sparse) * self.whole_kv_bytes
