"""TEAL (Liu et al., 2024): one threshold per linear op on the magnitude of its input.

The threshold for a share p is the empirical p-quantile of |x| over the text: unlike the paper's, it
assumes neither a symmetric distribution nor a zero mean. Matrices that share their input (q, k and
v; gate and up) share a threshold, because the engine reads their input once.

How much of each op is ignored: ``uniform`` takes the same share everywhere; ``greedy`` finds, layer
by layer, which op can ignore a little more at the least cost for the output of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.plan.op import LOGITS, Linear
from edgesparse.sparsity.apply import is_small
from edgesparse.sparsity.histogram import Histogram
from edgesparse.sparsity.observed import Hook, Observed
from edgesparse.sparsity.passes import Window
from edgesparse.sparsity.thresholds import Rule

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["greedy_shares", "input_histograms", "layer_linears", "layer_ranges"]

Float32 = npt.NDArray[np.float32]
Shares = dict[str, float]

STEP = 0.05
"""Share of the smallest op of a layer that one greedy step adds; larger ops add less."""
MOST = 0.95
"""Share beyond which no op goes: the tails carry the model."""
_TAIL = 4
"""The error is taken over the last quarter of a window."""


def layer_ranges(model: Model) -> list[tuple[int, int]]:
    """Return [begin, end) of every layer's ops in the plan."""
    ops = model.engine.plan.ops
    found = []
    for layer in range(model.engine.plan.n_layers):
        inside = [i for i, op in enumerate(ops) if op.name.startswith(f"blk.{layer}.")]
        found.append((inside[0], inside[-1] + 1))
    return found


def layer_linears(model: Model, layer: int) -> list[Linear]:
    """Return a layer's linear ops."""
    begin, end = layer_ranges(model)[layer]
    return [op for op in model.engine.plan.ops[begin:end] if isinstance(op, Linear)]


def input_histograms(
    model: Model, windows: Sequence[Window], dense_tokens: int
) -> dict[str, Histogram]:
    """Count the magnitudes of the inputs of all linear ops but the head.

    Positions below `dense_tokens` are left out: nothing is ignored there.
    """
    linears = [op for op in model.engine.plan.ops if isinstance(op, Linear)]
    names = [op.name for op in linears if op.outputs[0].dst != LOGITS]
    found = {name: Histogram() for name in names}

    def counting(histogram: Histogram) -> Hook:
        return lambda step, rows: histogram.add(rows[step.positions >= dense_tokens])

    observed = Observed(model.engine.executor, {name: counting(found[name]) for name in names})
    for window in windows:
        observed.run(window.step(model.engine, model.engine.new_cache(len(window.tokens))))
    return found


def op_sizes(model: Model, linears: Sequence[Linear]) -> dict[str, int]:
    """Count the weights of each op."""
    weights = model.parameters.weights
    return {
        op.name: sum(weights[out.weight].n_rows * weights[out.weight].k for out in op.outputs)
        for op in linears
    }


def greedy_shares(
    model: Model,
    windows: Sequence[Window],
    histograms: dict[str, Histogram],
    targets: Sequence[float],
    dense_tokens: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Shares]:
    """Distribute each target over the ops of every layer.

    All shares begin at 0. Every step tries each op of the layer with a share that removes the same
    number of weights, keeps the one whose layer output moves least, and goes on until the share of
    the layer's weights reaches the largest target.

    Parameters
    ----------
    model : Model
        Loaded with fused=False.
    windows : sequence of Window
        Text; each step runs all of it.
    histograms : dict of str to Histogram
        Of every op's input.
    targets : sequence of float
        Wanted shares of all weights, each in [0, 1).
    dense_tokens : int
        Positions that stay dense.
    progress : callable, optional
        progress(layer, n_layers) after each layer.

    Returns
    -------
    list of dict of str to float
        For every target, the share of each op.
    """
    found: list[Shares] = [{} for _ in targets]
    ranges = layer_ranges(model)
    embed = ranges[0][0]
    engine = model.engine
    caches = [engine.new_cache(len(window.tokens)) for window in windows]
    steps = [window.step(engine, cache) for window, cache in zip(windows, caches, strict=True)]
    inputs: list[Float32] = []
    for step in steps:
        engine.executor.run(step, 0, embed)
        inputs.append(engine.executor.buffer("x", len(step.tokens)).copy())
    for layer, (begin, end) in enumerate(ranges):
        block = _Block(model, steps, inputs, begin, end, histograms, dense_tokens)
        for shares, wanted in zip(found, _allocate(block, targets), strict=True):
            shares.update(wanted)
        inputs = block.outputs
        if progress is not None:
            progress(layer + 1, len(ranges))
    return found


class _Block:
    """One layer with dense inputs and outputs, to try shares on."""

    def __init__(
        self,
        model: Model,
        steps: Sequence[Step],
        inputs: Sequence[Float32],
        begin: int,
        end: int,
        histograms: dict[str, Histogram],
        dense_tokens: int,
    ) -> None:
        self._executor = model.engine.executor
        self._steps, self._inputs = steps, inputs
        self._begin, self._end = begin, end
        self._histograms, self._dense_tokens = histograms, dense_tokens
        linears = [op for op in model.engine.plan.ops[begin:end] if isinstance(op, Linear)]
        self.sizes = op_sizes(model, linears)
        self.outputs = self._run(Observed(self._executor))

    def error(self, shares: Shares) -> float:
        """Return how far the layer's output moves: squared, over the tails of the windows."""
        before: dict[str, Hook] = {}
        for name, share in shares.items():
            if share > 0:
                rule = Rule(self._histograms[name].quantile(share), None, on_gate=False)
                before[name] = self._zeroing(rule)
        total = 0.0
        outputs = self._run(Observed(self._executor, before))
        for got, expected in zip(outputs, self.outputs, strict=True):
            tail = slice(len(got) - len(got) // _TAIL, None)
            total += float(np.square(got[tail] - expected[tail], dtype=np.float64).sum())
        return total

    def _zeroing(self, rule: Rule) -> Hook:
        def hook(step: Step, rows: Float32) -> None:
            late = (step.positions >= self._dense_tokens)[:, None]
            rows[is_small(rule, rows) & late] = 0

        return hook

    def _run(self, executor: Observed) -> list[Float32]:
        outputs = []
        for step, x in zip(self._steps, self._inputs, strict=True):
            buffer = executor.buffer("x", len(step.tokens))
            buffer[:] = x
            executor.run(step, self._begin, self._end)
            outputs.append(buffer.copy())
        return outputs


def _allocate(block: _Block, targets: Sequence[float]) -> list[Shares]:
    sizes = block.sizes
    total, smallest = sum(sizes.values()), min(sizes.values())
    shares = dict.fromkeys(sizes, 0.0)
    found: list[Shares | None] = [None] * len(targets)
    while True:
        reached = sum(shares[name] * sizes[name] for name in sizes) / total
        for i, target in enumerate(targets):
            if found[i] is None and reached >= target - 1e-9:
                found[i] = _scaled(shares, target / reached if reached else 0.0)
        done = [each for each in found if each is not None]
        if len(done) == len(targets):
            return done
        candidates = []
        for name, size in sizes.items():
            share = shares[name] + STEP * smallest / size
            if share <= MOST:
                changed = {**shares, name: share}
                candidates.append((block.error(changed), name, changed))
        shares = min(candidates)[2]


def _scaled(shares: Shares, factor: float) -> Shares:
    """Take back what the last step went beyond the target."""
    return {name: share * factor for name, share in shares.items()}
