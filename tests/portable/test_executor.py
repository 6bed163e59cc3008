"""A small random model end to end: chunking, batching, threads, the reference; bad steps."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgesparse.errors import Cancelled, UsageError
from edgesparse.executors.base import CancelFlag, KVCache, Parameters, Step
from edgesparse.executors.portable import PortableExecutor
from edgesparse.executors.reference import ReferenceExecutor
from edgesparse.formats.weight import Format
from edgesparse.plan.op import (
    LOGITS,
    Attention,
    Embed,
    GluKind,
    Linear,
    Op,
    Output,
    RopeKV,
    RopeStyle,
)
from edgesparse.plan.plan import Plan
from tests.portable.packing import random_weight
from tests.portable.running import same_bits, step_of

F32 = np.float32
WIDTH, FF, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 96, 160, 6, 2, 16, 50
PROMPT = [3, 49, 0, 17, 17, 8, 21, 40, 5, 11, 30]


def tiny_model() -> tuple[Plan, Parameters]:
    """Two layers that between them use every storage format, both gates and both rotations."""
    rng = np.random.default_rng(11)
    weights, vectors, tables = {}, {}, {}

    def weight(name: str, fmt: Format, n_rows: int, k: int) -> str:
        weights[name], _ = random_weight(rng, fmt, n_rows, k)
        return name

    def vector(name: str, n: int) -> str:
        vectors[name] = rng.uniform(0.5, 1.5, n).astype(F32)
        return name

    kv_dim = KV_HEADS * HEAD_DIM
    ops: list[Op] = [Embed("embed", weight("embd", Format.Q8, VOCAB, WIDTH), "x", 0.5)]
    layers = [
        (Format.T2, Format.T5, Format.F16, Format.BF16, GluKind.RELU2, RopeStyle.NEOX, 0),
        (Format.Q4, Format.Q8M, Format.Q4M, Format.F32, GluKind.SILU, RopeStyle.NORM, 4),
        (Format.Q6, Format.Q8, Format.Q4, Format.F16, GluKind.GELU, RopeStyle.NEOX, 3),
    ]
    for i, (a, b, c, d, glu, style, window) in enumerate(layers):
        qkv = (
            Output(weight(f"{i}.q", a, HEADS * HEAD_DIM, WIDTH), "q", bias=vector(f"{i}.b", WIDTH)),
            Output(weight(f"{i}.k", a, kv_dim, WIDTH), "k"),
            Output(weight(f"{i}.v", b, kv_dim, WIDTH), "v"),
        )
        norms = {"norm": vector(f"{i}.n1", WIDTH), "eps": 1e-5}
        ops.append(Linear(f"{i}.qkv", "x", qkv, **norms))
        tables[f"{i}.t"] = rng.uniform(-1, 1, (64, HEAD_DIM)).astype(F32)
        heads = (HEADS, KV_HEADS, HEAD_DIM)
        names = {"norm_q": vector(f"{i}.nq", HEAD_DIM), "norm_k": vector(f"{i}.nk", HEAD_DIM)}
        ops.append(
            RopeKV(f"{i}.rope", i, "q", "k", "v", *heads, HEAD_DIM, style, f"{i}.t", **names)
        )
        ops.append(Attention(f"{i}.attn", i, "q", "o", *heads, 0.25, window))
        out = Output(weight(f"{i}.o", c, WIDTH, WIDTH), "x", add=True)
        ops.append(Linear(f"{i}.out", "o", (out,), norm=vector(f"{i}.n2", WIDTH), eps=1e-5))
        gate_up = (
            Output(weight(f"{i}.g", b, FF, WIDTH), "g"),
            Output(weight(f"{i}.u", d, FF, WIDTH), "u"),
        )
        ops.append(Linear(f"{i}.up", "x", gate_up, norm=vector(f"{i}.n3", WIDTH), eps=1e-5))
        down = Output(weight(f"{i}.d", a, WIDTH, FF), "x", add=True)
        more = {"norm": vector(f"{i}.n4", FF), "eps": 1e-5}
        ops.append(Linear(f"{i}.down", "g", (down,), src2="u", glu=glu, **more))
    head = Output(weight("head", Format.Q4, VOCAB, WIDTH), LOGITS)
    final = {"norm": vector("n", WIDTH), "eps": 1e-5}
    ops.append(Linear("head", "x", (head,), outputs_only=True, **final))
    buffers = {"x": WIDTH, "q": WIDTH, "k": kv_dim, "v": kv_dim, "o": WIDTH, "g": FF, "u": FF}
    shape = (3, KV_HEADS, HEAD_DIM, VOCAB, 64, 16)
    return Plan("tiny", tuple(ops), tuple(buffers.items()), *shape), Parameters(
        weights, vectors, tables
    )


PLAN, PARAMETERS = tiny_model()


@pytest.fixture
def executor() -> Iterator[PortableExecutor]:
    made = PortableExecutor(PLAN, PARAMETERS, threads=2)
    yield made
    made.close()


def whole_prompt(runner: Any) -> tuple[npt.NDArray[np.float32], KVCache]:
    """Logits of every prompt token, computed in one step."""
    cache = KVCache(PLAN, 64)
    step = step_of(PLAN, PROMPT, outputs=list(range(len(PROMPT))), caches=[cache])
    runner.run(step)
    return step.logits, cache


def test_equal_to_the_reference_op_by_op(executor: PortableExecutor) -> None:
    reference = ReferenceExecutor(PLAN, PARAMETERS)
    n = len(PROMPT)
    steps = [step_of(PLAN, PROMPT, outputs=[0, n - 1]) for _ in range(2)]
    for i in range(len(PLAN.ops)):
        executor.run(steps[0], i, i + 1)
        reference.run(steps[1], i, i + 1)
        for name, _ in PLAN.buffers:
            same_bits(executor.buffer(name, n), reference.buffer(name, n))
    same_bits(steps[0].logits, steps[1].logits)
    caches = [step.caches[0].raw for step in steps]
    np.testing.assert_array_equal(*caches)
    assert np.isfinite(steps[0].logits).all()
    assert np.unique(steps[0].logits).size > VOCAB


def test_chunks_and_threads_do_not_matter() -> None:
    seen = []
    for threads in (1, 2, 3):
        executor = PortableExecutor(PLAN, PARAMETERS, threads=threads)
        logits, cache = whole_prompt(executor)
        seen.append((logits, cache.raw))
        for chunk in (1, 4):
            cache, rows = KVCache(PLAN, 64), []
            for begin in range(0, len(PROMPT), chunk):
                tokens = PROMPT[begin : begin + chunk]
                positions = list(range(begin, begin + len(tokens)))
                outputs = list(range(len(tokens)))
                step = step_of(PLAN, tokens, positions=positions, outputs=outputs, caches=[cache])
                executor.run(step)
                rows.append(step.logits)
            seen.append((np.concatenate(rows), cache.raw))
        executor.close()
    assert len(seen) == 9
    for logits, halfs in seen[1:]:
        same_bits(logits, seen[0][0])
        np.testing.assert_array_equal(halfs, seen[0][1])


def test_sequences_do_not_mix(executor: PortableExecutor) -> None:
    """Two sequences interleaved in one step give what each gives alone."""
    first, second = PROMPT[:5], PROMPT[5:]
    alone = []
    for tokens in (first, second):
        step = step_of(PLAN, tokens, outputs=[len(tokens) - 1])
        executor.run(step)
        alone.append(step.logits[0])
    both = step_of(
        PLAN,
        [*first, *second],
        positions=[*range(5), *range(6)],
        sequences=[0] * 5 + [1] * 6,
        outputs=[4, 10],
        caches=[KVCache(PLAN, 5), KVCache(PLAN, 6)],
    )
    order = np.array([0, 5, 6, 1, 7, 2, 8, 3, 9, 4, 10])
    mixed = Step(
        *(np.ascontiguousarray(a[order]) for a in (both.tokens, both.positions, both.sequences)),
        np.array([9, 10], np.int32),
        both.caches,
        both.logits,
    )
    executor.run(mixed)
    same_bits(mixed.logits, np.stack(alone))


def test_cancel_and_timing(executor: PortableExecutor) -> None:
    step = step_of(PLAN, PROMPT, outputs=[0])
    step.op_ns, step.cancel = np.zeros(len(PLAN.ops), np.uint64), CancelFlag()
    executor.run(step)
    assert (step.op_ns > 0).all()
    once = step.op_ns.copy()
    executor.run(step, 2, 4)
    changed = step.op_ns > once
    assert changed.nonzero()[0].tolist() == [2, 3]
    step.cancel.set()
    before = step.op_ns.copy()
    with pytest.raises(Cancelled):
        executor.run(step)
    np.testing.assert_array_equal(step.op_ns, before)


def test_bad_steps_are_refused(executor: PortableExecutor) -> None:
    def with_change(**changes: Any) -> Step:
        step = step_of(PLAN, [1, 2], outputs=[0, 1])
        for name, value in changes.items():
            setattr(step, name, value)
        return step

    def ints(*values: int) -> npt.NDArray[np.int32]:
        return np.array(values, np.int32)

    small = KVCache(PLAN, 64)
    small.capacity = 65
    bad = [
        {"tokens": ints(1, VOCAB)},
        {"tokens": ints(-1, 1)},
        {"tokens": np.array([1, 2])},
        {"tokens": ints(1, 0, 2)[::2]},
        {"tokens": ints(1)},
        {"positions": ints(0, 64)},
        {"positions": ints(-1, 0)},
        {"positions": ints(0, 1, 2)},
        {"sequences": ints(0, 1)},
        {"sequences": ints(0, -1)},
        {"outputs": ints(0, 2)},
        {"outputs": ints(-1, 0)},
        {"outputs": ints(1, 0)},
        {"outputs": ints(1, 1)},
        {"logits": np.zeros((1, VOCAB), F32)},
        {"logits": np.zeros((2, VOCAB))},
        {"logits": np.zeros((VOCAB, 2), F32).T},
        {"caches": []},
        {"caches": [KVCache(PLAN, 1)]},
        {"caches": [small]},
        {"op_ns": np.zeros(3, np.uint64)},
    ]
    for changes in bad:
        with pytest.raises(UsageError):
            executor.run(with_change(**changes))
    for tokens in ([], [1] * (PLAN.max_tokens + 1)):
        with pytest.raises(UsageError):
            executor.run(step_of(PLAN, tokens))
    for begin, end in ((-1, 2), (3, 2), (0, len(PLAN.ops) + 1)):
        with pytest.raises(UsageError):
            executor.run(with_change(), begin, end)
    executor.run(with_change())


def test_buffers_and_close() -> None:
    with pytest.raises(UsageError):
        PortableExecutor(PLAN, PARAMETERS, threads=0)
    executor = PortableExecutor(PLAN, PARAMETERS, threads=3)
    assert executor.threads == 3
    assert executor.buffer("g", 2).shape == (2, FF)
    for name, n_tokens in (("none", 1), ("g", -1), ("g", PLAN.max_tokens + 1)):
        with pytest.raises(UsageError):
            executor.buffer(name, n_tokens)
    executor.close()
    executor.close()
    with pytest.raises(UsageError, match="closed"):
        executor.run(step_of(PLAN, [1]))
    with pytest.raises(UsageError, match="closed"):
        executor.buffer("g", 1)


def test_callers_queue_up(executor: PortableExecutor) -> None:
    """Two threads that share an executor get what each would get alone."""
    expected, _ = whole_prompt(executor)
    results: list[npt.NDArray[np.float32]] = []

    def call() -> None:
        for _ in range(5):
            results.append(whole_prompt(executor)[0])

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15
    for logits in results:
        same_bits(logits, expected)


def test_numba_is_loaded_only_for_this_executor() -> None:
    code = "import sys, edgesparse.executors, edgesparse.portable; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
