"""`MemoryGate`: predicts memory between the choice of formats and their allocation."""

from __future__ import annotations

from collections.abc import Container, Mapping

from edgesparse.budget import MemoryNeed, check_memory, predict
from edgesparse.checkpoint import Checkpoint
from edgesparse.config import ModelConfig
from edgesparse.formats.choose import is_roundable
from edgesparse.formats.coarse import coarse_bytes
from edgesparse.formats.head import TWO_STAGE
from edgesparse.formats.signs import plane_bytes
from edgesparse.formats.weight import Format, storage_bytes
from edgesparse.loading import head_name, vector_names
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import Linear
from edgesparse.plan.plan import Plan

__all__ = ["MemoryGate"]


class MemoryGate:
    """Predicts, and refuses what is too much; `check` is what `load_weights` calls.

    Parameters
    ----------
    checkpoint : Checkpoint
    config : ModelConfig
    plan : Plan
    head : str
        One of `edgesparse.choices.HEADS`.
    predicted : container of str
        Ops whose gate is predicted from sign planes.
    n_threads, chunk : int
        Threads, and tokens in a step.
    budget : int, optional
        Bytes that the process may take.

    Attributes
    ----------
    need : MemoryNeed or None
        The prediction, once `check` was called.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: ModelConfig,
        plan: Plan,
        *,
        head: str,
        predicted: Container[str],
        n_threads: int,
        chunk: int,
        budget: int | None,
    ) -> None:
        self.need: MemoryNeed | None = None
        self._checkpoint, self._config, self._plan = checkpoint, config, plan
        self._two_stage, self._predicted = head == TWO_STAGE, predicted
        self._n_threads, self._chunk, self._budget = n_threads, chunk, budget

    def check(self, formats: Mapping[str, Format], weights: int, loading: int) -> None:
        """Predict what weights in these formats and so many bytes come to.

        Raises
        ------
        MemoryBudgetError
        """
        info = self._checkpoint.info(head_name(self._plan))
        vectors = (self._checkpoint.info(name) for name in vector_names(self._plan))
        self.need = predict(
            self._plan,
            weights=weights,
            head_copy=coarse_bytes(info.n_rows, info.n_cols) if self._two_stage else 0,
            signs=self._sign_bytes(formats),
            vectors=sum(4 * each.n_rows * each.n_cols for each in vectors),
            loading=loading,
            n_tables=1 + (self._config.rope_theta_local is not None),
            rope_dim=self._config.rope_dim,
            n_threads=self._n_threads,
            chunk=self._chunk,
        )
        check_memory(self.need, self._budget, lambda: self._savings(formats))

    def _sign_bytes(self, formats: Mapping[str, Format]) -> int:
        """Bytes of sign planes; of ternary matrices also those of the places of non-zeros."""
        total = 0
        for op in self._plan.ops:
            if isinstance(op, Linear) and op.name in self._predicted:
                gate = self._checkpoint.info(op.outputs[0].weight)
                planes = 2 if formats[gate.name].has_row_scales else 1
                total += planes * gate.n_rows * plane_bytes(gate.n_cols)
        return total

    def _savings(self, formats: Mapping[str, Format]) -> list[tuple[str, int]]:
        """Say what else could be chosen on the command line, and the bytes that would save."""
        plan, found = self._plan, []
        halves = [kind.row_bytes(plan.head_dim) for kind in (CacheType.F16, CacheType.Q8_0)]
        rows = plan.n_ctx * plan.n_layers * plan.n_kv_heads
        n_wide = [plan.cache_type_k, plan.cache_type_v].count(CacheType.F16)
        found.append(("-ctk q8_0 -ctv q8_0", rows * n_wide * (halves[0] - halves[1])))
        name = head_name(plan)
        info = self._checkpoint.info(name)
        if self._checkpoint.stored is None and is_roundable(info):
            sizes = [
                storage_bytes(fmt, info.n_rows, info.n_cols) for fmt in (formats[name], Format.Q6)
            ]
            found.append(("--head q6", sizes[0] - sizes[1] + self._copy_bytes()))
        if self._checkpoint.stored is not None:
            return found
        t5 = 0
        for matrix, fmt in formats.items():
            if fmt in (Format.T2, Format.BST):
                shape = self._checkpoint.info(matrix)
                t5 += storage_bytes(fmt, shape.n_rows, shape.n_cols)
                t5 -= storage_bytes(Format.T5, shape.n_rows, shape.n_cols)
        found.append(("--ternary t5", t5))
        return found

    def _copy_bytes(self) -> int:
        return self.need.head_copy if self.need is not None else 0
