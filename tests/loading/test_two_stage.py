"""The two-stage head: equal coarse copies and candidates in all executors, and clean semantics."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from bench.make_model import make_model
from bench.model_shapes import Shape
from edgesparse.executors import make_executor
from edgesparse.executors.base import KVCache, Step
from edgesparse.executors.native import isa_names
from edgesparse.formats.blocks import pack_blocks, requantize
from edgesparse.formats.coarse import make_coarse, rotate
from edgesparse.formats.weight import Format, Weight
from edgesparse.loading import head_name
from edgesparse.model import Model
from edgesparse.ops.two_stage import N_TILES, propose
from tests.executors.running import load_tiny
from tests.models import tiny


def q8_weight(n_rows: int, k: int, seed: int) -> Weight:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n_rows, k)).astype(np.float32)
    values[:, :: max(1, k // 3)] *= 20
    values[n_rows // 2] = 0
    codes, d = requantize(values, Format.Q8)
    data = pack_blocks(codes, d, None, Format.Q8)
    return Weight("head", Format.Q8, n_rows, k, data, np.empty(0, np.float32))


def test_a_rotation_keeps_angles() -> None:
    rng = np.random.default_rng(1)
    n_cases = 0
    for k in (1, 2, 3, 32, 96, 160, 210, 576, 768, 11 * 13):
        a, b = rng.standard_normal((2, 5, k)).astype(np.float32)
        ra, rb = rotate(a).astype(np.float64), rotate(b).astype(np.float64)
        factor = k & -k
        np.testing.assert_allclose((ra * rb).sum(1), factor * (a * b).sum(1), atol=1e-3 * k)
        n_cases += 1
    assert n_cases == 10


def test_the_coarse_copy_is_the_same_in_c() -> None:
    n_cases = 0
    for n_rows, k in ((8, 32), (20, 96), (1, 1), (33, 576), (2050, 160)):
        weight = q8_weight(n_rows, k, k)
        a = make_coarse(weight, native=True, threads=2)
        b = make_coarse(weight, native=False, threads=1)
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_array_equal(a.scales.view(np.uint32), b.scales.view(np.uint32))
        n_cases += 1
    assert n_cases == 5


def logits_of(model: Model, name: str, n_tiles: int, threads: int, isa: str | None) -> np.ndarray:
    plan = model.engine.plan
    executor = make_executor(name, plan, model.parameters, threads=threads, isa=isa)
    try:
        tokens = np.array(tiny.PROMPT, np.int32)
        n = len(tokens)
        logits = np.full((1, plan.n_vocab), 7, np.float32)
        executor.run(
            Step(
                tokens=tokens,
                positions=np.arange(n, dtype=np.int32),
                sequences=np.zeros(n, np.int32),
                outputs=np.array([n - 1], np.int32),
                caches=[KVCache(plan, 64)],
                logits=logits,
                n_tiles=n_tiles,
            )
        )
        return logits[0].copy()
    finally:
        executor.close()


@pytest.mark.parametrize("file", ["bitnet-tq1_0.gguf", "llama-blocks.gguf", "llama-floats.gguf"])
def test_executors_agree(file: str) -> None:
    n_cases = 0
    with load_tiny(file, head="two-stage") as model:
        full = logits_of(model, "reference", 0, 1, None)
        assert np.isfinite(full).all()
        for n_tiles in (1, 5, 10_000):
            truth = logits_of(model, "reference", n_tiles, 1, None)
            kept = np.isfinite(truth)
            rows = min(8 * n_tiles, math.ceil(len(full) / 8) * 8)
            assert rows - 8 < kept.sum() <= rows
            np.testing.assert_array_equal(truth[kept], full[kept])
            for name, threads, isa in (
                ("portable", 1, None),
                ("portable", 2, None),
                *(("native", t, isa) for t in (1, 2) for isa in isa_names()),
            ):
                found = logits_of(model, name, n_tiles, threads, isa)
                np.testing.assert_array_equal(found, truth, f"{name} {threads} {isa}")
                n_cases += 1
    assert n_cases == 3 * (2 + 2 * len(isa_names()))


def test_every_number_of_tiles_is_the_same_in_c(tmp_path: Path) -> None:
    """A vocabulary of 250 tiles: selecting partitions several times, and borders fall anywhere."""
    path, n_cases = tmp_path / "m.gguf", 0
    make_model(path, Shape("this test", 256, 256, 1, 4, 2, 64, 2000, 64, 10_000.0), "tq2_0")
    with edgesparse.load(path, head="two-stage", threads=1) as model:
        plan = model.engine.plan
        executors = [
            make_executor(name, plan, model.parameters, threads=threads)
            for name, threads in (("reference", 1), ("native", 1), ("native", 3))
        ]
        for n_tiles in (*range(1, 40), *range(40, 252, 5), 249, 250):
            found = []
            for executor in executors:
                step = Step(
                    tokens=np.array([n_tiles], np.int32),
                    positions=np.zeros(1, np.int32),
                    sequences=np.zeros(1, np.int32),
                    outputs=np.zeros(1, np.int32),
                    caches=[KVCache(plan, 8)],
                    logits=np.empty((1, plan.n_vocab), np.float32),
                    n_tiles=n_tiles,
                )
                executor.run(step)
                found.append(step.logits[0])
            assert np.isfinite(found[0]).sum() == 8 * n_tiles
            np.testing.assert_array_equal(found[1], found[0], f"{n_tiles} tiles")
            np.testing.assert_array_equal(found[2], found[0], f"{n_tiles} tiles, 3 threads")
            n_cases += 1
        for executor in executors:
            executor.close()
    assert n_cases == 84


def test_equal_estimates_take_the_first_tiles() -> None:
    weight = q8_weight(64, 32, 3)
    coarse = make_coarse(weight, native=False, threads=1)
    zero = np.zeros(32, np.float32)
    np.testing.assert_array_equal(propose(coarse, zero, 3), [0, 1, 2])


def test_only_choices_that_need_few_logits_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with load_tiny("bitnet-tq1_0.gguf", head="two-stage") as model:
        seen = []
        forward = model.engine.forward

        def watched(*args: object, **options: object) -> np.ndarray:
            seen.append(options.get("exact", True))
            return forward(*args, **options)

        monkeypatch.setattr(model.engine, "forward", watched)
        prompt = list(tiny.PROMPT)
        for options, exact in (
            ({"temperature": 0.0}, False),
            ({"top_k": 40}, False),
            ({"top_k": N_TILES}, False),
            ({"top_k": N_TILES + 1}, True),
            ({"top_k": 0}, True),
            ({"temperature": 0.0, "logprobs": 2}, True),
        ):
            seen.clear()
            model.generate(prompt, max_tokens=2, seed=1, **options)
            assert set(seen) == {exact}, options
        assert "two-bit" in model.info.quality
        assert "two-bit" in model.info.head
        assert np.isfinite(model.logits(prompt)).all()
        assert model.parameters.coarse is not None
        weight = model.parameters.weights[head_name(model.engine.plan)]
        assert model.info.weight_bytes > weight.n_bytes + model.parameters.coarse.n_bytes
