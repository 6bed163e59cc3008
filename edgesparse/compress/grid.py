"""Grids of integers for groups of weights, and rounding to them: to the nearest, and GPTQ.

``value = step * (code - zero)`` with codes of b bits, whole zero points and steps that are halfs,
as the bit-slice formats store them (`edgesparse.formats.bitslice`). A single bit stands for
-step / 2 and +step / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse.compress.sparsegpt import DAMPING, inverse_factor

__all__ = ["Grid", "Rounded", "fit_grid", "round_gptq", "round_nearest"]

Float32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

_SHRINKS = np.linspace(1.0, 0.4, 25, dtype=np.float32)
"""Ranges that are tried, as shares of the group's own."""
_GPTQ_BLOCK = 128


@dataclass(frozen=True, eq=False)
class Grid:
    """Steps and zero points of one group of every row.

    Attributes
    ----------
    bits : int
    step, zero : float32 ndarray, shape (n_rows, 1)
    """

    bits: int
    step: Float32
    zero: Float32

    def codes(self, values: Float32) -> Float32:
        """Return the nearest codes of values (n_rows, n), as whole float32 numbers."""
        top = np.float32((1 << self.bits) - 1)
        safe = np.where(self.step == 0, np.float32(1), self.step)
        # A bit is 1 above the middle between its two values.
        found = np.rint(values / safe + self.zero)
        return np.asarray(np.clip(found, np.float32(0), top), np.float32)

    def values(self, codes: Float32) -> Float32:
        """Return what codes (n_rows, n) stand for."""
        return np.asarray(self.step * (codes - self.zero), np.float32)


@dataclass(frozen=True, eq=False)
class Rounded:
    """A matrix on its grids.

    Attributes
    ----------
    codes : uint8 ndarray, shape (n_rows, k)
    steps, zeros : float32 ndarray, shape (n_rows, n_groups)
    group : int
        Columns of a grid.
    """

    codes: U8
    steps: Float32
    zeros: Float32
    group: int

    @property
    def values(self) -> Float32:
        """What the codes stand for, (n_rows, k) float32."""
        at = np.arange(self.codes.shape[1]) // self.group
        return np.asarray(self.steps[:, at] * (self.codes - self.zeros[:, at]), np.float32)


def fit_grid(values: Float32, bits: int, power: Float32 | None = None) -> Grid:
    """Choose step and zero point of a group: least squared error over shrunken ranges.

    Parameters
    ----------
    values : float32 ndarray, shape (n_rows, n)
    bits : int
        1 to 4.
    power : float32 ndarray, shape (n,), optional
        What the squared error of each column counts: the power of its input. Equal by default.
    """
    counts = np.ones(values.shape[1], np.float32) if power is None else power
    if bits == 1:
        total = np.float32(counts.sum()) or np.float32(1)
        # Its half is what is stored.
        step = 2 * _half((np.abs(values) @ counts)[:, None] / total)
        return Grid(1, step, np.full_like(step, 0.5))
    top = np.float32((1 << bits) - 1)
    low = np.minimum(values.min(axis=1, keepdims=True), np.float32(0))
    high = np.maximum(values.max(axis=1, keepdims=True), np.float32(0))
    best = Grid(bits, np.zeros_like(low), np.zeros_like(low))
    least = np.full(low.shape, np.inf, np.float32)
    for shrink in _SHRINKS:
        step = _half((high - low) * shrink / top)
        safe = np.where(step == 0, np.float32(1), step)
        zero = np.clip(np.rint(-low * shrink / safe), np.float32(0), top)
        grid = Grid(bits, step, zero)
        error = (np.square(grid.values(grid.codes(values)) - values) @ counts)[:, None]
        better = error < least
        least = np.where(better, error, least)
        best = Grid(bits, np.where(better, step, best.step), np.where(better, zero, best.zero))
    return best


def round_nearest(weight: Float32, bits: int, group: int) -> Rounded:
    """Round a matrix (n_rows, k) to the nearest, `group` columns to a grid."""
    made = _Columns(weight.shape, bits, group)
    for begin in range(0, weight.shape[1], group):
        columns = weight[:, begin : begin + group]
        grid = made.open(begin, columns)
        made.put(begin, grid.codes(columns))
    return made.result()


def round_gptq(
    weight: Float32,
    hessian: npt.NDArray[np.floating],
    bits: int,
    group: int,
    *,
    act_order: bool = True,
    damping: float = DAMPING,
) -> Rounded:
    """Round a matrix column by column, each error spread over the columns to come.

    GPTQ (Frantar et al., arXiv 2210.17323): the error of column j, divided by U[j, j], times row j
    of U is what the columns behind it make good, with H⁻¹ = Uᵀ U.

    Parameters
    ----------
    weight : float32 ndarray, shape (n_rows, k)
    hessian : floating ndarray, shape (k, k)
        Xᵀ X of the inputs. Inputs that were always 0 change nothing, and their weights are rounded
        to the nearest.
    bits, group : int
    act_order : bool
        Columns with large inputs first, while all others can still make up for them. Grids are
        then chosen for the weights as they came, so that groups stay neighbouring columns and a
        file needs no order. Otherwise columns go from left to right, and grids are chosen for the
        weights as they are when a group begins. Either way by the power of the inputs.
    damping : float
        Share of H's mean diagonal that is added to it.
    """
    n_rows, k = weight.shape
    damped = hessian.astype(np.float64)
    diagonal = np.diagonal(damped).copy()
    damped.flat[:: k + 1] = np.where(diagonal > 0, diagonal, 1.0)
    order = np.argsort(-diagonal, kind="stable") if act_order else np.arange(k)
    factor = inverse_factor(damped[np.ix_(order, order)], damping)[0].astype(np.float32)
    power = np.maximum(diagonal / (diagonal.max() or 1.0), 0).astype(np.float32)
    made = _Columns(weight.shape, bits, group, power)
    if act_order:
        for j in range(0, k, group):
            made.open(j, weight[:, j : j + group])
    work = np.ascontiguousarray(weight.T[order])  # a column is a row, so that it is in one piece
    for first in range(0, k, _GPTQ_BLOCK):
        end = min(first + _GPTQ_BLOCK, k)
        errors = np.zeros((end - first, n_rows), np.float32)
        for j in range(first, end):
            if not act_order and j % group == 0:
                # Errors of this block have not reached the columns behind it yet.
                ahead = work[j : j + group].copy()
                if j + group > end:
                    ahead[end - j :] -= factor[first:end, end : j + group].T @ errors
                made.open(j, np.ascontiguousarray(ahead.T))
            column, at = work[j, :, None], int(order[j])
            grid = made.grid(at)
            codes = grid.codes(column)
            made.put(at, codes)
            errors[j - first] = (column - grid.values(codes))[:, 0] / factor[j, j]
            work[j + 1 : end] -= factor[j, j + 1 : end, None] * errors[j - first]
        work[end:] -= factor[first:end, end:].T @ errors
    return made.result()


def _half(numbers: Float32) -> Float32:
    """Round to half precision: what is too small becomes 0, what is too large the largest."""
    limited = np.minimum(numbers, np.float32(65504))
    return limited.astype(np.float16).astype(np.float32)


class _Columns:
    """Collects codes and grids as they are made."""

    def __init__(
        self, shape: tuple[int, ...], bits: int, group: int, power: Float32 | None = None
    ) -> None:
        self._bits, self._group, self._power = bits, group, power
        n_groups = -(-shape[1] // group)
        self._codes = np.zeros(shape, np.uint8)
        self._steps, self._zeros = np.zeros((2, shape[0], n_groups), np.float32)

    def open(self, j: int, values: Float32) -> Grid:
        """Choose the grid of the group that begins at column j."""
        power = None if self._power is None else self._power[j : j + values.shape[1]]
        grid = fit_grid(values, self._bits, power)
        self._steps[:, j // self._group] = grid.step[:, 0]
        self._zeros[:, j // self._group] = grid.zero[:, 0]
        return grid

    def grid(self, j: int) -> Grid:
        """Return the grid that column j belongs to."""
        at = slice(j // self._group, j // self._group + 1)
        return Grid(self._bits, self._steps[:, at], self._zeros[:, at])

    def put(self, j: int, codes: Float32) -> None:
        """Keep the codes of columns from j on."""
        self._codes[:, j : j + codes.shape[1]] = codes.astype(np.uint8)

    def result(self) -> Rounded:
        """Return all of it."""
        return Rounded(self._codes, self._steps, self._zeros, self._group)
