"""Weights stored by columns: the bytes, the bits of the row-major formats, and what is not read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgesparse.executors.base import KVCache, Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format, load_weights, unpack_blocks
from edgesparse.formats.blocks import has_minimum
from edgesparse.formats.weight import NEURON_MAJOR
from edgesparse.plan.op import Linear, Output
from tests.executors.running import bits, bits_of_each, every_executor, step_of
from tests.formats.sources import ENGINES, F, Memory, T, random_bytes
from tests.formats.twins import check_picture, random_blocks
from tests.portable.packing import random_weight
from tests.portable.running import plan_of

F32 = np.float32
COLUMNS = [fmt for fmt in Format if fmt.is_column and fmt.is_block]
SHAPES = ((1, 1), (64, 32), (65, 40), (130, 200), (600, 97), (1100, 160))
"""Less than a line, exactly one, several tiles with a narrower last one."""


def test_every_format_has_its_rows() -> None:
    assert len(COLUMNS) == 4
    assert {NEURON_MAJOR[fmt.row_format] for fmt in COLUMNS} == set(COLUMNS)


@pytest.mark.parametrize("fmt", COLUMNS)
def test_bytes_follow_the_picture(fmt: Format) -> None:
    rng = np.random.default_rng(int(fmt))
    weights = [check_picture(rng, fmt, shape) for shape in SHAPES]
    assert len(weights) == len(SHAPES)


@pytest.mark.parametrize("fmt", COLUMNS)
def test_same_bits_as_by_rows(fmt: Format) -> None:
    """Every executor and instruction set, one token and several, from no live input to all."""
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for shape, n_tokens in itertools.product(SHAPES, (1, 2, 7)):
        columns, rows = random_blocks(rng, fmt, shape)
        bias = rng.normal(size=shape[0]).astype(F32)
        op = Linear("op", "x", (Output("w", "y", add=True, bias="b"),))
        plan = plan_of(op, buffers={"x": shape[1], "y": shape[0]}, max_tokens=8)
        made = [ReferenceExecutor(plan, Parameters({"w": rows}, {"b": bias}, {}))]
        by_columns = Parameters({"w": columns}, {"b": bias}, {})
        made += every_executor(plan, by_columns)
        for share in (0.0, 0.1, 0.6, 1.0):
            x = rng.normal(size=(n_tokens, shape[1])).astype(F32)
            x[rng.random(x.shape) >= share] = 0
            residual = rng.normal(size=(n_tokens, shape[0])).astype(F32)
            results = bits_of_each(made, n_tokens, {"x": x, "y": residual})
            assert all(np.array_equal(results[0], other) for other in results[1:])
            n_cases += len(results) - 1
        for executor in made:
            executor.close()
    assert n_cases == len(SHAPES) * 3 * 4 * (2 + 2 * len(isa_names()))


@pytest.mark.parametrize("fmt", COLUMNS)
def test_bytes_read_are_those_of_live_columns(fmt: Format) -> None:
    rng = np.random.default_rng(int(fmt))
    weight, _ = random_blocks(rng, fmt, (300, 96))
    op = Linear("op", "x", (Output("w", "y"),))
    plan = plan_of(op, buffers={"x": 96, "y": 300})
    executor = NativeExecutor(plan, Parameters({"w": weight}, {}, {}), threads=2)
    x = np.zeros((1, 96), F32)
    x[0, [0, 5, 31, 64]] = 1  # the middle block is dead
    n_lines = -(-300 // fmt.line_rows)
    steps = (4 if has_minimum(fmt) else 2) * fmt.line_rows
    for n_tokens, expected in ((1, n_lines * (4 * 64 + 2 * steps)), (2, weight.data.nbytes)):
        read = np.zeros(1, np.uint64)
        executor.buffer("x", n_tokens)[:] = x
        executor.run(step_of(executor, [0] * n_tokens, outputs=[], op_bytes=read))
        assert read[0] == expected
    executor.close()


@pytest.mark.parametrize(
    ("kind", "row_format"),
    [(T.Q8_0, F.Q8), (T.Q4_0, F.Q4), (T.Q4_1, F.Q4M), (T.Q5_1, F.Q8M), (T.Q4_K, F.Q4M)],
    ids=lambda p: p.name,
)
def test_loading_keeps_codes_and_steps(kind: T, row_format: Format) -> None:
    n_cases = 0
    for shape in ((1, 512), (300, 256), (1100, 256)):
        raw = random_bytes(kind, *shape, seed=shape[0])
        checkpoint = Memory().add("w", kind, shape, raw)
        rows = unpack_blocks(load_weights(checkpoint, ["w"])["w"])
        stored = set()
        for native in ENGINES:
            found = load_weights(checkpoint, ["w"], native=native, threads=2, neuron_major={"w"})
            weight = found["w"]
            assert weight.format is NEURON_MAJOR[row_format]
            stored.add(weight.data.tobytes())
            for a, b in zip(unpack_blocks(weight), rows, strict=True):
                np.testing.assert_array_equal(a, b)
            n_cases += 1
        assert len(stored) == 1
    assert n_cases == 3 * len(ENGINES)


# ---- thresholds --------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [Format.Q8N, Format.Q4, Format.T2, Format.F16])
def test_small_inputs_count_as_zero_behind_the_first_positions(fmt: Format) -> None:
    """All executors alike, for scalars and factors; the same as zeros in the input itself."""
    rng = np.random.default_rng(int(fmt))
    weight, _ = random_weight(rng, fmt, 130, 64)
    factors = rng.uniform(0.2, 3, 64).astype(F32)
    x = rng.normal(size=(6, 64)).astype(F32)
    positions = [0, 1, 2, 3, 9, 4]
    n_cases = 0
    for name, threshold in ((None, 0.5), ("f", 0.7), (None, 1e9)):
        buffers = {"x": 64, "y": 130}
        op = Linear("op", "x", (Output("w", "y"),), threshold=threshold, factors=name)
        plan = plan_of(op, buffers=buffers, max_tokens=8)
        plain = plan_of(Linear("op", "x", (Output("w", "y"),)), buffers=buffers, max_tokens=8)
        parameters = Parameters({"w": weight}, {"f": factors}, {})
        small = np.abs(x) * (1 if name is None else factors) < F32(threshold)
        late = np.array(positions)[:, None] >= 3
        made = [
            ReferenceExecutor(plan, parameters),
            PortableExecutor(plan, parameters, threads=2),
            *(NativeExecutor(plan, parameters, threads=2, isa=isa) for isa in isa_names()),
        ]
        truth = ReferenceExecutor(plain, parameters)
        for sparse_from, zeros in ((3, small & late), (0, small), (99, small & False)):
            truth.buffer("x", 6)[:] = np.where(zeros, F32(0), x)
            truth.run(step_of(truth, [0] * 6, outputs=[]))
            for executor in made:
                for tokens in ([*range(6)], [4], [0]):
                    n = len(tokens)
                    executor.buffer("x", n)[:] = x[tokens]
                    step = step_of(
                        executor,
                        [0] * n,
                        positions=[positions[t] for t in tokens],
                        outputs=[],
                        caches=[KVCache(plan, 64)],
                        sparse_from=sparse_from,
                    )
                    executor.run(step)
                    got = executor.buffer("y", n)
                    assert np.array_equal(bits(got), bits(truth.buffer("y", 6)[tokens]))
                    n_cases += 1
        for executor in (*made, truth):
            executor.close()
    assert n_cases == 3 * 3 * 3 * (2 + len(isa_names()))
