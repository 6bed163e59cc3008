"""Cancelling, refusing, sharing and not hanging."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import Cancelled, ContextOverflow, UsageError
from edgesparse.executors.base import CancelFlag, KVCache, Step


@pytest.fixture(scope="module")
def model() -> edgesparse.Model:
    return edgesparse.load(threads=2, n_ctx=1024)


def test_cancel_during_prefill(model: edgesparse.Model) -> None:
    """A flag set from another thread stops a long prompt between ops."""
    flag, cache = CancelFlag(), model.engine.new_cache()
    ids = np.arange(1000, dtype=np.int32) + 100

    def prefill_again_and_again() -> None:
        for _ in range(50):
            model.engine.forward(cache, ids, 0, cancel=flag)

    timer = threading.Timer(0.05, flag.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        prefill_again_and_again()
    assert time.monotonic() - start < 5
    timer.join()
    assert model.engine.forward(cache, ids[:3], 0).shape == (1, model.engine.n_vocab)


def bad_steps(model: edgesparse.Model) -> list[Step]:
    engine = model.engine

    def step(**changes: object) -> Step:
        fields: dict[str, object] = {
            "tokens": np.array([5, 6], np.int32),
            "positions": np.array([0, 1], np.int32),
            "sequences": np.zeros(2, np.int32),
            "outputs": np.array([1], np.int32),
            "caches": [KVCache(engine.plan, 16)],
            "logits": np.empty((1, engine.n_vocab), np.float32),
        }
        return Step(**(fields | changes))  # type: ignore[arg-type]

    def pair(a: int, b: int) -> np.ndarray:
        return np.array([a, b], np.int32)

    return [
        step(tokens=pair(5, engine.n_vocab)),
        step(tokens=pair(-1, 5)),
        step(tokens=np.zeros(0, np.int32)),
        step(positions=pair(0, 16)),
        step(positions=pair(-1, 0)),
        step(sequences=pair(0, 1)),
        step(sequences=pair(-1, 0)),
        step(outputs=np.array([2], np.int32)),
        step(outputs=np.array([-1], np.int32)),
        step(logits=np.empty((2, engine.n_vocab), np.float32)),
        step(logits=np.empty((1, 5), np.float32)),
        step(logits=np.empty((1, engine.n_vocab), np.float64)),
        step(caches=[]),
        step(positions=np.zeros(1, np.int32)),
    ]


def test_bad_steps_are_refused(model: edgesparse.Model) -> None:
    steps = bad_steps(model)
    for step in steps:
        with pytest.raises(UsageError):
            model.engine.executor.run(step)
    assert len(steps) == 14
    with pytest.raises(UsageError):
        model.engine.executor.run(steps[0], 5, 4)
    with pytest.raises(ContextOverflow):
        model.logits(np.zeros(1025, np.int32))
    with pytest.raises(UsageError):
        model.logits([])


def test_threads_share_a_model(model: edgesparse.Model) -> None:
    """Four conversations at once give what each gives alone."""
    prompts = ["The sun", "A recipe for", "Once upon a time", "In 1969"]
    options = {"temperature": 0.0, "max_tokens": 12}
    alone = [model.generate(prompt, **options).ids for prompt in prompts]
    together: dict[int, object] = {}

    def work(index: int) -> None:
        together[index] = model.generate(prompts[index], **options).ids

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(prompts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [together[i] for i in range(len(prompts))] == alone


def test_closed_executor_is_refused() -> None:
    model = edgesparse.load(threads=2, n_ctx=64)
    model.close()
    with pytest.raises(UsageError):
        model.engine.forward(KVCache(model.engine.plan, 8), [1], 0)
    model.close()


_STORM = """
import edgesparse
for threads in (2, 3, 4):
    model = edgesparse.load(threads=threads, n_ctx=512)
    cache = model.engine.new_cache()
    for i in range(300):
        model.engine.forward(cache, [100 + i], i)
    model.close()
print("done")
"""


def test_no_hang_beside_a_busy_neighbour() -> None:
    """Many small jobs on more threads than free cores: a lost wake-up would never end."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _STORM], capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        busy.kill()
        busy.wait()
    assert done.stdout.strip() == "done"
