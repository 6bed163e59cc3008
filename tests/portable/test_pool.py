"""The thread pool: every item once, errors carried over, threads gone after close."""

from __future__ import annotations

import itertools
import threading

import pytest

from edgesparse.portable.pool import Pool


def test_every_item_once() -> None:
    n_cases = 0
    for n_threads in (1, 2, 3, 5):
        pool = Pool(n_threads)
        for n_items, grain in itertools.product((0, 1, 7, 8, 9, 100, 1001), (1, 8)):
            chunks: list[tuple[int, int, int]] = []
            pool.run(lambda *chunk: chunks.append(chunk), n_items, grain)  # noqa: B023
            items = [item for begin, end, _ in chunks for item in range(begin, end)]
            assert sorted(items) == list(range(n_items))
            assert all(begin % grain == 0 for begin, _, _ in chunks)
            assert {worker for _, _, worker in chunks} <= set(range(n_threads))
            n_cases += 1
        pool.close()
    assert n_cases == 4 * 7 * 2


def test_threads_work_side_by_side() -> None:
    pool = Pool(3)
    meeting = threading.Barrier(3, timeout=20)
    pool.run(lambda begin, end, worker: meeting.wait() and None, 3)
    pool.close()


@pytest.mark.parametrize("failing", [0, 50, 99])
def test_errors_reach_the_caller(failing: int) -> None:
    pool = Pool(3)

    def work(begin: int, end: int, worker: int) -> None:
        if begin <= failing < end:
            raise ValueError(f"item {failing}")

    for _ in range(20):
        with pytest.raises(ValueError, match=f"item {failing}"):
            pool.run(work, 100)
    done: list[int] = []
    pool.run(lambda begin, end, worker: done.extend(range(begin, end)), 100)
    assert sorted(done) == list(range(100))
    pool.close()


def test_no_thread_survives() -> None:
    before = set(threading.enumerate())
    closed, dropped = Pool(4), Pool(4)
    started = set(threading.enumerate()) - before
    assert len(started) == 6
    closed.close()
    del dropped
    for thread in started:
        thread.join(20)
    assert not any(thread.is_alive() for thread in started)
