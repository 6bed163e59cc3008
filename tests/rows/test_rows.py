"""Weights stored row by row: the bytes, the bits of the tiled formats, and what is not read."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgesparse.executors.base import Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats import Format, load_weights, unpack_blocks
from edgesparse.formats.weight import ROW_BY_ROW
from edgesparse.loading import live_row_names
from edgesparse.plan.op import Embed, Linear, Output
from tests.executors.running import bits_of_each, every_executor, step_of
from tests.formats.sources import ENGINES, Memory, T, random_bytes
from tests.formats.twins import check_picture, random_blocks
from tests.portable.running import plan_of

F32 = np.float32
ROWS = [fmt for fmt in Format if fmt.is_row]
SHAPES = ((1, 1), (8, 32), (13, 40), (70, 300), (200, 97))


def test_every_format_has_its_tiles() -> None:
    assert len(ROWS) == 4
    assert {ROW_BY_ROW[fmt.row_format] for fmt in ROWS} == set(ROWS)


@pytest.mark.parametrize("fmt", ROWS)
def test_bytes_follow_the_picture(fmt: Format) -> None:
    rng = np.random.default_rng(int(fmt))
    weights = [check_picture(rng, fmt, shape) for shape in SHAPES]
    assert all(w.data.nbytes % (64 * w.n_rows) == 0 for w in weights)
    assert len(weights) == len(SHAPES)


@pytest.mark.parametrize("fmt", ROWS)
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_same_bits_as_in_tiles(fmt: Format, threshold: float) -> None:
    """Every executor and instruction set, one token and several, from no live row to all."""
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for shape, n_tokens in itertools.product(SHAPES, (1, 2, 7)):
        rows, tiles = random_blocks(rng, fmt, shape)
        bias = rng.normal(size=shape[0]).astype(F32)
        live = Output("w", "y", bias="b", live="gate", live_threshold=threshold)
        op = Linear("op", "x", (live,))
        plan = plan_of(op, buffers={"x": shape[1], "y": shape[0], "gate": shape[0]}, max_tokens=8)
        made = [ReferenceExecutor(plan, Parameters({"w": tiles}, {"b": bias}, {}))]
        by_rows = Parameters({"w": rows}, {"b": bias}, {})
        made += every_executor(plan, by_rows)
        for share in (0.0, 0.1, 0.6, 1.0):
            x = rng.normal(size=(n_tokens, shape[1])).astype(F32)
            gate = np.where(rng.random((n_tokens, shape[0])) < share, 1, 0.1 if threshold else -1)
            buffers = {"x": x, "gate": gate, "y": np.nan}
            results = bits_of_each(made, n_tokens, buffers, sparse_from=0)
            assert all(np.array_equal(results[0], other) for other in results[1:])
            assert (results[0].view(F32) != 0).mean() == pytest.approx((gate == 1).mean())
            n_cases += len(results) - 1
        for executor in made:
            executor.close()
    assert n_cases == len(SHAPES) * 3 * 4 * (2 + 2 * len(isa_names()))


@pytest.mark.parametrize("fmt", ROWS)
def test_bytes_read_are_those_of_live_rows(fmt: Format) -> None:
    weight, _ = random_blocks(np.random.default_rng(int(fmt)), fmt, (100, 96))
    op = Linear("op", "x", (Output("w", "y", live="gate"),))
    plan = plan_of(op, buffers={"x": 96, "y": 100, "gate": 100})
    executor = NativeExecutor(plan, Parameters({"w": weight}, {}, {}), threads=2)
    row = weight.data.nbytes // 100
    for n_tokens, expected in ((1, 3 * row), (4, 4 * 3 * row), (5, 100 * row)):
        read = np.zeros(1, np.uint64)
        executor.buffer("x", n_tokens)[:] = 1
        executor.buffer("gate", n_tokens)[:] = 0
        executor.buffer("gate", n_tokens)[:, [0, 7, 99]] = 1
        executor.run(step_of(executor, [0] * n_tokens, outputs=[], op_bytes=read))
        assert read[0] == expected
    executor.close()


@pytest.mark.parametrize("kind", [T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_1, T.Q4_K], ids=lambda p: p.name)
def test_loading_keeps_codes_and_steps(kind: T) -> None:
    n_cases = 0
    for shape in ((1, 512), (301, 256), (4100, 256)):
        raw = random_bytes(kind, *shape, seed=shape[0])
        checkpoint = Memory().add("w", kind, shape, raw)
        tiles = load_weights(checkpoint, ["w"])["w"]
        stored = set()
        for native in ENGINES:
            found = load_weights(checkpoint, ["w"], native=native, threads=2, row_by_row={"w"})
            weight = found["w"]
            assert weight.format is ROW_BY_ROW[tiles.format]
            stored.add(weight.data.tobytes())
            for a, b in zip(unpack_blocks(weight), unpack_blocks(tiles), strict=True):
                np.testing.assert_array_equal(a, b)
            n_cases += 1
        assert len(stored) == 1
    assert n_cases == 3 * len(ENGINES)


def test_only_matrices_that_always_skip_lie_by_rows() -> None:
    gate, up = Output("gate", "a"), Output("up", "b", live="a")
    ops = (Embed("embed", "tied", "x"), Linear("layer", "x", (gate, up)))
    shared = Linear("other", "x", (Output("tied", "a"), Output("up", "b")))
    sizes = {"x": 4, "a": 4, "b": 4}
    assert live_row_names(plan_of(*ops, buffers=sizes)) == {"up"}
    assert live_row_names(plan_of(*ops, buffers=sizes), {"layer"}) == {"gate", "up"}
    assert live_row_names(plan_of(*ops, shared, buffers=sizes), {"other"}) == set()
