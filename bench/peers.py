"""Decode speed beside llama.cpp, in one run, engines taking turns.

Run: python -m bench.peers [--threads 1,2] [--rounds 7] [--tokens 64] [--peer-python PYTHON]
Three workers decode in turn: the default model here, SmolLM2-135M Q4_1 here, and the same file in
llama.cpp (through llama-cpp-python). Medians, ratios to the peer, and the read bandwidth measured
before and after. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack

import edgesparse
from bench.workers import Worker, has_llama_cpp, load_average, sample_model
from edgesparse.machine import cpu_name, read_bandwidth
from edgesparse.plan.cost import bytes_per_token

PEER = "llama.cpp SmolLM2-135M Q4_1"


def moved_bytes(path: str | None, position: int) -> int:
    with edgesparse.load(path, threads=1, n_ctx=512) as model:
        return bytes_per_token(model.engine.plan, model.parameters, position)


def compare(n_threads: int, options: argparse.Namespace) -> dict[str, object]:
    sample = str(sample_model())
    ours = {"edgesparse default model": None, "edgesparse SmolLM2-135M Q4_1": sample}
    n_bytes = {label: moved_bytes(path, options.tokens // 2) for label, path in ours.items()}
    piece = max(n_bytes.values()) // n_threads
    before = read_bandwidth(n_threads, bytes_per_thread=piece, repeats=5).gb_per_s
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(label, "edgesparse", path or "", n_threads))
            for label, path in ours.items()
        ]
        if has_llama_cpp(options.peer_python):
            peer = Worker(
                PEER,
                "llama.cpp",
                sample,
                n_threads,
                python=options.peer_python,
                plain=not options.peer_repack,
            )
            workers.append(stack.enter_context(peer))
        for _ in range(options.rounds):
            for worker in workers:
                samples.setdefault(worker.label, []).append(worker.decode(options.tokens))
    after = read_bandwidth(n_threads, bytes_per_thread=piece, repeats=5).gb_per_s
    medians = {label: statistics.median(values) for label, values in samples.items()}
    bandwidth = max(before, after)
    print(f"\n{n_threads} threads, read bandwidth {before:.1f} before, {after:.1f} GB/s after")
    for label, speed in medians.items():
        values = samples[label]
        line = f"{label:32s} {speed:8.1f} tok/s ({min(values):.1f} to {max(values):.1f})"
        if label in n_bytes:
            moved = speed * n_bytes[label] / 1e9
            line += f"  {moved:5.1f} GB/s, {100 * moved / bandwidth:3.0f} % of the ceiling"
        if PEER in medians and label != PEER:
            line += f"  {speed / medians[PEER]:.2f} × the peer"
        print(line)
    return {
        "n_threads": n_threads,
        "tok_per_s": medians,
        "samples": samples,
        "bytes_per_token": n_bytes,
        "read_bandwidth_gb_per_s": bandwidth,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--peer-repack", action="store_true", help="let it copy weights (AMX)")
    options = parser.parse_args()
    print(f"{cpu_name()}, load {load_average()}")
    if not has_llama_cpp(options.peer_python):
        print("llama-cpp-python is not installed there: no peer in this run")
    rows = [compare(int(count), options) for count in options.threads.split(",")]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
