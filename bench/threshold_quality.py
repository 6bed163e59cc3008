"""Perplexity of a model whose small activations are ignored, by method, allocation and sparsity.

    python -m bench.threshold_quality MODEL CALIBRATION.txt EVALUATION.txt [--tokens 1024]

Thresholds come from the first text, perplexity from the second: windows of 512 tokens, the second
half scored, everything from position 16 on sparsified.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import edgesparse
from edgesparse.perplexity import perplexity
from edgesparse.sparsity.apply import thresholded
from edgesparse.sparsity.calibrate import calibrate_thresholds, teal_thresholds
from edgesparse.sparsity.fingerprint import fingerprint
from edgesparse.sparsity.passes import windows_of
from edgesparse.sparsity.teal import greedy_shares, input_histograms
from edgesparse.sparsity.thresholds import DENSE_TOKENS, Thresholds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("calibration", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.25, 0.4, 0.5])
    args = parser.parse_args()
    with edgesparse.load(args.model, n_ctx=512, head="exact", fused=False) as model:
        ids = model.tokenize(args.calibration.read_text(), add_special=True)
        text = model.tokenize(args.evaluation.read_text().removesuffix("\n"), add_special=True)

        def report(method: str, share: float, thresholds: Thresholds | None) -> None:
            if thresholds is None:
                found = perplexity(model, text, 512)
            else:
                with thresholded(model, thresholds):
                    found = perplexity(model, text, 512)
            row = {"method": method, "sparsity": share, "perplexity": round(found.perplexity, 4)}
            print(json.dumps(row | {"scored": found.n_scored}), flush=True)

        report("dense", 0.0, None)
        windows = windows_of(model, ids, max_tokens=args.tokens, least=128)
        histograms = input_histograms(model, windows, DENSE_TOKENS)
        name = fingerprint(model.config, model.parameters.vectors)
        for share in args.sparsity:
            uniform = teal_thresholds(name, share, histograms, dict.fromkeys(histograms, share))
            report("teal uniform", share, uniform)
            for method in ("cats", "chess"):
                made = calibrate_thresholds(
                    model, ids, method=method, sparsity=share, max_tokens=args.tokens
                )
                report(method, share, made)
        begin = time.perf_counter()
        found = greedy_shares(model, windows, histograms, sorted(args.sparsity), DENSE_TOKENS)
        print(json.dumps({"greedy_seconds": round(time.perf_counter() - begin, 1)}), flush=True)
        for share, shares in zip(sorted(args.sparsity), found, strict=True):
            report("teal greedy", share, teal_thresholds(name, share, histograms, shares))
            for kind in ("qkv", "attn_output", "gate_up", "down"):
                each = [v for op, v in shares.items() if op.endswith("." + kind)]
                print(json.dumps({"op": kind, "mean": round(sum(each) / len(each), 3)}))


if __name__ == "__main__":
    main()
