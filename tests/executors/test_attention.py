"""Attention over several chunks of the cache: every executor, split and order; and its meaning."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from edgesparse import _native
from edgesparse.benchmark.micro import random_weights
from edgesparse.executors.base import Executor, KVCache, Parameters, Step
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats.weight import Format
from edgesparse.ops.rope_kv import cache_rows
from edgesparse.plan.cache_type import CHUNK, CacheType
from edgesparse.plan.op import Attention
from edgesparse.plan.plan import Plan

CAPACITY = 2 * CHUNK + 90
MAX_TOKENS = 40
N_LAYERS = 2
LAYER = 1
Float32 = npt.NDArray[np.float32]


def plan_of(n_heads: int, n_kv_heads: int, head_dim: int, window: int, kind: CacheType) -> Plan:
    op = Attention("attn", LAYER, "q", "o", n_heads, n_kv_heads, head_dim, head_dim**-0.5, window)
    return Plan(
        architecture="test",
        ops=(op,),
        buffers=(("q", n_heads * head_dim), ("o", n_heads * head_dim)),
        n_layers=N_LAYERS,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        n_vocab=1,
        n_ctx=CAPACITY,
        max_tokens=MAX_TOKENS,
        cache_type_k=kind,
        cache_type_v=kind,
    )


def filled(plan: Plan, rng: np.random.Generator) -> KVCache:
    cache = KVCache(plan, CAPACITY)
    for rows in (cache.keys, cache.values):
        x = rng.normal(size=(CAPACITY, plan.n_kv_heads, plan.head_dim)).astype(np.float32)
        rows.write(LAYER, np.arange(CAPACITY, dtype=np.int32), cache_rows(x, rows.kind))
    return cache


def attend(executor: Executor, cache: KVCache, q: Float32, first: int) -> Float32:
    n = len(q)
    executor.buffer("q", n)[:] = q.reshape(n, -1)
    step = Step(
        tokens=np.zeros(n, np.int32),
        positions=np.arange(first, first + n, dtype=np.int32),
        sequences=np.zeros(n, np.int32),
        outputs=np.zeros(0, np.int32),
        caches=[cache],
        logits=np.empty((0, 1), np.float32),
    )
    executor.run(step)
    return executor.buffer("o", n).reshape(q.shape).copy()


def softmax(plan: Plan, cache: KVCache, q: Float32, position: int, window: int) -> Float32:
    """One token in double precision."""
    first = max(0, position + 1 - window) if window else 0
    k, v = (
        rows.kind.widen(rows.read(LAYER, first, position + 1), plan.head_dim).astype(np.float64)
        for rows in (cache.keys, cache.values)
    )
    group = len(q) // plan.n_kv_heads
    out = []
    for h, x in enumerate(q):
        s = k[h // group] @ x * plan.head_dim**-0.5
        e = np.exp(s - s.max())
        out.append(e @ v[h // group] / e.sum())
    return np.array(out, np.float32)


STEPS = ((0, 1), (CHUNK - 1, 1), (CHUNK, 1), (CAPACITY - 1, 1), (2 * CHUNK - 20, MAX_TOKENS))
CASES = list(
    itertools.product(
        ((6, 2, 64), (4, 4, 40), (5, 1, 128)), (0, 1, CHUNK, CHUNK + 50), tuple(CacheType)
    )
)


@pytest.mark.parametrize(("heads", "window", "kind"), CASES)
def test_same_bits_over_chunks(heads: tuple[int, int, int], window: int, kind: CacheType) -> None:
    plan = plan_of(*heads, window, kind)
    parameters = Parameters({"unused": random_weights(Format.F32, 1, 1, 1)[0]}, {}, {})
    rng = np.random.default_rng(heads[0] + window)
    cache = filled(plan, rng)
    executors: list[Executor] = [PortableExecutor(plan, parameters, threads=2)]
    if _native.why_not() is None:
        executors += [
            NativeExecutor(plan, parameters, threads=threads, isa=isa)
            for isa in isa_names()
            for threads in (1, 2, 7)
        ]
    reference = ReferenceExecutor(plan, parameters)
    n_compared = 0
    for first, n in STEPS:
        q = (rng.normal(size=(n, heads[0], heads[2])) * 3).astype(np.float32)
        wanted = attend(reference, cache, q, first)
        for executor in executors:
            got = attend(executor, cache, q, first)
            np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))
            n_compared += 1
        for t in {0, n - 1}:
            truth = softmax(plan, cache, q[t], first + t, window)
            np.testing.assert_allclose(wanted[t], truth, atol=2e-5)
    for executor in executors:
        executor.close()
    assert n_compared == len(STEPS) * len(executors)


def test_layout_of_the_cache() -> None:
    """Chunk after chunk, each layer by layer, head by head; the last chunk is as short as it is."""
    plan = plan_of(4, 2, 4, 0, CacheType.F16)
    cache = KVCache(plan, CAPACITY)
    rows = cache.keys
    for chunk, n in enumerate((CHUNK, CHUNK, CAPACITY - 2 * CHUNK)):
        view = rows.chunks(LAYER)[chunk]
        assert view.shape == (2, n, 4)
        view[1, n - 1, 3] = chunk + 1
    where = np.flatnonzero(rows.data.view(np.float16))
    per_chunk = N_LAYERS * 2 * CHUNK * 4
    last = N_LAYERS * 2 * (CAPACITY - 2 * CHUNK) * 4
    assert where.tolist() == [per_chunk - 1, 2 * per_chunk - 1, 2 * per_chunk + last - 1]
    x = np.arange(3, dtype=np.float16)[None, :, None] + np.zeros((2, 1, 4), np.float16)
    rows.write(0, np.array([CHUNK - 1, CHUNK, CAPACITY - 1], np.int32), x)
    assert rows.read(0, CHUNK - 1, CHUNK + 1)[1, :, 2].tolist() == [0, 1]
    assert rows.read(0, CAPACITY - 1, CAPACITY)[0, 0, 0] == 2


@pytest.mark.skipif(_native.why_not() is not None, reason="no native engine")
def test_chunks_are_as_long_as_the_native_ones() -> None:
    assert _native.lib().ES_CACHE_CHUNK == CHUNK
