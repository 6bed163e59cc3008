"""The default model's logits do not depend on threads, chunks, prefix reuse or instruction set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.executors import make_executor
from edgesparse.executors.base import KVCache, Step
from edgesparse.executors.native import isa_names

ORACLE = Path(__file__).parents[2] / "models" / "smolbit-190m" / "oracle.json"
CASE = json.loads(ORACLE.read_text())["cases"][1]
IDS = np.asarray((CASE["prompt_ids"] + CASE["greedy_ids"]) * 2, np.int32)[:150]


def run(
    threads: int, chunk: int, *, isa: str | None = None, keep: int = 0, fused: bool = True
) -> np.ndarray:
    """Logits of all positions; with `keep`, positions from there on are computed twice."""
    with edgesparse.load(threads=threads, isa=isa, n_ctx=256, fused=fused) as model:
        engine = model.engine
        cache = engine.new_cache()
        if not keep:
            return engine.forward(cache, IDS, 0, outputs="all", chunk=chunk)
        first = engine.forward(cache, IDS[:keep], 0, outputs="all", chunk=chunk)
        # A turn that is thrown away leaves its rows behind; the next one must not see them.
        engine.forward(cache, IDS[::-1][: len(IDS) - keep], keep, outputs="none", chunk=chunk)
        second = engine.forward(cache, IDS[keep:], keep, outputs="all", chunk=chunk)
        return np.concatenate([first, second])


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return run(1, 512)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("chunk", [1, 7, 64, 512])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_threads_and_chunks(expected: np.ndarray, threads: int, chunk: int) -> None:
    assert_same(run(threads, chunk), expected)


@pytest.mark.parametrize("keep", [1, 40, 149])
def test_prefix_reuse(expected: np.ndarray, keep: int) -> None:
    assert_same(run(2, 64, keep=keep), expected)


def test_fusion(expected: np.ndarray) -> None:
    assert_same(run(2, 64, fused=False), expected)


def test_every_instruction_set(expected: np.ndarray) -> None:
    names = list(isa_names())
    assert names[0] == "scalar"
    for isa in names:
        assert_same(run(2, 64, isa=isa)[:60], expected[:60])


def test_two_sequences_in_one_step(expected: np.ndarray) -> None:
    """Interleaved tokens of two conversations give what each gives alone."""
    with edgesparse.load(threads=2, n_ctx=256) as model:
        plan = model.engine.plan
        other = IDS[::-1].copy()
        alone = model.engine.forward(model.engine.new_cache(), other, 0, outputs="all")
        n = 60
        tokens = np.stack([IDS[:n], other[:n]], axis=1).reshape(-1)
        positions = np.repeat(np.arange(n, dtype=np.int32), 2)
        sequences = np.tile(np.array([0, 1], np.int32), n)
        logits = np.empty((2 * n, plan.n_vocab), np.float32)
        caches = [KVCache(plan, 256), KVCache(plan, 100)]
        outputs = np.arange(2 * n, dtype=np.int32)
        step = Step(tokens, positions, sequences, outputs, caches, logits)
        model.engine.executor.run(step)
        assert_same(logits[0::2], expected[:n])
        assert_same(logits[1::2], alone[:n])


def test_lazily_used_outputs(expected: np.ndarray) -> None:
    """Asking for some logits only gives the same rows."""
    with edgesparse.load(threads=2, n_ctx=256) as model:
        executor = make_executor("native", model.engine.plan, model.parameters, threads=3)
        wanted = np.array([3, 59, 60, 149], np.int32)
        logits = np.empty((len(wanted), model.engine.n_vocab), np.float32)
        n = len(IDS)
        positions = np.arange(n, dtype=np.int32)
        cache = KVCache(model.engine.plan, n)
        step = Step(IDS, positions, np.zeros(n, np.int32), wanted, [cache], logits)
        executor.run(step)
        assert_same(logits, expected[wanted])
        executor.close()
