"""How far two honest evaluations of the default model lie apart.

    python -m tests.models.noise_floor        # measures; rewrites noise_floor.json

Activations are rounded to int8 in front of every ternary product. A float sum taken in another
order moves an activation across a rounding boundary now and then, and thirty layers amplify that.
So implementations of one rule differ by far more than float32 rounding. This measures by how much:
the decoder of `independent.py` in float64, in float32, in float32 with its channels renumbered
(another order of summation), and the stored oracle, which is a program of its own.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.models import independent

MODEL = Path(__file__).parents[2] / "models" / "smolbit-190m"
TABLE = Path(__file__).with_name("noise_floor.json")


def cases() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((MODEL / "oracle.json").read_text())["cases"]
    return found


def ids_of(case: dict[str, Any]) -> list[int]:
    return [*case["prompt_ids"], *case["greedy_ids"]][: len(case["top5_ids"])]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def summary(case: dict[str, Any], logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the top token and the log-probability of the oracle's top token, per position."""
    top = np.array(case["top5_ids"])[:, 0]
    logprobs = log_softmax(logits)
    return logprobs.argmax(axis=-1), logprobs[np.arange(len(top)), top]


def oracle_summary(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(case["top5_ids"])[:, 0], np.array(case["top5_logprobs"])[:, 0]


def margins(case: dict[str, Any]) -> np.ndarray:
    """Return the oracle's lead of its first token over its second, in nats, per position."""
    logprobs = np.array(case["top5_logprobs"])
    return logprobs[:, 0] - logprobs[:, 1]


Summaries = list[tuple[np.ndarray, np.ndarray]]


def distances(a: Summaries, b: Summaries, lead: np.ndarray) -> dict[str, float]:
    """Compare two evaluations over all positions of all cases."""
    tops = [np.concatenate([s[0] for s in side]) for side in (a, b)]
    moved = np.abs(np.concatenate([s[1] for s in a]) - np.concatenate([s[1] for s in b]))
    unequal = tops[0] != tops[1]
    return {
        "agreement": float(1 - unequal.mean()),
        "median": float(np.median(moved)),
        "p95": float(np.percentile(moved, 95)),
        "max": float(moved.max()),
        "widest_flipped_margin": float(lead[unequal].max(initial=0.0)),
    }


def permuted(net: independent.Net) -> independent.Net:
    """Sum in another order: hidden channels renumbered, which changes nothing but rounding."""
    order = np.random.RandomState(0).permutation(net.width)

    def matrix(name: str) -> tuple[np.ndarray, bool]:
        values, ternary = net.matrix(name)
        stem = name.split(".")[-2]
        if values.ndim == 1:
            wide = stem in ("attn_norm", "ffn_norm", "output_norm")
            return (values[order] if wide else values), ternary
        if stem in ("attn_output", "ffn_down"):
            return values[order], ternary
        return values[:, order], ternary

    return replace(net, matrix=matrix)


def measure() -> dict[str, Any]:
    net = independent.load(next(MODEL.glob("*.gguf")))
    prompts = [ids_of(case) for case in cases()]
    runs = {
        "float64": (net, np.float64),
        "float32": (net, np.float32),
        "float32, other order": (permuted(net), np.float32),
    }
    results = {"oracle": [oracle_summary(case) for case in cases()]}
    for name, (decoder, dtype) in runs.items():
        all_logits = independent.logits(decoder, prompts, dtype, half_cache=False)
        results[name] = [
            summary(case, rows) for case, rows in zip(cases(), all_logits, strict=True)
        ]
    lead = np.concatenate([margins(case) for case in cases()])
    pairs = {
        f"{a} / {b}": distances(results[a], results[b], lead)
        for a, b in itertools.combinations(results, 2)
    }
    return {"positions": len(lead), "pairs": pairs}


def main() -> None:
    table = measure()
    TABLE.write_text(json.dumps(table, indent=1) + "\n")
    for pair, row in table["pairs"].items():
        print(f"{pair:36}", *(f"{key} {value:.4f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
