"""The typed ops of a plan: frozen, hashable and free of positions.

Ops name their weights and activation buffers; an executor resolves the names once. What each op
computes, to the bit, is written in ``edgesparse/ops/README.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

__all__ = [
    "LOGITS",
    "Add",
    "Attention",
    "Combine",
    "Embed",
    "Experts",
    "Glu",
    "GluKind",
    "Linear",
    "Norm",
    "Op",
    "Output",
    "RopeKV",
    "RopeStyle",
    "Route",
    "linears_of",
]

LOGITS = "logits"
"""Destination name that stands for the caller's logits array."""


class GluKind(IntEnum):
    """Gate of a gated feed-forward; values of `ES_GLU_*`."""

    NONE = 0
    SILU = 1
    RELU2 = 2
    GELU = 3
    RELU = 4

    @property
    def makes_zeros(self) -> bool:
        """Whether a gate that is not positive makes a product of 0."""
        return self in (GluKind.RELU2, GluKind.RELU)


class RopeStyle(IntEnum):
    """Which elements of a head rotate together; values of `ES_ROPE_*`."""

    NEOX = 0
    NORM = 1


@dataclass(frozen=True)
class Embed:
    """Look up one row of `weight` per token."""

    name: str
    weight: str
    dst: str
    scale: float = 1.0


@dataclass(frozen=True)
class Output:
    """One matrix of a linear op, with its destination and its epilogue.

    `live` names a buffer: outputs whose element there is not above 0 are not computed, but +0. It
    may be the destination of an earlier output of the same op.

    With `live_threshold`, outputs with ``|silu(g)| * factor`` below it are +0 instead, g being the
    element of `live`, in tokens from the step's `sparse_from` on: an approximation. `live_factors`
    names a vector with a factor per output.

    `signs` names sign planes of `weight` (`Parameters.signs`): outputs that they predict to be
    negative, with `alpha` ten-thousandths, are not computed either, but +0. That is an
    approximation.

    `side` names a matrix of outliers of the same shape: its product with the same inputs, floats as
    they are, is added to the destination after this, to outputs of a dead gate like to others.

    Last of all `shift` is subtracted, and what is then below `cutoff` becomes +0: thresholds that
    belong to a model's activation (shifted ReLU, FATReLU). The output is then neither added nor
    logits.
    """

    weight: str
    dst: str
    add: bool = False
    bias: str | None = None
    live: str | None = None
    live_threshold: float = 0.0
    live_factors: str | None = None
    signs: str | None = None
    alpha: int = 10_000
    side: str | None = None
    shift: float = 0.0
    cutoff: float = 0.0

    @property
    def is_cut(self) -> bool:
        """Whether `shift` or `cutoff` changes the output."""
        return self.shift > 0 or self.cutoff > 0


@dataclass(frozen=True)
class Linear:
    """(glu) → (norm) → quantise → one to four products that share their input.

    `skip_zeros` asks for weights stored neuron-major, so that quantised inputs of zero cost
    nothing; it changes no result.

    `threshold` makes inputs x with ``|x| * factor < threshold`` count as zero, in tokens from the
    step's `sparse_from` on: an approximation. `factors` names a vector with a factor per input;
    `dead_share` is how many inputs the calibration expects to count as zero, for reports.
    """

    name: str
    src: str
    outputs: tuple[Output, ...]
    src2: str | None = None
    glu: GluKind = GluKind.NONE
    norm: str | None = None
    eps: float = 0.0
    outputs_only: bool = False
    skip_zeros: bool = False
    threshold: float = 0.0
    factors: str | None = None
    dead_share: float = 0.0


@dataclass(frozen=True)
class RopeKV:
    """Rotate q and k, store k and v in the layer's cache."""

    name: str
    layer: int
    q: str
    k: str
    v: str
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rope_dim: int
    style: RopeStyle
    table: str
    norm_q: str | None = None
    norm_k: str | None = None
    eps: float = 0.0


@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention of q over the layer's cache."""

    name: str
    layer: int
    q: str
    dst: str
    n_heads: int
    n_kv_heads: int
    head_dim: int
    scale: float
    window: int = 0


@dataclass(frozen=True)
class Norm:
    """RMSNorm on its own (unfused plans)."""

    name: str
    src: str
    dst: str
    weight: str
    eps: float


@dataclass(frozen=True)
class Glu:
    """Gate times up on its own (unfused plans)."""

    name: str
    gate: str
    up: str
    dst: str
    kind: GluKind


@dataclass(frozen=True)
class Add:
    """dst += src on its own (unfused plans)."""

    name: str
    src: str
    dst: str


@dataclass(frozen=True)
class Route:
    """Choose the `n_used` of `n_experts` experts with the highest scores in `src`.

    A token's row of `dst` holds their numbers, ascending, and behind them their weights: the
    softmax over all scores, or with `normalize` over the chosen ones.
    """

    name: str
    src: str
    dst: str
    n_experts: int
    n_used: int
    normalize: bool


@dataclass(frozen=True)
class Experts:
    """A linear op for every expert, each over the tokens that have chosen it.

    Attributes
    ----------
    src, src2 : str
        Inputs; with `per_slot` each token has `n_used` rows there, one for each chosen expert.
    route : str
        Destination of the `Route` that chose.
    experts : tuple of tuple of Output
        Outputs of every expert: the same shapes and destinations, where each token has `n_used`
        rows. They may have `live`; all else is as it is by default.
    n_used : int
        Experts that a token chooses.
    glu, norm, eps, skip_zeros
        As in `Linear`.
    """

    name: str
    src: str
    route: str
    experts: tuple[tuple[Output, ...], ...]
    n_used: int
    per_slot: bool = False
    src2: str | None = None
    glu: GluKind = GluKind.NONE
    norm: str | None = None
    eps: float = 0.0
    skip_zeros: bool = False

    @property
    def outputs(self) -> tuple[Output, ...]:
        """Outputs of the first expert, which name the destinations of all."""
        return self.experts[0]

    def expert(self, number: int) -> Linear:
        """Return one expert as a linear op over rows that stand for its tokens."""
        return Linear(
            f"{self.name}.{number}",
            self.src,
            self.experts[number],
            self.src2,
            self.glu,
            self.norm,
            self.eps,
            skip_zeros=self.skip_zeros,
        )


@dataclass(frozen=True)
class Combine:
    """Add the weighted sum of the chosen experts' rows of `src` to dst.

    With `shared`, the output of an expert that every token uses takes part, weighted by the
    logistic function of `gate`, or by 1 without one.
    """

    name: str
    src: str
    route: str
    dst: str
    n_used: int
    shared: str | None = None
    gate: str | None = None


Op: TypeAlias = Embed | Linear | RopeKV | Attention | Norm | Glu | Add | Route | Experts | Combine


def linears_of(op: Op) -> tuple[Linear, ...]:
    """Return the linear ops that an op consists of: itself, one for every expert, or none."""
    if isinstance(op, Experts):
        return tuple(op.expert(number) for number in range(len(op.experts)))
    return (op,) if isinstance(op, Linear) else ()
