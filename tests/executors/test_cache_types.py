"""Keys and values as f16 or q8_0: the same bits everywhere, a small error, refusals, memory."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import isa_names
from edgesparse.ops.rope_kv import quantize_q8_0
from edgesparse.plan.cache_type import CACHE_TYPES, CacheType
from edgesparse.portable.numerics import store_q8_0
from tests.executors.running import bits, executor_of, load_tiny, run_in_chunks, step_of
from tests.models import tiny

PAIRS = list(itertools.product(CACHE_TYPES, repeat=2))
LOSSY = [pair for pair in PAIRS if pair != ("f16", "f16")]


@pytest.mark.parametrize("name", tiny.NAMES)
def test_op_by_op(name: str) -> None:
    n_compared = 0
    for k, v in LOSSY:
        with load_tiny(name, cache_type_k=k, cache_type_v=v) as model:
            for other, chunk in (("native", 1), ("native", 7), ("portable", 7)):
                with executor_of(model, other, threads=3) as executor:
                    report = lockstep(executor, model.engine.executor, tiny.PROMPT, chunk=chunk)
                assert report.difference is None, report.difference
                n_compared += 1
    assert n_compared == 9


@pytest.mark.parametrize(("k", "v"), PAIRS)
def test_chunks_threads_and_instruction_sets(k: str, v: str) -> None:
    prompt, n_compared = tiny.LONG_PROMPT, 0
    with load_tiny(tiny.NAMES[0], cache_type_k=k, cache_type_v=v) as model:
        with executor_of(model, "portable") as portable:
            expected = bits(run_in_chunks(portable, prompt, len(prompt)))
        for isa, threads, chunk in itertools.product(isa_names(), (1, 2, 5), (1, 7, len(prompt))):
            with executor_of(model, "native", isa=isa, threads=threads) as executor:
                found = run_in_chunks(executor, prompt, chunk)
            np.testing.assert_array_equal(bits(found), expected)
            n_compared += 1
    assert n_compared == 9 * len(isa_names())


def test_two_sequences_in_one_step() -> None:
    kinds = {"cache_type_k": "q8_0", "cache_type_v": "q8_0"}
    with load_tiny(tiny.NAMES[0], **kinds) as model, executor_of(model, "native") as executor:
        alone = run_in_chunks(executor, tiny.PROMPT, len(tiny.PROMPT))
        n = len(tiny.PROMPT)
        step = step_of(
            executor,
            np.repeat(tiny.PROMPT, 2).tolist(),
            positions=np.repeat(np.arange(n), 2).tolist(),
            sequences=[0, 1] * n,
            caches=[KVCache(executor.plan, n), KVCache(executor.plan, n + 5)],
        )
        executor.run(step)
    for sequence in (0, 1):
        np.testing.assert_array_equal(bits(step.logits[sequence::2]), bits(alone))


def test_q8_0_is_lossy_but_close() -> None:
    logits = {}
    for kind in CACHE_TYPES:
        with load_tiny(tiny.NAMES[0], cache_type_k=kind, cache_type_v=kind) as model:
            logits[kind] = model.logits(tiny.PROMPT)
    error = np.abs(logits["q8_0"] - logits["f16"]).max() / np.abs(logits["f16"]).max()
    assert 0 < error < 0.2


def test_blocks() -> None:
    """Ragged rows, zeros, the least and the largest numbers: numpy and numba store the same."""
    rng = np.random.default_rng(3)
    n_rows = 0
    for n in (1, 2, 31, 32, 33, 64, 80, 128):
        for scale in (0.0, 1e-38, 1e-31, 1e-6, 1.0, 1e4, 1e30):
            x = (rng.normal(size=n) * scale).astype(np.float32)
            with np.errstate(over="ignore"):
                blocks = quantize_q8_0(x)
            row = np.full(CacheType.Q8_0.row_bytes(n), 7, np.uint8)
            store_q8_0(row, x)
            np.testing.assert_array_equal(blocks.view(np.uint8), row)
            if scale in (1.0, 1e4):
                wide = CacheType.Q8_0.widen(blocks, n)
                assert np.abs(wide - x).max() <= np.abs(x).max() / 127 * 0.6
            n_rows += 1
    assert n_rows == 8 * 7


def test_memory() -> None:
    with load_tiny(tiny.NAMES[0], cache_type_k="q8_0") as model:
        plan = model.engine.plan
        cache = model.engine.new_cache(10)
        assert cache.raw.nbytes == plan.n_layers * plan.kv_bytes * 10
        assert cache.keys.data.nbytes < cache.values.data.nbytes


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"q9_9.*f16 or q8_0"):
        edgesparse.load(tiny.path(tiny.NAMES[0]), cache_type_k="q9_9")
    with load_tiny(tiny.NAMES[0]) as model, load_tiny(tiny.NAMES[0], cache_type_v="q8_0") as other:
        cache = other.engine.new_cache(8)
        with pytest.raises(UsageError, match="this plan needs f16 and f16"):
            model.engine.forward(cache, [1, 2], 0)
