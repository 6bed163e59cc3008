"""Rounded tables: the rule, the same bits on every instruction set, and how far off they are."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.benchmark.lookup_error import lookup_error, normal_slices
from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.formats.weight import Weight
from edgesparse.plan.op import Linear, Output
from tests.models import tiny
from tests.portable import truth
from tests.portable.running import plan_of, step_of

F32 = np.float32
README = Path(edgesparse.__file__).parent / "ops" / "README.md"


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
def test_the_rule_on_every_instruction_set(bits: int) -> None:
    rng = np.random.default_rng(bits)
    weight = normal_slices(rng, bits, 256, 1024)
    x = rng.normal(size=(8, 1024)).astype(F32)
    x[0, 64:96] = 0
    expected = np.stack([rounded(weight, row) for row in x])
    for isa in isa_names():
        np.testing.assert_array_equal(run(weight, x, isa), expected, err_msg=isa)


def test_the_errors_are_those_that_the_readme_names() -> None:
    rows = re.findall(r"^\| ([1-4]) \| (\S+) \| (\S+) \|$", README.read_text("utf-8"), re.MULTILINE)
    assert [int(bits) for bits, _, _ in rows] == [1, 2, 3, 4]
    for bits, exact, lossy in rows:
        assert f"{lookup_error(int(bits), lossy=False):.1e}" == exact
        assert f"{lookup_error(int(bits), lossy=True):.1e}" == lossy


def test_only_on_request_and_only_native() -> None:
    model = edgesparse.load(tiny.path("llama-blocks.gguf"), lut="lossy", head="exact")
    with model:  # no bit slices here: nothing to approximate, and nothing is claimed
        assert model.info.quality.startswith("exact")
    with pytest.raises(UsageError, match="rounded tables"):
        edgesparse.load(tiny.path("llama-blocks.gguf"), lut="lossy", executor="portable")
    with pytest.raises(UsageError, match="lut must be"):
        edgesparse.load(tiny.path("llama-blocks.gguf"), lut="rough")
