"""`Observed`: an executor that shows, or lets change, what goes into and comes out of linear ops.

It works on a plan that is not fused, where the input of every linear op lies in a buffer of its
own: behind the norm and the gate, in front of the quantisation. Between two ops the buffers are
anybody's, which is all that capturing and thresholding need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.errors import ModelFormatError, UsageError
from edgesparse.executors.base import Executor, Step
from edgesparse.plan.op import Add, Experts, GluKind, Linear
from edgesparse.plan.plan import Plan

__all__ = ["Hook", "Observed", "require_unfused"]

Float32 = npt.NDArray[np.float32]
Hook: TypeAlias = Callable[[Step, Float32], None]
"""hook(step, rows): may read and write the rows, (n_tokens, width); a token has one for each of
its experts in front of their ``down``."""


def require_unfused(plan: Plan) -> None:
    """Refuse a plan in which a linear op makes its input itself, or shares it with the residual.

    Raises
    ------
    UsageError
    """
    residual = {op.dst for op in plan.ops if isinstance(op, Add)}
    for op in plan.ops:
        if isinstance(op, (Linear, Experts)) and (
            op.norm is not None or op.glu is not GluKind.NONE or op.src in residual
        ):
            raise UsageError(
                f"The input of {op.name} cannot be looked at: the plan is fused.",
                advice="Load the model with fused=False.",
            )


class Observed:
    """Runs a plan on another executor and calls hooks around its linear ops.

    Parameters
    ----------
    executor : Executor
        Of a plan that is not fused.
    before : mapping of str to Hook, optional
        By name of a linear op: called with its input.
    after : mapping of str to Hook, optional
        Likewise: called with its first output, the gate of a ``gate_up``.
    """

    def __init__(
        self,
        executor: Executor,
        before: Mapping[str, Hook] | None = None,
        after: Mapping[str, Hook] | None = None,
    ) -> None:
        require_unfused(executor.plan)
        self.inner = executor
        self.name = executor.name
        self.plan = executor.plan
        self.before = dict(before or {})
        self.after = dict(after or {})

    def run(self, step: Step, begin: int = 0, end: int | None = None) -> None:
        """Run ops [begin, end); see `Executor.run`.

        Raises
        ------
        ModelFormatError
            What a hook is to be shown is not finite.
        """
        ops = self.plan.ops
        end = len(ops) if end is None else end
        done = begin
        for i in range(begin, end):
            op = ops[i]
            if not isinstance(op, (Linear, Experts)):
                continue
            before, after = self.before.get(op.name), self.after.get(op.name)
            if before is not None:
                self.inner.run(step, done, i)
                rows = self.buffer(op.src, len(step.tokens))
                if isinstance(op, Experts) and op.per_slot:
                    rows = rows.reshape(len(rows) * op.n_used, -1)
                before(step, _finite(rows, op.name))
                done = i
            if after is not None:
                self.inner.run(step, done, i + 1)
                after(step, _finite(self.buffer(op.outputs[0].dst, len(step.tokens)), op.name))
                done = i + 1
        self.inner.run(step, done, end)

    def buffer(self, name: str, n_tokens: int) -> Float32:
        """Return a view of an activation buffer; see `Executor.buffer`."""
        return self.inner.buffer(name, n_tokens)

    def close(self) -> None:
        """Close the executor inside."""
        self.inner.close()


def _finite(rows: Float32, name: str) -> Float32:
    """Refuse activations that no quantile and no share can be taken of."""
    if not np.isfinite(rows).all():
        raise ModelFormatError(
            *("value", name, "an activation is infinite or not a number"),
            advice="The weights are damaged: check the file, or run 'edgesparse verify'.",
        )
    return rows
