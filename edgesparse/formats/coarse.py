"""The coarse copy of a head that proposes candidates: rows rotated, then rounded to two bits.

A Walsh-Hadamard rotation (as in QuIP#, Tseng et al. 2024) spreads the outliers that hidden states
have in a few dimensions over all of them, and makes rows close to normal: without it two bits miss
the best token of SmolLM2 several times as often (bench/LOG.md).
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.errors import MemoryBudgetError, ModelFormatError, UsageError
from edgesparse.formats.convert import repack_isa
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.memory import allocate, require_bytes
from edgesparse.formats.weight import Weight

__all__ = ["MAX_K", "Coarse", "coarse_bytes", "make_coarse", "rotate"]

Float32 = npt.NDArray[np.float32]

MAX_K = 1 << 20
_ROWS = 1024
_UNIT = np.float32(1 << 20)


@dataclass(frozen=True, eq=False)
class Coarse:
    """Two-bit rows of a matrix.

    Attributes
    ----------
    codes : (n_rows, ceil(k / 128) * 32) uint8
        In t2's order, but all four codes: 0 to 3 stand for -3, -1, 1 and 3 times the scale.
    scales : (n_rows,) float32
        Scales, up to a factor that all rows share.
    """

    codes: npt.NDArray[np.uint8]
    scales: Float32

    @property
    def n_bytes(self) -> int:
        """Bytes read by a pass over all rows."""
        return self.codes.nbytes + self.scales.nbytes


def coarse_bytes(n_rows: int, k: int) -> int:
    """Bytes of the coarse copy of an (n_rows, k) matrix."""
    return n_rows * (-(-k // 128) * 32 + 4)


def rotate(x: Float32) -> Float32:
    """Rotate the last axis, without normalising.

    Walsh-Hadamard over the powers of two in its length, then I - 2/p J over every odd prime factor
    p; one rounded float32 operation at a time, in the order of native/ops/linear_two_stage.c.
    """
    k = x.shape[-1]
    y = np.array(x, np.float32).reshape(-1, k)
    inner = 1
    while k % (2 * inner) == 0:
        pairs = y.reshape(len(y), -1, 2, inner)
        a, b = pairs[:, :, 0].copy(), pairs[:, :, 1].copy()
        pairs[:, :, 0], pairs[:, :, 1] = a + b, a - b
        inner *= 2
    p = 3
    while inner < k:
        while (k // inner) % p == 0:
            groups = y.reshape(len(y), -1, p, inner)
            total = groups[:, :, 0].copy()
            for j in range(1, p):
                total += groups[:, :, j]
            groups -= (total * (np.float32(2) / np.float32(p)))[:, :, None]
            inner *= p
        p += 2
    return y.reshape(x.shape)


def make_coarse(weight: Weight, *, native: bool, threads: int) -> Coarse:
    """Make the coarse copy of a loaded head.

    Raises
    ------
    MemoryBudgetError
        It does not fit.
    ModelFormatError
        ``value``: a rotated row is not finite.
    UsageError
        A row is longer than `MAX_K`, or rows of the head cannot be read one tile at a time.
    """
    fmt = weight.format
    if fmt.is_sliced or fmt.is_neuron_major or fmt.is_row:
        raise UsageError(
            f"{weight.name}: stored as {weight.format.name.lower()}, a head cannot be two-stage.",
            advice="Choose another --head or another --ternary.",
        )
    if weight.k > MAX_K:
        raise UsageError(f"{weight.name}: rows of {weight.k} are too long for a two-stage head.")
    n_bytes = -(-weight.k // 128) * 32
    require_bytes(coarse_bytes(weight.n_rows, weight.k), "the two-stage head")
    raw, scale_bytes = allocate([weight.n_rows * n_bytes, weight.n_rows * 4], "the two-stage head")
    coarse = Coarse(raw.reshape(weight.n_rows, n_bytes), scale_bytes.view(np.float32))
    work = _native_rows if native else _numpy_rows
    begins = range(0, weight.n_rows, _ROWS)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(functools.partial(work, weight, coarse), begins))
    coarse.codes.flags.writeable = False
    coarse.scales.flags.writeable = False
    return coarse


def _native_rows(weight: Weight, coarse: Coarse, begin: int) -> None:
    ffi, lib = _native.ffi(), _native.lib()
    source = ffi.new("es_weight *")
    source.format, source.n_rows, source.k = int(weight.format), weight.n_rows, weight.k
    data = ffi.from_buffer("uint8_t[]", weight.data)
    source.data, source.n_bytes = data, weight.data.nbytes
    scales = ffi.from_buffer("float[]", weight.scales) if len(weight.scales) else ffi.NULL
    source.scales = scales
    job = ffi.new("es_coarse_job *")
    codes = ffi.from_buffer("uint8_t[]", coarse.codes)
    into = ffi.from_buffer("float[]", coarse.scales)
    job.weight, job.codes, job.scales = source, codes, into
    job.row_begin, job.row_end = begin, min(begin + _ROWS, weight.n_rows)
    job.isa = repack_isa()
    status = int(lib.es_coarse(job))
    if status == lib.ES_E_MEMORY:
        raise MemoryBudgetError("no memory for the buffers of the two-stage head.")
    if status == lib.ES_E_VALUE:
        raise _not_finite(weight)
    if status != lib.ES_OK:
        raise ValueError(f"{weight.name}: the coarse copy failed ({status})")


def _numpy_rows(weight: Weight, coarse: Coarse, begin: int) -> None:
    rows = np.arange(begin, min(begin + _ROWS, weight.n_rows))
    x = rotate(dequantize(weight, rows))
    if not np.isfinite(x).all():
        raise _not_finite(weight)
    n, k = x.shape
    amax = np.abs(x).max(axis=1)
    live = amax >= np.float32(1e-20)
    factor = _UNIT / np.where(live, amax, np.float32(1))
    t = np.where(live[:, None], np.rint(x * factor[:, None]), 0).astype(np.int64)
    step = (np.abs(t).sum(axis=1) * 5 // (4 * k))[:, None]
    codes = (t >= -step).astype(np.int64) + (t >= 0) + (t >= step)
    levels = 2 * codes - 3
    ratio = ((t * levels).sum(axis=1) / (levels * levels).sum(axis=1)).astype(np.float32)
    coarse.scales[rows] = np.where(live, ratio * (amax * np.float32(2.0**-20)), np.float32(0))
    padded = np.zeros((n, coarse.codes.shape[1] * 4), np.uint8)
    padded[:, :k] = np.where(live[:, None], codes, 0)
    four = padded.reshape(n, -1, 4, 32)
    packed = four[:, :, 0] << 6 | four[:, :, 1] << 4 | four[:, :, 2] << 2 | four[:, :, 3]
    coarse.codes[rows] = packed.reshape(n, -1)


def _not_finite(weight: Weight) -> ModelFormatError:
    return ModelFormatError("value", weight.name, "a rotated row of the head is not finite")
