"""Measure the share of dead gates, layer by layer, on random tokens.

Run: python -m bench.dead_gates FILE [--tokens 128]
"""

from __future__ import annotations

import argparse

import numpy as np

import edgesparse
from edgesparse.errors import EdgesparseError
from edgesparse.executors.base import Step

__all__ = ["dead_gates"]


def dead_gates(model: edgesparse.Model, n_tokens: int = 128, seed: int = 0) -> np.ndarray:
    """Return the share of gates at or below zero, one number per layer."""
    engine = model.engine
    n_text = engine.n_vocab - 256  # the rest are control tokens
    ids = np.random.default_rng(seed).integers(0, n_text, n_tokens).astype(np.int32)
    cache = engine.new_cache(n_tokens)
    step = Step(
        tokens=ids,
        positions=np.arange(n_tokens, dtype=np.int32),
        sequences=np.zeros(n_tokens, np.int32),
        outputs=np.zeros(0, np.int32),
        caches=[cache],
        logits=np.empty((0, engine.n_vocab), np.float32),
    )
    shares, begin = [], 0
    for i, op in enumerate(engine.plan.ops):
        if op.name.endswith(".gate_up"):
            engine.executor.run(step, begin, i + 1)
            shares.append(float((engine.executor.buffer("gate", n_tokens) <= 0).mean()))
            begin = i + 1
    return np.array(shares)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    try:
        with edgesparse.load(options.file) as model:
            shares = dead_gates(model, options.tokens)
    except EdgesparseError as error:
        raise SystemExit(f"dead_gates: {error}") from None
    print("dead gates by layer:", " ".join(f"{share:.3f}" for share in shares))
    print(f"mean {shares.mean():.3f}, lowest {shares.min():.3f}, highest {shares.max():.3f}")


if __name__ == "__main__":
    main()
