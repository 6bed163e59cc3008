"""`Pool`: a few persistent threads that share out the items of one op.

Kernels release the GIL, so plain threads run them side by side. Chunks are handed out as threads
become free: a thread that loses its core to a neighbour takes fewer. What an item computes never
depends on the chunk it is in, so results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeAlias

__all__ = ["Pool", "Work"]

Work: TypeAlias = Callable[[int, int, int], None]
"""work(begin, end, worker): compute items [begin, end) with the scratch of `worker`."""

CHUNKS_PER_THREAD = 4
"""Enough to even out a slow thread, few enough that the calls cost nothing beside the work."""


class Pool:
    """Threads of one executor; the caller is worker 0.

    Parameters
    ----------
    n_threads : int, optional
        Workers, the caller included; by default one per CPU that this process may use.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self.n_threads = n_threads or _usable_cpus()
        self._jobs: list[SimpleQueue[_Job | None]] = [
            SimpleQueue() for _ in range(self.n_threads - 1)
        ]
        for index, jobs in enumerate(self._jobs):
            # Daemons, and the loop keeps no reference to the pool: a forgotten one ends quietly.
            threading.Thread(
                target=_serve,
                args=(jobs, index + 1),
                name=f"edgesparse-{index + 1}",
                daemon=True,
            ).start()

    def run(self, work: Work, n_items: int, grain: int = 1) -> None:
        """Compute items [0, n_items), at least `grain` at a time; return when all are done.

        Chunks start at multiples of `grain`. The first exception of any worker is raised here.
        """
        n_workers = min(self.n_threads, -(-n_items // grain))
        if n_workers <= 1:
            if n_items > 0:
                work(0, n_items, 0)
            return
        n_chunks = min(n_workers * CHUNKS_PER_THREAD, -(-n_items // grain))
        chunk = -(-n_items // (n_chunks * grain)) * grain
        job = _Job(work, n_items, chunk)
        for jobs in self._jobs[: n_workers - 1]:
            jobs.put(job)
        job.take_chunks(0)
        for _ in range(n_workers - 1):
            job.finished.get()
        if job.error is not None:
            raise job.error

    def close(self) -> None:
        """Let the threads end; `run` must not be called again."""
        for jobs in self._jobs:
            jobs.put(None)
        self._jobs = []
        self.n_threads = 1

    def __del__(self) -> None:
        self.close()


class _Job:
    """One call of `Pool.run`."""

    def __init__(self, work: Work, n_items: int, chunk: int) -> None:
        self.work = work
        self.n_items = n_items
        self.chunk = chunk
        self.next_chunk = itertools.count()  # next() on it is atomic
        self.finished: SimpleQueue[None] = SimpleQueue()
        self.error: BaseException | None = None

    def take_chunks(self, worker: int) -> None:
        """Compute chunk after chunk until none is left or one has failed."""
        try:
            while self.error is None:
                begin = next(self.next_chunk) * self.chunk
                if begin >= self.n_items:
                    return
                self.work(begin, min(begin + self.chunk, self.n_items), worker)
        except BaseException as error:
            self.error = error


def _serve(jobs: SimpleQueue[_Job | None], worker: int) -> None:
    """Body of a thread: take jobs until None comes."""
    while (job := jobs.get()) is not None:
        job.take_chunks(worker)
        job.finished.put(None)
        del job


def _usable_cpus() -> int:
    """CPUs in this process's affinity mask, or all where the system has none."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)
