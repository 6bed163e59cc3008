"""Pruned keys and values: the same bits in every executor and chunk, and what they cost."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache
from edgesparse.executors.lockstep import lockstep
from edgesparse.executors.native import isa_names
from edgesparse.plan.sparse_rows import GROUP, STEP_TOKENS, WINDOW, SparseRows
from edgesparse.portable.sparse_rows import prune_row, widen_sparse
from edgesparse.session import CachedSequence
from tests.executors.running import bits, executor_of, run_in_chunks, step_of
from tests.models import tiny
from tests.models.rewrite import rewrite

N_LONG = 330
"""Beyond a ring of 256, and two groups past a chunk."""

SHARES = (0.1, 0.5, 0.7)


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a tiny model with a context of more than one ring."""
    target = tmp_path_factory.mktemp("models") / "longer.gguf"
    return rewrite(tiny.path("llama-floats.gguf"), target, metadata={"llama.context_length": 1024})


def long_prompt(model: edgesparse.Model, n: int = N_LONG) -> list[int]:
    rng = np.random.default_rng(7)
    return rng.integers(0, model.engine.n_vocab, n).tolist()


def load_sparse(path: Path, sparsity: float = 0.5, **options: Any) -> edgesparse.Model:
    defaults = {"executor": "reference", "head": "exact", "kv_sparsity": sparsity}
    return edgesparse.load(path, **(defaults | options))


@pytest.mark.parametrize("name", tiny.NAMES)
def test_op_by_op(name: str) -> None:
    n_compared = 0
    with load_sparse(tiny.path(name)) as model:
        prompt = long_prompt(model, min(200, model.engine.n_ctx))
        for other, chunk in (("native", 97), ("portable", 61)):
            with executor_of(model, other, threads=3) as executor:
                report = lockstep(executor, model.engine.executor, prompt, chunk=chunk)
            assert report.difference is None, report.difference
            n_compared += 1
    assert n_compared == 2


@pytest.mark.parametrize("sparsity", SHARES)
def test_chunks_threads_and_instruction_sets(longer: Path, sparsity: float) -> None:
    n_compared = 0
    with load_sparse(longer, sparsity) as model:
        prompt = long_prompt(model)
        with executor_of(model, "portable") as portable:
            expected = bits(run_in_chunks(portable, prompt, 50))
        for isa, (threads, chunk) in itertools.product(
            isa_names(), ((1, 128), (2, 1), (3, 7), (5, 127))
        ):
            with executor_of(model, "native", isa=isa, threads=threads) as executor:
                found = run_in_chunks(executor, prompt, chunk)
            np.testing.assert_array_equal(bits(found), expected)
            n_compared += 1
    assert n_compared == 4 * len(isa_names())


def test_the_window_stays_whole_and_the_rest_does_not(longer: Path) -> None:
    with load_sparse(longer) as sparse, load_sparse(longer, 0) as dense:
        prompt = long_prompt(dense, 200)
        with executor_of(sparse, "native") as one, executor_of(dense, "native") as other:
            pruned, whole = run_in_chunks(one, prompt, 100), run_in_chunks(other, prompt, 100)
    first = WINDOW + GROUP - 1  # the first position that reads pruned rows
    np.testing.assert_array_equal(bits(pruned[:first]), bits(whole[:first]))
    assert (pruned[first:] != whole[first:]).any(axis=1).all()


def test_two_sequences_in_one_step(longer: Path) -> None:
    with load_sparse(longer) as model, executor_of(model, "native") as executor:
        prompt = long_prompt(model, 180)
        alone = run_in_chunks(executor, prompt, 90)
        caches = [KVCache(executor.plan, 200), KVCache(executor.plan, 180)]
        found = []
        for first in range(0, 180, 60):
            step = step_of(
                executor,
                np.repeat(prompt[first : first + 60], 2).tolist(),
                positions=np.repeat(np.arange(first, first + 60), 2).tolist(),
                sequences=[0, 1] * 60,
                caches=caches,
            )
            executor.run(step)
            found.append(step.logits)
    for sequence in (0, 1):
        logits = np.concatenate([each[sequence::2] for each in found])
        np.testing.assert_array_equal(bits(logits), bits(alone))


def test_rows() -> None:
    """Ragged heads, ties, zeros and what is not finite: numpy and numba store the same."""
    rng = np.random.default_rng(3)
    n_rows = 0
    for n, share in itertools.product((2, 3, 31, 32, 33, 64, 80, 128, 256), (0.5, 0.7, 0.34)):
        if int(n * share) == 0:
            continue
        rows = SparseRows(share, n)
        for kind in range(4):
            halfs = rng.standard_normal(n).astype(np.float16)
            if kind == 1:
                halfs = rng.integers(-2, 3, n).astype(np.float16)
            if kind == 2:
                halfs = rng.integers(0, 2**16, n).astype(np.uint16).view(np.float16)
            if kind == 3:
                halfs = np.full(n, -0.0, np.float16)
            pruned = rows.prune(halfs)
            found = np.full(rows.row_bytes(n), 7, np.uint8)
            prune_row(found, halfs.view(np.uint8), n, rows.n_kept)
            np.testing.assert_array_equal(pruned.view(np.uint8).reshape(-1), found)
            assert np.unpackbits(pruned["bitmap"]).sum() == rows.n_kept == n - int(n * share)
            wide = np.full(n, 9, np.float32)
            widen_sparse(wide, found)
            np.testing.assert_array_equal(bits(wide), bits(rows.widen(pruned, n)))
            dropped = np.abs(halfs.astype(np.float32)[wide == 0])
            if kind == 0:
                assert dropped.max() <= np.abs(wide[wide != 0]).min()
            n_rows += 1
    assert n_rows >= 96


@pytest.mark.parametrize(
    ("dim", "share", "n_bytes"), [(128, 0.5, 144), (128, 0.7, 94), (64, 0.5, 72), (80, 0.5, 96)]
)
def test_row_bytes(dim: int, share: float, n_bytes: int) -> None:
    assert SparseRows(share, dim).row_bytes(dim) == n_bytes


def test_memory_at_2048_positions(longer: Path) -> None:
    with load_sparse(longer) as model, load_sparse(longer, 0) as dense:
        for plan in (model.engine.plan, dense.engine.plan):
            assert KVCache(plan, 2048).raw.nbytes == plan.cache_bytes(2048)
    half = SparseRows(0.5, 64)
    ratio = (2048 * half.row_bytes(64) + half.n_recent * 128) / (2048 * 128)
    assert ratio == 0.6875


def test_going_back(longer: Path) -> None:
    """A conversation that is cut back computes the same as a fresh one."""
    with load_sparse(longer, executor="native") as model:
        ids = long_prompt(model, 300)
        n_reused = []
        for n in (299, 250, 150, 90, 20):
            held, fresh = (CachedSequence(model.engine, 330) for _ in range(2))
            held.prefill(ids)
            prompt = [*ids[:n], 1, 2]
            found, reused = held.prefill(prompt)
            expected, _ = fresh.prefill(prompt)
            np.testing.assert_array_equal(bits(found), bits(expected))
            n_reused.append(reused)
    assert n_reused == [299, 250, 150, 0, 0]


def test_reusable_is_what_the_ring_still_holds() -> None:
    rows, n_cases = SparseRows(0.5, 64), 0
    for held, wanted in itertools.product(range(0, 700, 13), repeat=2):
        if wanted > held:
            continue
        first_needed = rows.n_sparse(wanted)
        lost = held - rows.n_recent  # positions below are overwritten
        expected = wanted if first_needed >= lost else 0
        assert rows.reusable(held, wanted) == expected
        n_cases += 1
    assert n_cases > 1000
    assert rows.reusable(256, 0) == 0


def test_refusals(longer: Path) -> None:
    for share in (-0.5, 1.0, 1e-9, float("nan")):
        with pytest.raises(UsageError, match="kv_sparsity"):
            load_sparse(longer, share)
    with pytest.raises(UsageError, match="stored as halfs"):
        load_sparse(longer, cache_type_v="q8_0")
    with load_sparse(longer) as model, load_sparse(longer, 0) as dense:
        assert model.engine.max_tokens == STEP_TOKENS
        with pytest.raises(UsageError, match="50% sparse"):
            model.engine.forward(dense.engine.new_cache(8), [1, 2], 0)
        with (
            executor_of(model, "native") as executor,
            pytest.raises(UsageError, match="too far apart"),
        ):
            executor.run(
                step_of(executor, [1, 2], positions=[0, 300], caches=[KVCache(executor.plan, 330)])
            )


def test_it_is_named(longer: Path) -> None:
    with load_sparse(longer) as model:
        assert "50% of keys and values dropped beyond the latest 32 to 95" in model.info.quality
