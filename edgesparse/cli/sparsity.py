"""``edgesparse sparsity``: how many activations are zero, and what skipping them saves."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.cli.terminal import Terminal
    from edgesparse.model import Model
    from edgesparse.sparsity.alpha_table import AlphaTable
    from edgesparse.sparsity.speed import Saving
    from edgesparse.sparsity.statistics import LayerStatistics

__all__ = ["add_arguments", "run"]

_WINDOW = 512


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument("-f", "--file", metavar="TEXT", help="text to run; '-' for stdin")
    parser.add_argument(
        "--tokens", type=int, default=2048, metavar="N", help="tokens to use (default: 2048)"
    )
    parser.add_argument(
        "--alpha",
        metavar="A[,A...]",
        help="judge the sign predictor at this alpha, where a ReLU makes zeros (default: 1); "
        "several (0.98,1,1.03,1.1) make a table of precision, recall, bytes and perplexity",
    )
    parser.add_argument(
        "--plot", metavar="FILE.png", help="draw the shares of zeros by layer, and several alphas"
    )
    parser.add_argument(
        "--no-measure", action="store_true", help="do not decode with and without skipping"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")
    options.add_engine(parser, predict=False)


def run(args: argparse.Namespace) -> int:
    """Print the report; return the exit code."""
    import json
    import os

    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError
    from edgesparse.sparsity.report import (
        alpha_lines,
        alpha_rows,
        require_matplotlib,
        save_plot,
        sparsity_rows,
        sparsity_table,
    )
    from edgesparse.sparsity.statistics import collect
    from edgesparse.whole_file import require_writable

    if args.file is None:
        raise UsageError("there is no text.", advice="Name one with -f FILE, or -f - for stdin.")
    if args.tokens < 1:
        raise UsageError(f"--tokens must be positive, not {args.tokens}.")
    alphas = _alphas("1" if args.alpha is None else args.alpha)
    if len(alphas) > 1 and args.sparse == "off":
        raise UsageError(
            "with --sparse off no gate is predicted, so several alphas have no perplexity.",
            advice="Leave --sparse out: decoding is measured with and without it all the same.",
        )
    if args.plot:
        require_writable(args.plot)
        require_matplotlib()
    text = options.read_prompt_file(args.file)
    terminal = Terminal(color=not args.no_color)
    with loading.load_model(argparse.Namespace(**{**vars(args), "fused": False})) as model:
        makes_zeros = model.config.glu.makes_zeros
        if args.alpha is not None and not (makes_zeros and model.config.experts is None):
            raise UsageError(
                "--alpha judges the sign predictor, which is for dense models with a ReLU.",
                advice="Leave it out: the other shares are shown for every model.",
            )
        ids = model.tokenize(text, add_special=True)
        layers = collect(model, ids, max_tokens=args.tokens)
        table = _predictor(model, ids, alphas, args.tokens, terminal) if makes_zeros else None
        name, quality = model.info.name, model.info.quality
    skips = makes_zeros or args.sparsity is not None
    unmeasured = _why_not(args, skips)
    saving, expected = _saving(args, ids, layers) if not unmeasured else (None, [])
    rows = sparsity_rows(layers, table.rows[0].layers if table else {}, saving, expected)
    several = table if table and len(alphas) > 1 else None
    by_alpha = alpha_rows(several) if several else []
    summary = _summary(saving, expected) | {"model": name, "quality": quality, "alpha": alphas[0]}
    if args.output == "json":
        found: dict[str, Any] = {"layers": rows, "summary": summary}
        if several:
            summary["dense_perplexity"] = several.dense_perplexity
            found["alphas"] = by_alpha
        terminal.write(json.dumps(found) + "\n")
    else:
        words = alpha_lines(several) if several else ""
        said = words + _words(saving, expected, unmeasured)
        terminal.write(f"{sparsity_table(rows)}{said}quality: {quality}\n")
    if args.plot:
        save_plot(rows, args.plot, f"{name} on {os.path.basename(args.file)}", by_alpha)
    return 0


def _alphas(text: str) -> list[float]:
    from edgesparse.errors import UsageError
    from edgesparse.sparsity.alphas import ALPHA_ONE, MAX_ALPHA

    most = MAX_ALPHA // ALPHA_ONE
    alphas = []
    for part in text.split(","):
        try:
            alphas.append(float(part))
        except ValueError:
            alphas.append(-1.0)
        if not 0 <= alphas[-1] <= most:
            raise UsageError(
                f"--alpha takes numbers in [0, {most}], separated by commas, not {part.strip()!r}."
            )
    return list(dict.fromkeys(alphas))


def _predictor(
    model: Model, ids: list[int], alphas: list[float], n_tokens: int, terminal: Terminal
) -> AlphaTable | None:
    from edgesparse.sparsity.alpha_table import compare_alphas

    if model.config.experts is not None:
        return None
    return compare_alphas(
        model,
        ids[:n_tokens],
        alphas,
        n_judged=_WINDOW,
        n_ctx=_WINDOW,
        scored=len(alphas) > 1,
        progress=terminal.progress,
    )


def _why_not(args: argparse.Namespace, skips: bool) -> str:
    """Say why decoding with and without skipping is not measured; empty where it is."""
    from edgesparse.checkpoint.opening import is_packed
    from edgesparse.default_model import default_model_path

    if not skips:
        return "no ReLU: no gate is exactly 0 and skipped"
    if args.no_measure or args.executor != "native":
        return "not measured"
    if is_packed(loading.model_path(args) or default_model_path()):
        return "not measured: a pre-packed file has one way of decoding; name what it was made of"
    return ""


def _saving(
    args: argparse.Namespace, ids: list[int], layers: list[LayerStatistics]
) -> tuple[Saving, list[float]]:
    from edgesparse.sparsity.expected import expected_bytes
    from edgesparse.sparsity.speed import measure_saving

    def loaded(**changes: object) -> Model:
        return loading.load_model(argparse.Namespace(**{**vars(args), "quiet": True, **changes}))

    with loaded(sparse="off", sparsity=None) as dense, loaded(sparse="auto") as sparse:
        saving = measure_saving(dense, sparse, ids)
        # The zeros that were counted are those of the model, not those that thresholds make.
        return saving, [] if args.sparsity else expected_bytes(sparse, layers).tolist()


def _summary(saving: Saving | None, expected: list[float]) -> dict[str, Any]:
    if saving is None:
        return {}
    bytes_expected = {"layer_bytes_expected": round(sum(expected))} if expected else {}
    return {
        "dense_bytes_per_token": saving.dense_total,
        "sparse_bytes_per_token": saving.sparse_total,
        "layer_bytes_read": round(float(saving.sparse_bytes.sum())),
        **bytes_expected,
        "predicted_speed_up": saving.predicted,
        "measured_speed_up": saving.measured,
        "measured_feed_forward_speed_up": saving.measured_ffn,
        "dense_s_per_token": saving.dense_s,
        "sparse_s_per_token": saving.sparse_s,
    }


def _words(saving: Saving | None, expected: list[float], unmeasured: str) -> str:
    if saving is None:
        return f"skipping: {unmeasured}\n"
    bytes_ = f"{saving.dense_total / 1e6:.1f} MB per token become {saving.sparse_total / 1e6:.1f}"
    read = float(saving.sparse_bytes.sum())
    price = "exact: the bits are the same" if expected else "lossy: small inputs count as 0"
    lines = (
        f"decoding {saving.n_tokens} tokens with and without skipping, "
        f"{len(saving.dense_s)} rounds in turn:\n"
        f"{bytes_} MB: {saving.predicted:.2f} times as fast if time were bytes, "
        f"{saving.measured:.2f} times measured ({price}), the feed-forwards alone "
        f"{saving.measured_ffn:.2f}\n"
    )
    if not expected:
        return lines
    return lines + (
        f"layers read {read / 1e6:.2f} MB; the cost model, from the zeros of the whole text, "
        f"expects {sum(expected) / 1e6:.2f} ({sum(expected) / read - 1:+.1%})\n"
    )
