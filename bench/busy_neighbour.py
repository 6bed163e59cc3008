"""What a busy neighbour costs: decode speed while another process keeps one core busy.

Run: python -m bench.busy_neighbour [--threads 2] [--rounds 5] [--tokens 64] [--peer-python PYTHON]
Idle and busy rounds alternate. The neighbour is a plain Python loop. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from bench.workers import Worker, has_llama_cpp, load_average, sample_model


def measure(worker: Worker, options: argparse.Namespace) -> dict[str, float]:
    idle, busy = [], []
    for _ in range(options.rounds):
        idle.append(worker.decode(options.tokens))
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            time.sleep(0.2)
            # Fewer tokens: an engine that collapses would take minutes.
            busy.append(worker.decode(max(1, options.tokens // options.fewer)))
        finally:
            neighbour.kill()
            neighbour.wait()
    return {"idle": statistics.median(idle), "busy": statistics.median(busy), "worst": min(busy)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--fewer", type=int, default=1, help="divide the busy rounds' tokens by")
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    print(f"load {load_average()}, {options.threads} threads")
    results = {}
    with ExitStack() as stack:
        workers = [Worker("edgesparse default model", "edgesparse", "", options.threads)]
        if has_llama_cpp(options.peer_python):
            peer = ("llama.cpp SmolLM2-135M Q4_1", "llama.cpp", sample_model(), options.threads)
            workers.append(Worker(*peer, python=options.peer_python))
        for worker in workers:
            stack.enter_context(worker)
        for worker in workers:
            found = results[worker.label] = measure(worker, options)
            kept = 100 * found["busy"] / found["idle"]
            print(
                f"{worker.label:30s} idle {found['idle']:7.1f}, busy {found['busy']:7.1f} tok/s: "
                f"{kept:.0f} % kept (worst round {100 * found['worst'] / found['idle']:.0f} %)"
            )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
