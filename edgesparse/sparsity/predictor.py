"""Put the sign predictor of SparseInfer into a plan, where it saves bytes.

A predicted row of the gate is not read. What that saves depends on the storage: ternary rows lie
one by one, as blocks do that were loaded to be predicted (q8r and its like), but the other formats
keep eight rows together, so that only a tile of eight dead rows is saved. What it costs are the
sign planes, one bit per weight, two for ternary weights, which have hardly more bits themselves:
packed ternary never gains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.formats.signs import plane_bytes, sign_planes
from edgesparse.formats.weight import ROW_BY_ROW, SPARSE, Format, Weight, storage_bytes
from edgesparse.plan.op import Linear, Op
from edgesparse.plan.plan import Plan
from edgesparse.sparsity.alphas import SparseInferTable

__all__ = ["PredictorCost", "add_predictor", "predictor_cost"]


@dataclass(frozen=True)
class PredictorCost:
    """What prediction does to the bytes of one token, over all layers.

    Attributes
    ----------
    gate_bytes : int
        Of the gate matrices, all of them, as they lie without prediction.
    saved_bytes : float
        Of these, what needs not be read.
    sign_bytes : int
        Of the sign planes, which must.
    """

    gate_bytes: int
    saved_bytes: float
    sign_bytes: int

    @property
    def pays(self) -> bool:
        """Whether fewer bytes move with prediction than without."""
        return self.saved_bytes > self.sign_bytes


def predictor_cost(
    plan: Plan,
    weights: Mapping[str, Weight],
    table: SparseInferTable,
    *,
    reloaded: bool = False,
) -> PredictorCost:
    """Compare what prediction saves with what it reads, by the shares of the calibration.

    Layers whose shares the file does not tell count as saving nothing.

    Parameters
    ----------
    plan, weights
        Of a model.
    table : SparseInferTable
    reloaded : bool
        Say what it would cost once the model is loaded to be predicted: gates that lie in tiles
        then lie row by row, where there is such a format.
    """
    gate_bytes, saved, sign_bytes = 0, 0.0, 0
    for op in plan.ops:
        if isinstance(op, Linear) and op.name in table.alphas:
            gate = weights[op.outputs[0].weight]
            whole, by_rows = gate.n_bytes, gate.n_bytes if gate.format.is_ternary else 0
            row_format = _row_format(gate.format, reloaded)
            if row_format is not None:
                by_rows = storage_bytes(row_format, gate.n_rows, gate.k)
            if gate.format.is_row:  # it would lie in tiles, which are not padded to whole lines
                whole = storage_bytes(gate.format.row_format, gate.n_rows, gate.k)
            skipped = table.skipped if by_rows else table.skipped_tiles
            gate_bytes += whole
            saved += whole - (by_rows or whole) * (1 - skipped.get(op.name, 0.0))
            n_planes = 2 if gate.format.is_ternary else 1
            sign_bytes += gate.n_rows * plane_bytes(gate.k) * n_planes
    return PredictorCost(gate_bytes, max(0.0, saved), sign_bytes)


def _row_format(fmt: Format, reloaded: bool) -> Format | None:
    """Return the format by single rows in which a predicted gate lies; None: there is none."""
    if reloaded:
        return ROW_BY_ROW.get(SPARSE.get(fmt, fmt))
    return fmt if fmt.is_row else None


def add_predictor(
    plan: Plan,
    parameters: Parameters,
    table: SparseInferTable,
    *,
    force: bool = False,
) -> tuple[Plan, Parameters]:
    """Return the plan with predicted gates, and the parameters with their sign planes.

    Raises
    ------
    UsageError
        The gate makes no zeros, nothing waits for it (sparse=off), or prediction would read more
        bytes than it saves and `force` is False.
    """
    ops: list[Op] = []
    signs = dict(parameters.signs)
    for op in plan.ops:
        if isinstance(op, Linear) and op.name in table.alphas:
            gate = op.outputs[0]
            if len(op.outputs) < 2 or op.outputs[1].live != gate.dst:
                raise UsageError(
                    f"{op.name} has no gate whose zeros are skipped, so nothing can be predicted.",
                    advice="Prediction needs a model with a ReLU, and --sparse auto.",
                )
            if parameters.weights[gate.weight].order is not None:
                raise UsageError(
                    f"{gate.weight} is stored with its columns in another order (act-order).",
                    advice="Its gates cannot be predicted: use a file without act-order.",
                )
            signs[gate.weight] = sign_planes(parameters.weights[gate.weight])
            gate = replace(gate, signs=gate.weight, alpha=table.alphas[op.name])
            op = replace(op, outputs=(gate, *op.outputs[1:]))
        ops.append(op)
    cost = predictor_cost(plan, parameters.weights, table)
    if not (force or cost.pays):
        raise UsageError(
            f"prediction would read {cost.sign_bytes / 1e6:.2f} MB of signs per token to save "
            f"{cost.saved_bytes / 1e6:.2f} MB of {cost.gate_bytes / 1e6:.2f} MB of gates.",
            advice="Run without it, or with --predict-force to see what it does.",
        )
    return replace(plan, ops=tuple(ops)), replace(parameters, signs=signs)
