"""`compress_layers`: change matrices layer by layer, each layer seeing those before it changed.

The text runs through a layer twice: with the layer's own weights, to sum up Xᵀ X of what every
matrix multiplies; and with the changed ones, to give the next layer the inputs that it will have.
That is the order of GPTQ (arXiv 2210.17323), SparseGPT (arXiv 2301.00774) and Wanda (arXiv
2306.11695). Only one layer's weights, its Hessians and the residual stream of the text are in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgesparse.cancel import CancelToken
from edgesparse.checkpoint import Checkpoint, check_scales, dequantize
from edgesparse.compress.forward import State, run_ops
from edgesparse.compress.sparsegpt import layer_error
from edgesparse.config import ModelConfig
from edgesparse.errors import Cancelled, UsageError
from edgesparse.formats.dequantize import dequantize as dequantize_weight
from edgesparse.formats.load import load_weights
from edgesparse.loading import load_vectors, rope_tables
from edgesparse.plan.op import Embed, Linear, Op
from edgesparse.plan.plan import Plan

__all__ = ["Change", "Matrix", "Progress", "compress_layers", "layer_ops", "read_matrix"]

Float32 = npt.NDArray[np.float32]
STREAM = "x"
"""The buffer that layers hand on."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """A matrix of a layer, and what the text has multiplied with it.

    Attributes
    ----------
    name : str
        Tensor name.
    layer : int
    weight : float32 ndarray, shape (n_rows, k)
    hessian : float32 ndarray, shape (k, k)
        Xᵀ X over all tokens, where `compress_layers` was asked for it; else (0, 0).
    n_tokens : int
        Tokens in it.
    """

    name: str
    layer: int
    weight: Float32
    hessian: Float32
    n_tokens: int

    @property
    def norms(self) -> Float32:
        """2-norms of the inputs over the text, (k,)."""
        return np.sqrt(np.maximum(np.diagonal(self.hessian), 0)).astype(np.float32)

    def lost(self, values: Float32) -> float:
        """Return the share of its outputs' power over the text that `values` in its place lose.

        Without a text, of the power of its weights.
        """
        if self.hessian.size:
            return layer_error(self.weight, values, self.hessian)
        whole = float(np.square(self.weight, dtype=np.float64).sum())
        return float(np.square(self.weight - values, dtype=np.float64).sum()) / max(whole, 1e-30)


Change: TypeAlias = Callable[[Matrix], Float32]
"""change(matrix): return its weight after compression, (n_rows, k)."""

Progress: TypeAlias = Callable[[float, int], None]
"""progress(layers done, layers), a share of the present layer included."""


def layer_ops(plan: Plan) -> list[tuple[Op, ...]]:
    """Cut a plan into its decoder layers."""
    layers: dict[int, list[Op]] = {}
    for op in plan.ops:
        parts = op.name.split(".")
        if parts[0] == "blk":
            layers.setdefault(int(parts[1]), []).append(op)
    return [tuple(layers[i]) for i in sorted(layers)]


def read_matrix(checkpoint: Checkpoint, name: str) -> Float32:
    """Read a matrix as numbers.

    Raises
    ------
    ModelFormatError
        ``missing``, ``truncated``, or ``value`` for numbers that are not finite.
    """
    info = checkpoint.info(name)
    if info.packed is not None or info.slices is not None or info.ternarize or info.transposed:
        return dequantize_weight(load_weights(checkpoint, [name])[name])
    raw, shape = checkpoint.read(name), (info.n_rows, info.n_cols)
    check_scales(info.type, raw, shape, name=name)
    return np.ascontiguousarray(dequantize(info.type, raw, shape, info.scale, name=name))


def compress_layers(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    windows: Sequence[npt.NDArray[np.int32]],
    change: Change,
    *,
    with_hessian: bool = True,
    is_done: Callable[[str], bool] = lambda name: False,
    progress: Progress | None = None,
    cancel: CancelToken | None = None,
) -> None:
    """Change every matrix of every layer.

    Parameters
    ----------
    checkpoint, config : Checkpoint, ModelConfig
    plan : Plan
        Its ops decide what runs; thresholds and predictors are ignored.
    windows : sequence of int32 ndarray
        Calibration text, each a sequence of its own. Empty: matrices are changed without it.
    change : callable
        Called for each matrix, layer by layer.
    with_hessian : bool
        Whether `change` looks at what the matrices multiply.
    is_done : callable
        Tells of a matrix that `change` needs no Hessian for, because its result is known.
    progress : Progress, optional
        Called between windows and matrices.
    cancel : CancelToken, optional
        Polled there too.

    Raises
    ------
    Cancelled
    UsageError
        A model with ops that no dense layer has.
    """
    vectors = load_vectors(checkpoint, plan)
    tables = rope_tables(checkpoint, config, plan)
    layers = layer_ops(plan)
    streams = _embedded(checkpoint, plan, windows)
    n_tokens = sum(len(stream) for stream in streams)
    none = np.zeros((0, 0), np.float32)
    for number, ops in enumerate(layers):
        linears = [op for op in ops if isinstance(op, Linear)]
        names = [out.weight for op in linears for out in op.outputs]
        steps = _Steps(number, len(layers), 2 * len(streams) + len(names), progress, cancel)
        weights = {name: read_matrix(checkpoint, name) for name in names}
        hessians: dict[str, Float32] = {}
        if with_hessian and not all(is_done(name) for name in names):
            hessians = _hessians(ops, streams, weights, vectors, tables, steps)
        steps.begin(len(streams))
        for op in linears:
            for out in op.outputs:
                steps.next()
                hessian = hessians.get(op.name, none)
                matrix = Matrix(out.weight, number, weights[out.weight], hessian, n_tokens)
                weights[out.weight] = change(matrix)
        steps.check()  # who stops here is not made to wait for the file
        if number + 1 < len(layers):
            for i, stream in enumerate(streams):
                steps.next()
                streams[i] = _through(ops, stream, weights, vectors, tables)[STREAM]
    if progress is not None:
        progress(len(layers), len(layers))


class _Steps:
    """Windows and matrices of a layer: tells of each before it begins, and stops there."""

    def __init__(
        self,
        layer: int,
        n_layers: int,
        n_steps: int,
        progress: Progress | None,
        cancel: CancelToken | None,
    ) -> None:
        self._layer, self._n_layers, self._n_steps = layer, n_layers, n_steps
        self._progress, self._cancel = progress, cancel
        self._step = 0

    def begin(self, step: int) -> None:
        self._step = step

    def check(self) -> None:
        if self._cancel is not None and self._cancel.cancelled:
            raise Cancelled(
                "stopped; what is finished is kept.",
                advice="The same command goes on from there.",
            )

    def next(self) -> None:
        self.check()
        if self._progress is not None:
            self._progress(self._layer + self._step / self._n_steps, self._n_layers)
        self._step += 1


def _embedded(
    checkpoint: Checkpoint, plan: Plan, windows: Sequence[npt.NDArray[np.int32]]
) -> list[Float32]:
    if not windows:
        return []
    embed = next(op for op in plan.ops if isinstance(op, Embed))
    if embed.dst != STREAM:
        raise UsageError(f"the embedding goes to {embed.dst}, not to the residual stream.")
    table = read_matrix(checkpoint, embed.weight)
    return [table[tokens] * np.float32(embed.scale) for tokens in windows]


def _through(
    ops: Sequence[Op],
    stream: Float32,
    weights: dict[str, Float32],
    vectors: dict[str, Float32],
    tables: dict[str, Float32],
) -> State:
    state: State = {STREAM: stream}
    run_ops(ops, state, weights, vectors, tables)
    return state


def _hessians(
    ops: Sequence[Op],
    streams: Sequence[Float32],
    weights: dict[str, Float32],
    vectors: dict[str, Float32],
    tables: dict[str, Float32],
    steps: _Steps,
) -> dict[str, Float32]:
    """Sum up Xᵀ X of every linear op."""
    sums: dict[str, Float32] = {}

    def observe(op: Linear, h: Float32) -> None:
        if op.name not in sums:
            sums[op.name] = np.zeros((h.shape[1], h.shape[1]), np.float32)
        sums[op.name] += h.T @ h

    for stream in streams:
        steps.next()
        run_ops(ops, {STREAM: stream}, weights, vectors, tables, observe)
    return sums
