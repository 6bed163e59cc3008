"""Rounded tables: the rule, the same bits on every instruction set, and how far off they are."""

from __future__ import annotations

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.formats.bitslice import pack_bitslice
from edgesparse.formats.weight import Weight
from edgesparse.ops.linear import product
from edgesparse.plan.op import Linear, Output
from tests.models import tiny
from tests.portable import truth
from tests.portable.running import plan_of, step_of

F32 = np.float32
NMSE = {1: 6e-4, 2: 1.1e-3, 3: 1.1e-3, 4: 1.1e-3}
"""Bounds on the error's power over the result's, normally distributed weights and inputs."""


def rounded(weight: Weight, x: np.ndarray) -> np.ndarray:
    """The rule of edgesparse/ops/README.md for one token and symmetric codes of 32 columns."""
    codes, steps = weight_parts(weight)
    bits = weight.format.planes
    q, d = truth.quantize_i8_blocks(x)
    y = np.zeros(weight.n_rows, F32)
    for b in range(len(d)):
        quads = q[b].reshape(8, 4)
        largest = int(np.abs(quads).sum(axis=1).max())
        factor = F32(127) / F32(largest) if largest else F32(0)
        step = d[b] * (F32(largest) / F32(127)) * F32(8 if bits == 1 else 4)
        own = codes[:, 32 * b : 32 * b + 32].reshape(-1, 8, 4)
        total = np.zeros(weight.n_rows, np.int64)
        for plane in range(bits):
            signs = 2 * (own >> plane & 1).astype(np.int64) - 1
            sums = (signs * quads).sum(axis=-1).astype(F32)
            mean = 128 + np.rint(sums * factor).astype(np.int64)
            while mean.shape[1] > 1:
                mean = (mean[:, ::2] + mean[:, 1::2] + 1) // 2
            total += mean[:, 0] << plane
        centred = total.astype(F32) - F32((2**bits - 1) * 128.75)
        xsum = d[b] * F32(q[b].sum())
        part = centred * step - (F32(0) if bits == 1 else F32(0.5) * xsum)
        y = y + steps[:, b] * part
    return y


def weight_parts(weight: Weight) -> tuple[np.ndarray, np.ndarray]:
    from edgesparse.formats.bitslice import unpack_bitslice

    codes, steps, _, _ = unpack_bitslice(weight)
    return codes, steps * F32(0.5 if weight.format.planes == 1 else 1)


def normal_weight(rng: np.random.Generator, bits: int, n_rows: int, k: int) -> Weight:
    """Normally distributed numbers, rounded to the codes of groups of 32."""
    values = rng.normal(size=(n_rows, k)).astype(F32).reshape(n_rows, -1, 32)
    middle = 0.5 if bits == 1 else 1 << (bits - 1)
    spread = np.abs(values).mean(axis=-1) if bits == 1 else np.abs(values).max(axis=-1) / middle
    steps = (spread * (2 if bits == 1 else 1)).astype(np.float16).astype(F32)
    codes = np.clip(np.rint(values / steps[..., None] + middle), 0, (1 << bits) - 1)
    return pack_bitslice(codes.reshape(n_rows, k).astype(np.uint8), bits, 32, steps)


def run(weight: Weight, x: np.ndarray, isa: str) -> np.ndarray:
    plan = plan_of(
        Linear("op", "x", (Output("w", "y"),)), buffers={"x": weight.k, "y": weight.n_rows}
    )
    executor = NativeExecutor(
        plan, Parameters({"w": weight}, {}, {}), threads=1, isa=isa, lossy=True
    )
    executor.buffer("x", len(x))[:] = x
    executor.run(step_of(plan, [0] * len(x)))
    y = executor.buffer("y", len(x)).copy()
    executor.close()
    return y


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_rule_and_error(bits: int) -> None:
    rng = np.random.default_rng(bits)
    weight = normal_weight(rng, bits, 256, 1024)
    x = rng.normal(size=(8, 1024)).astype(F32)
    x[0, 64:96] = 0
    expected = np.stack([rounded(weight, row) for row in x])
    for isa in isa_names():
        np.testing.assert_array_equal(run(weight, x, isa), expected, err_msg=isa)
    exact = product(weight, x).astype(np.float64)
    nmse = ((expected - exact) ** 2).sum() / (exact**2).sum()
    assert 0 < nmse < NMSE[bits]


def test_only_on_request_and_only_native() -> None:
    model = edgesparse.load(tiny.path("llama-blocks.gguf"), lut="lossy", head="exact")
    with model:  # no bit slices here: nothing to approximate, and nothing is claimed
        assert model.info.quality.startswith("exact")
    with pytest.raises(UsageError, match="rounded tables"):
        edgesparse.load(tiny.path("llama-blocks.gguf"), lut="lossy", executor="portable")
    with pytest.raises(UsageError, match="lut must be"):
        edgesparse.load(tiny.path("llama-blocks.gguf"), lut="rough")
