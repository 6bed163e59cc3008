"""`Plan`: the frozen list of ops of one model, with its buffers and its cache shape."""

from __future__ import annotations

from dataclasses import dataclass

from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import Experts, Op

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
        types = (self.cache_type_k, self.cache_type_v)
        return self.n_kv_heads * sum(kind.row_bytes(self.head_dim) for kind in types)
