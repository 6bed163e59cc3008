"""Measure what skipping dead neurons gains, or costs, at several shares of dead gates.

Run: python -m bench.skipping FOLDER [--shape 700m] [--dead 0 0.2 0.4 0.8] [--threads 1 2]
or:  python -m bench.skipping MODEL.gguf

Models are made in FOLDER where they are missing (`--make` does only that). The same model runs with
``sparse="off"`` and ``"auto"``, round by round in turn; the results are the same bits. The
ratios, of whole tokens and of the feed-forwards alone, are medians over rounds: below 0.97 with few
dead gates, the crossover is wrong.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

import edgesparse
from bench.make_model import make_model
from bench.model_shapes import SHAPES
from edgesparse.sparsity.speed import measure_saving

__all__ = ["measure"]


def model_path(folder: Path, shape: str, dead: float) -> Path:
    """Make the model if it is not there yet."""
    path = folder / f"{shape}-dead-{dead:g}.gguf"
    if not path.exists():
        # Sizes are what counts; without a squared ReLU there is nothing to skip.
        sizes = replace(SHAPES[shape], activation="relu2", sub_norms=True)
        make_model(path, sizes, "tq2_0", dead_gates=dead)
    return path


def measure(path: Path, threads: int, n_tokens: int, rounds: int) -> dict[str, object]:
    """Compare both ways on one file."""
    with (
        edgesparse.load(path, threads=threads, sparse="off", n_ctx=256) as dense,
        edgesparse.load(path, threads=threads, sparse="auto", n_ctx=256) as sparse,
    ):
        n_text = dense.engine.n_vocab - 256  # the rest are control tokens
        ids = np.random.default_rng(1).integers(0, n_text, 2 * n_tokens).tolist()
        found = measure_saving(dense, sparse, ids, n_tokens=n_tokens, rounds=rounds)
    return {
        "file": path.name,
        "threads": threads,
        "off_tokens_per_s": round(1 / float(np.median(found.dense_s)), 2),
        "auto_tokens_per_s": round(1 / float(np.median(found.sparse_s)), 2),
        "ratio": round(found.measured, 3),
        "feed_forward_off_ms": round(1e3 * float(np.median(found.dense_ffn_s)), 3),
        "feed_forward_auto_ms": round(1e3 * float(np.median(found.sparse_ffn_s)), 3),
        "feed_forward_ratio": round(found.measured_ffn, 3),
        "bytes_ratio": round(found.predicted, 3),
        "auto_mb_per_token": round(found.sparse_total / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of models by --shape and --dead, or one file")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="700m")
    parser.add_argument("--dead", type=float, nargs="+", default=[0.0, 0.2, 0.4, 0.8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--make", action="store_true", help="make the models, measure nothing")
    options = parser.parse_args()
    rows = []
    paths = [options.folder]
    if not options.folder.is_file():
        paths = [model_path(options.folder, options.shape, dead) for dead in options.dead]
    for path in paths:
        for threads in [] if options.make else options.threads:
            rows.append(measure(path, threads, options.tokens, options.rounds))
            print(" ".join(f"{key} {value}" for key, value in rows[-1].items()))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
