"""`PlanBuilder`: architectures describe layers once; this writes the op list, fused or not.

An unfused list does norms, gates and residual additions as ops of their own. It computes the same
bits, which is how fusion is tested.
"""

from __future__ import annotations

from dataclasses import replace

from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import (
    LOGITS,
    Add,
    Attention,
    Combine,
    Embed,
    Experts,
    Glu,
    GluKind,
    Linear,
    Norm,
    Op,
    Output,
    RopeKV,
    Route,
)
from edgesparse.plan.plan import Plan

__all__ = ["PlanBuilder"]


class PlanBuilder:
    """Collects ops and activation buffers.

    Parameters
    ----------
    fused : bool
        False: every norm, gate and addition is an op of its own.
    sparse : bool
        Whether architectures are to skip the neurons that an activation has set to zero.
    """

    def __init__(self, *, fused: bool = True, sparse: bool = True) -> None:
        self._fused = fused
        self.sparse = sparse
        self._ops: list[Op] = []
        self._buffers: dict[str, int] = {}

    def buffer(self, name: str, width: int) -> str:
        """Declare an activation buffer of `width` floats per token; return its name."""
        if self._buffers.setdefault(name, width) != width:
            raise ValueError(f"buffer {name!r} was declared with another width")
        return name

    def add(self, op: Embed | RopeKV | Attention | Norm | Add | Route | Combine) -> None:
        """Append an op that is the same fused and unfused."""
        self._ops.append(op)

    def linear(
        self,
        name: str,
        src: str,
        outputs: tuple[Output, ...],
        *,
        up: str | None = None,
        glu: GluKind = GluKind.NONE,
        norm: str | None = None,
        eps: float = 0.0,
        outputs_only: bool = False,
        skip_zeros: bool = False,
    ) -> None:
        """Append products that share the input ``norm(glu(src, up))``."""
        if self._fused:
            self._ops.append(
                Linear(
                    *(name, src, outputs, up, glu, norm, eps if norm else 0.0),
                    *(outputs_only, skip_zeros),
                )
            )
            return
        hidden = self._plain_input(name, src, up, glu, norm, eps)
        plain = tuple(
            Output(o.weight, self._product_buffer(o), bias=o.bias) if o.add else o for o in outputs
        )
        self._ops.append(
            Linear(name, hidden, plain, outputs_only=outputs_only, skip_zeros=skip_zeros)
        )
        for product, out in zip(plain, outputs, strict=True):
            if out.add:
                self._ops.append(Add(f"{name}.add", product.dst, out.dst))

    def experts(self, op: Experts) -> None:
        """Append the products of experts."""
        if not self._fused:
            hidden = self._plain_input(op.name, op.src, op.src2, op.glu, op.norm, op.eps)
            op = replace(op, src=hidden, src2=None, glu=GluKind.NONE, norm=None, eps=0.0)
        self._ops.append(op)

    def _plain_input(
        self, name: str, src: str, up: str | None, glu: GluKind, norm: str | None, eps: float
    ) -> str:
        """Append gate and norm as ops of their own; return the buffer with their result."""
        width = self._buffers[src]
        hidden = src
        if glu is not GluKind.NONE:
            hidden = self.buffer(f"glu{width}", width)
            self._ops.append(Glu(f"{name}.glu", src, up or "", hidden, glu))
        if norm is not None:
            normed = self.buffer(f"norm{width}", width)
            self._ops.append(Norm(f"{name}.norm", hidden, normed, norm, eps))
            hidden = normed
        return hidden

    def _product_buffer(self, out: Output) -> str:
        width = self._buffers[out.dst]
        return self.buffer(f"product{width}", width)

    def finish(
        self,
        *,
        architecture: str,
        n_layers: int,
        n_kv_heads: int,
        head_dim: int,
        n_vocab: int,
        n_ctx: int,
        max_tokens: int,
        cache_type_k: CacheType = CacheType.F16,
        cache_type_v: CacheType = CacheType.F16,
    ) -> Plan:
        """Freeze the list."""
        return Plan(
            architecture=architecture,
            ops=tuple(self._ops),
            buffers=tuple((n, w) for n, w in self._buffers.items() if n != LOGITS),
            n_layers=n_layers,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            n_vocab=n_vocab,
            n_ctx=n_ctx,
            max_tokens=max_tokens,
            cache_type_k=cache_type_k,
            cache_type_v=cache_type_v,
        )
