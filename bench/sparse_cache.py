"""Decode and prefill with whole and with pruned keys and values, taking turns.

    python -m bench.sparse_cache MODEL [--sparsity 0.5] [--positions 512 1024 2047] [--threads 1]

Both caches belong to one process and one set of weights; at each position a few tokens are decoded
with the one and then with the other, round after round, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np

import edgesparse
from edgesparse.engine import Engine
from edgesparse.executors import make_executor
from edgesparse.executors.base import Step
from edgesparse.plan.op import Attention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--positions", type=int, nargs="+", default=[512, 1024, 2047])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=3, help="decoded per turn")
    options = parser.parse_args()
    n_ctx = max(options.positions) + 1
    with edgesparse.load(options.model, threads=options.threads, n_ctx=n_ctx) as model:
        whole = model.engine.plan
        plans = {"whole": whole, "pruned": whole.with_sparse_cache(options.sparsity)}
        engines = {
            name: Engine(
                make_executor("native", plan, model.parameters, threads=options.threads),
                n_threads=options.threads,
            )
            for name, plan in plans.items()
        }
        caches = {name: engine.new_cache(n_ctx) for name, engine in engines.items()}
        ids = np.random.default_rng(0).integers(0, whole.n_vocab, n_ctx).astype(np.int32)
        prefill = {}
        for name, engine in engines.items():
            begin = time.perf_counter()
            engine.forward(caches[name], ids, 0, outputs="none", chunk=128)
            prefill[name] = round(n_ctx / (time.perf_counter() - begin), 1)
        print(json.dumps({"prefill_ts": prefill, "n_ctx": n_ctx, "threads": options.threads}))
        for position in options.positions:
            print(json.dumps(at_position(engines, caches, ids, position, options)), flush=True)
        for engine in engines.values():
            engine.close()


def at_position(engines, caches, ids, position, options) -> dict:
    """Decode the tokens that end at a position; positions that lie earlier keep what they had."""
    times, attention = {name: [] for name in engines}, {name: [] for name in engines}
    for _ in range(options.rounds):
        for name, engine in engines.items():
            # The ring must hold what precedes: write the latest rows again.
            start = max(0, position - 128)
            engine.forward(caches[name], ids[start:position], start, outputs="none")
            op_ns = np.zeros(len(engine.plan.ops), np.uint64)
            begin = time.perf_counter()
            for _ in range(options.tokens):
                decode(engine, caches[name], ids[position], position, op_ns)
            times[name].append((time.perf_counter() - begin) / options.tokens)
            mine = [isinstance(op, Attention) for op in engine.plan.ops]
            attention[name].append(float(op_ns[mine].sum()) / options.tokens / 1e3)
    row = {"position": position}
    for name, engine in engines.items():
        row[f"{name}_ts"] = round(1 / statistics.median(times[name]), 2)
        row[f"{name}_attention_us"] = round(statistics.median(attention[name]), 1)
        row[f"{name}_mb_read"] = round(
            engine.plan.n_layers * engine.plan.attention_bytes(0, position + 1) / 1e6, 2
        )
        row[f"{name}_cache_mb"] = round(engine.plan.cache_bytes(position + 1) / 1e6, 2)
    pairs = zip(times["whole"], times["pruned"], strict=True)
    row["speed_ratio"] = round(statistics.median(a / b for a, b in pairs), 3)
    pairs = zip(attention["whole"], attention["pruned"], strict=True)
    row["attention_ratio"] = round(statistics.median(a / b for a, b in pairs), 3)
    return row


def decode(engine, cache, token, position, op_ns) -> None:
    engine.executor.run(
        Step(
            tokens=np.array([token], np.int32),
            positions=np.array([position], np.int32),
            sequences=np.zeros(1, np.int32),
            outputs=np.zeros(1, np.int32),
            caches=[cache],
            logits=np.empty((1, engine.n_vocab), np.float32),
            op_ns=op_ns,
        )
    )


if __name__ == "__main__":
    main()
