"""Where the time of a token goes: per kind of op, beside the bandwidth measured in the same run.

Run: python -m bench.profile_ops [FILE] [--threads 1,2] [--prompt 256] [--steps 32]

Decode prints microseconds per token, GB/s and the percentage of the read bandwidth; prefill prints
10^9 multiply-adds per second. Each op counts with its median over the steps; bytes are those of
`edgesparse.plan.cost`: weights and cache, no activations. Bandwidth is the best of short passes
before and after, since an op's median forgets interruptions too. On a machine with other work to do
(see the load average) long ops such as the head are interrupted every time and look slow; weights
that fit into a cache read faster than memory. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

import edgesparse
from edgesparse.executors.base import KVCache, Step
from edgesparse.machine import read_bandwidth
from edgesparse.plan.cost import plan_costs

__all__ = ["Row", "profile_decode", "profile_prefill"]

PASSES = 20
"""Passes over 64 MiB a thread for each measurement of the bandwidth."""

_LAYER = re.compile(r"^blk\.\d+\.")
Int32 = npt.NDArray[np.int32]
Times = npt.NDArray[np.float64]


@dataclass
class Row:
    """All ops of one kind together.

    Attributes
    ----------
    kind, formats : str
        Op name without its layer; storage formats of its weights.
    n_ops : int
    us : float
        Microseconds per token (decode) or per step (prefill).
    n_bytes, multiply_adds : float
        Work behind `us`; bytes of decoding only.
    """

    kind: str
    formats: str
    n_ops: int = 0
    us: float = 0.0
    n_bytes: float = 0.0
    multiply_adds: float = 0.0

    @property
    def gb_per_s(self) -> float:
        return self.n_bytes / max(self.us, 1e-3) / 1e3

    @property
    def gmac_per_s(self) -> float:
        return self.multiply_adds / max(self.us, 1e-3) / 1e3


def _run(model: edgesparse.Model, cache: KVCache, ids: Int32, start: int) -> npt.NDArray[np.uint64]:
    """Run one step whose last token wants logits; return nanoseconds per op."""
    engine, n = model.engine, len(ids)
    step = Step(
        tokens=ids,
        positions=np.arange(start, start + n, dtype=np.int32),
        sequences=np.zeros(n, np.int32),
        outputs=np.array([n - 1], np.int32),
        caches=[cache],
        logits=np.empty((1, engine.n_vocab), np.float32),
        op_ns=np.zeros(len(engine.plan.ops), np.uint64),
    )
    engine.executor.run(step)
    assert step.op_ns is not None
    return step.op_ns


def _rows(model: edgesparse.Model, ns: Times, position: int, n_tokens: int) -> list[Row]:
    rows: dict[str, Row] = {}
    costs = plan_costs(model.engine.plan, model.parameters, position)
    for cost, time in zip(costs, ns, strict=True):
        kind = _LAYER.sub("", cost.op.name)
        row = rows.setdefault(kind, Row(kind, "+".join(cost.formats)))
        row.n_ops += 1
        row.us += float(time) / 1e3
        # Prefill uses each weight many times; bytes would say nothing there.
        row.n_bytes += cost.n_bytes if n_tokens == 1 else 0
        # Prefill: only the last token goes through the head.
        row.multiply_adds += cost.multiply_adds * (1 if kind == "head" else n_tokens)
    return list(rows.values())


def profile_decode(model: edgesparse.Model, prompt: Int32, steps: Int32) -> list[Row]:
    """Time one step per token of `steps` behind `prompt`; medians."""
    cache = model.engine.new_cache(len(prompt) + len(steps))
    model.engine.forward(cache, prompt, 0, outputs="none")
    runs = [_run(model, cache, steps[i : i + 1], len(prompt) + i) for i in range(len(steps))]
    return _rows(model, np.median(runs, axis=0), len(prompt) + len(steps) // 2, 1)


def profile_prefill(model: edgesparse.Model, prompt: Int32, repeats: int = 3) -> list[Row]:
    """Time one step over `prompt`, at most `Engine.max_tokens` long; medians."""
    n = len(prompt)
    runs = [_run(model, model.engine.new_cache(n), prompt, 0) for _ in range(repeats)]
    return _rows(model, np.median(runs, axis=0), (n - 1) // 2, n)


def _print_decode(rows: Sequence[Row], bandwidth: float, note: str) -> None:
    total = sum(row.us for row in rows)
    print(f"decode, {note}, read bandwidth {bandwidth:.1f} GB/s")
    print(f"{'kind':<14}{'formats':<9}{'ops':>5}{'µs/token':>11}{'share':>8}{'GB/s':>8}{'% bw':>7}")
    whole = Row("all", "", sum(r.n_ops for r in rows), total, sum(r.n_bytes for r in rows))
    for row in [*sorted(rows, key=lambda r: -r.us), whole]:
        print(
            f"{row.kind:<14}{row.formats:<9}{row.n_ops:>5}{row.us:>11.1f}{row.us / total:>8.1%}"
            f"{row.gb_per_s:>8.2f}{100 * row.gb_per_s / bandwidth:>7.1f}"
        )
    print(
        f"{1e6 / total:.2f} tok/s; {whole.n_bytes / 1e6:.1f} MB a token allow "
        f"{bandwidth * 1e9 / whole.n_bytes:.2f}\n"
    )


def _print_prefill(rows: Sequence[Row], n_tokens: int, note: str) -> None:
    total = sum(row.us for row in rows)
    print(f"prefill of {n_tokens}, {note}")
    print(f"{'kind':<14}{'formats':<9}{'ops':>5}{'µs/token':>11}{'share':>8}{'GMAC/s':>9}")
    for row in sorted(rows, key=lambda r: -r.us):
        print(
            f"{row.kind:<14}{row.formats:<9}{row.n_ops:>5}{row.us / n_tokens:>11.2f}"
            f"{row.us / total:>8.1%}{row.gmac_per_s:>9.1f}"
        )
    print(f"{1e6 * n_tokens / total:.1f} tok/s\n")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", nargs="?", help="a model; the bundled one if omitted")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prefill")
    parser.add_argument("--steps", type=int, default=32, help="tokens to decode")
    o = parser.parse_args(arguments)
    result: dict[str, object] = {"file": o.file, "prompt": o.prompt, "steps": o.steps}
    for n_threads in map(int, o.threads.split(",")):
        with edgesparse.load(o.file, threads=n_threads, executor="native") as model:
            n_text = max(1, model.engine.n_vocab - 256)  # random models end in control tokens
            ids = np.random.default_rng(0).integers(0, n_text, o.prompt + o.steps)
            prompt, steps = np.split(ids.astype(np.int32), [o.prompt])
            before = read_bandwidth(n_threads, repeats=PASSES).gb_per_s
            decode = profile_decode(model, prompt, steps)
            bandwidth = max(before, read_bandwidth(n_threads, repeats=PASSES).gb_per_s)
            prefill = profile_prefill(model, prompt[: model.engine.max_tokens])
        note = f"threads {n_threads}, load average {os.getloadavg()[0]:.1f}"
        _print_decode(decode, bandwidth, note)
        _print_prefill(prefill, min(o.prompt, model.engine.max_tokens), note)
        result[f"threads_{n_threads}"] = {
            "gb_per_s": bandwidth,
            "decode": [asdict(row) for row in decode],
            "prefill": [asdict(row) for row in prefill],
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
