"""How sparse the activations of a model are on a text, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.executors.base import Step
from edgesparse.formats.weight import TILE
from edgesparse.ops.numerics import quantize_i8, quantize_i8_blocks
from edgesparse.plan.op import LOGITS, Experts, Linear, linears_of
from edgesparse.sparsity.histogram import Histogram
from edgesparse.sparsity.observed import Hook, Observed
from edgesparse.sparsity.passes import windows_of

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["InputStatistics", "LayerStatistics", "collect"]

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]
_LAYER = re.compile(r"^blk\.(\d+)\.(.+)$")


@dataclass(eq=False)
class InputStatistics:
    """The input of one linear op, behind its gate and norm.

    Attributes
    ----------
    magnitudes : Histogram
        Of |x|.
    n_zero : int
        Elements that are 0 after quantisation to int8: in blocks of 32 where the op's weights are
        bit slices, which are fed that way, else per token, the way ternary weights are fed.
    """

    magnitudes: Histogram = field(default_factory=Histogram)
    n_zero: int = 0

    @property
    def zero_share(self) -> float:
        """Share of elements that are 0 after quantisation."""
        return self.n_zero / max(1, self.magnitudes.n)


@dataclass(eq=False)
class LayerStatistics:
    """One layer.

    Attributes
    ----------
    inputs : dict of str to InputStatistics
        By the op's name within the layer: ``qkv``, ``attn_output``, ``gate_up``, ``down``; the
        last two are those of the experts where a layer has some.
    n_gates, n_dead : int
        Gates seen, and those that are not above 0.
    n_tiles, n_live_tiles : int
        Tiles of 8 gates, and those with one above 0.
    """

    inputs: dict[str, InputStatistics] = field(default_factory=dict)
    n_gates: int = 0
    n_dead: int = 0
    n_tiles: int = 0
    n_live_tiles: int = 0

    @property
    def dead_share(self) -> float:
        """Share of gates that are not above 0."""
        return self.n_dead / max(1, self.n_gates)

    @property
    def live_tile_share(self) -> float:
        """Share of tiles of 8 gates that cannot be left out as a whole."""
        return self.n_live_tiles / max(1, self.n_tiles)


def collect(
    model: Model, ids: Sequence[int], *, max_tokens: int | None = None
) -> list[LayerStatistics]:
    """Run a text through a model and count.

    Parameters
    ----------
    model : Model
        Loaded with fused=False.
    ids : sequence of int
    max_tokens : int, optional
        Use only so many.

    Raises
    ------
    UsageError
        The text is shorter than 16 tokens, or the model's plan is fused.
    """
    windows = windows_of(model, ids, max_tokens=max_tokens, least=16)
    layers = [LayerStatistics() for _ in range(model.engine.plan.n_layers)]
    before: dict[str, Hook] = {}
    after: dict[str, Hook] = {}
    for op in model.engine.plan.ops:
        match = _LAYER.match(op.name)
        if match is None or not isinstance(op, (Linear, Experts)) or op.outputs[0].dst == LOGITS:
            continue
        layer, name = layers[int(match[1])], match[2].removeprefix("experts_")
        layer.inputs[name] = InputStatistics()
        weights = [model.parameters.weights[out.weight] for out in linears_of(op)[0].outputs]
        quantized = _in_blocks if any(w.format.in_blocks_of_int8 for w in weights) else _per_token
        before[op.name] = _counting(layer.inputs[name], quantized)
        if name == "gate_up":
            after[op.name] = _judging(layer)
    observed = Observed(model.engine.executor, before, after)
    for window in windows:
        observed.run(window.step(model.engine, model.engine.new_cache(len(window.tokens))))
    return layers


def _counting(into: InputStatistics, quantized: Callable[[Float32], Int8]) -> Hook:
    def hook(step: Step, rows: Float32) -> None:
        into.magnitudes.add(rows)
        into.n_zero += int((quantized(rows) == 0).sum())

    return hook


def _per_token(rows: Float32) -> Int8:
    return quantize_i8(rows)[0]


def _in_blocks(rows: Float32) -> Int8:
    return quantize_i8_blocks(rows)[0].reshape(len(rows), -1)[:, : rows.shape[1]]


def _judging(layer: LayerStatistics) -> Hook:
    def hook(step: Step, rows: Float32) -> None:
        layer.n_gates += rows.size
        layer.n_dead += int((rows <= 0).sum())
        tiles = np.logical_or.reduceat(rows > 0, np.arange(0, rows.shape[1], TILE), axis=1)
        layer.n_tiles += tiles.size
        layer.n_live_tiles += int(tiles.sum())

    return hook
