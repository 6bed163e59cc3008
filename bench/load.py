"""Time and memory of loading a model from a warm page cache, beside what reading alone would cost.

Run: python -m bench.load [--model FILE] [--threads N] [--head NAME] [--ternary NAME] [--rounds 5]
Every round is a process of its own: stages and processor time in seconds, peak resident memory
after loading and with every page of a full cache touched. Ceilings: the same file through ``pread``
into a small buffer, and fresh memory of the weights' size touched. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any

from bench.workers import load_average
from edgesparse.default_model import default_model_path

_BUFFER = 1 << 20


def peak_mb() -> float:
    """Peak resident megabytes (10⁶ bytes) of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def one_round(options: argparse.Namespace) -> dict[str, float]:
    """Load once, in this process."""
    begin = time.perf_counter()
    from edgesparse import load_model as module

    found = {"import_s": time.perf_counter() - begin}

    def timed(name: str) -> None:
        function: Callable[..., Any] = getattr(module, name)

        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                found[f"{name}_s"] = time.perf_counter() - start

        setattr(module, name, wrapper)

    for name in ("open_checkpoint", "load_tokenizer", "load_parameters", "make_executor"):
        timed(name)
    start = time.perf_counter()
    model = module.load(
        options.model,
        threads=options.threads,
        head=options.head,
        ternary=options.ternary,
        n_ctx=options.n_ctx,
        cache_type_k=options.cache_type,
        cache_type_v=options.cache_type,
    )
    found["load_s"] = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    found["processor_s"] = usage.ru_utime + usage.ru_stime
    found["peak_mb"] = peak_mb()
    found["weights_mb"] = model.info.weight_bytes / 1e6
    cache = model.engine.new_cache()
    found["cache_mb"] = cache.raw.nbytes / 1e6
    model.generate([1, 2, 3], max_tokens=2, temperature=0.0)
    cache.raw[:: mmap.PAGESIZE] = 0
    found["peak_full_cache_mb"] = peak_mb()
    return found


def read_seconds(path: Path, n_threads: int) -> float:
    """Read a file once, in pieces, by threads that take turns."""
    descriptor = os.open(path, os.O_RDONLY)
    n_pieces = -(-path.stat().st_size // _BUFFER)

    def read(first: int) -> None:
        buffer = memoryview(bytearray(_BUFFER))
        for piece in range(first, n_pieces, n_threads):
            os.preadv(descriptor, [buffer], piece * _BUFFER)

    begin = time.perf_counter()
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(read, range(n_threads)))
    os.close(descriptor)
    return time.perf_counter() - begin


def touch_seconds(n_bytes: int) -> float:
    """Touch every page of fresh private memory, as huge pages where the system has them."""
    import numpy as np

    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    pages = np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE]
    begin = time.perf_counter()
    pages[:] = 1
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=default_model_path())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--head", default="auto")
    parser.add_argument("--ternary", default="auto")
    parser.add_argument("--n-ctx", type=int, default=None)
    parser.add_argument("--cache-type", default="q8_0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(one_round(options)))
        return
    print(f"load {load_average()}")
    rounds: list[dict[str, float]] = []
    for _ in range(options.rounds):
        command = [sys.executable, "-m", "bench.load", "--child", *sys.argv[1:]]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row = json.loads(done.stdout.splitlines()[-1])
        row["read_ceiling_s"] = read_seconds(options.model, options.threads)
        row["touch_ceiling_s"] = touch_seconds(int(row["weights_mb"] * 1e6))
        rounds.append(row)
    result = {key: statistics.median(row[key] for row in rounds) for key in rounds[0]}
    result["file_mb"] = options.model.stat().st_size / 1e6
    result["load_best_s"] = min(row["load_s"] for row in rounds)
    for key, value in result.items():
        print(f"{key:24s} {value:10.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
