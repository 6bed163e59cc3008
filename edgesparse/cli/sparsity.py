"""``edgesparse sparsity``: how many activations are zero, and what skipping them saves."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.model import Model
    from edgesparse.sparsity.sparseinfer import Outcome
    from edgesparse.sparsity.speed import Saving

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
        type=float,
        default=1.0,
        metavar="A",
        help="judge the sign predictor at this alpha, where a ReLU makes zeros (default: 1)",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw the shares of zeros by layer")
    parser.add_argument(
        "--no-measure", action="store_true", help="do not decode with and without skipping"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the report; return the exit code."""
    import json
    import os

    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError
    from edgesparse.sparsity.report import save_plot, sparsity_rows, sparsity_table
    from edgesparse.sparsity.statistics import collect

    if args.file is None:
        raise UsageError("there is no text.", advice="Name one with -f FILE, or -f - for stdin.")
    if args.tokens < 1:
        raise UsageError(f"--tokens must be positive, not {args.tokens}.")
    if args.predict is not None:
        raise UsageError("--predict and sparsity exclude each other.", advice="See --alpha.")
    text = options.read_prompt_file(args.file)
    with loading.load_model(argparse.Namespace(**{**vars(args), "fused": False})) as model:
        ids = model.tokenize(text, add_special=True)
        layers = collect(model, ids, max_tokens=args.tokens)
        outcomes = _outcomes(model, ids, args)
        name, quality = model.info.name, model.info.quality
        makes_zeros = model.config.glu.makes_zeros
    measured = makes_zeros and args.executor == "native" and not args.no_measure
    saving = _saving(args, ids) if measured else None
    rows = sparsity_rows(layers, outcomes, saving)
    summary = _summary(saving) | {"model": name, "quality": quality, "alpha": args.alpha}
    terminal = Terminal(color=not args.no_color)
    if args.output == "json":
        terminal.write(json.dumps({"layers": rows, "summary": summary}) + "\n")
    else:
        terminal.write(sparsity_table(rows) + _words(saving, makes_zeros))
    if args.plot:
        save_plot(rows, args.plot, f"{name} on {os.path.basename(args.file)}")
    return 0


def _outcomes(model: Model, ids: list[int], args: argparse.Namespace) -> dict[str, Outcome]:
    from edgesparse.errors import UsageError
    from edgesparse.sparsity.alphas import ALPHA_ONE, MAX_ALPHA
    from edgesparse.sparsity.sparseinfer import collect_votes, outcome

    if not 0 <= args.alpha <= MAX_ALPHA / ALPHA_ONE:
        raise UsageError(f"--alpha must be in [0, {MAX_ALPHA // ALPHA_ONE}], not {args.alpha}.")
    if not model.config.glu.makes_zeros:
        return {}
    layers = collect_votes(model, ids, max_tokens=min(args.tokens, _WINDOW))
    alpha = round(args.alpha * ALPHA_ONE)
    return {name: outcome(layer, alpha) for name, layer in layers.items()}


def _saving(args: argparse.Namespace, ids: list[int]) -> Saving:
    from edgesparse.sparsity.speed import measure_saving

    def loaded(sparse: str) -> Model:
        changed = {"sparse": sparse, "quiet": True}
        return loading.load_model(argparse.Namespace(**{**vars(args), **changed}))

    with loaded("off") as dense, loaded("auto") as sparse:
        return measure_saving(dense, sparse, ids)


def _summary(saving: Saving | None) -> dict[str, Any]:
    if saving is None:
        return {}
    return {
        "dense_bytes_per_token": saving.dense_total,
        "sparse_bytes_per_token": saving.sparse_total,
        "predicted_speed_up": saving.predicted,
        "measured_speed_up": saving.measured,
        "dense_s_per_token": saving.dense_s,
        "sparse_s_per_token": saving.sparse_s,
    }


def _words(saving: Saving | None, makes_zeros: bool) -> str:
    if saving is None:
        reason = "not measured" if makes_zeros else "no ReLU: no gate is exactly 0 and skipped"
        return f"skipping: {reason}\n"
    bytes_ = f"{saving.dense_total / 1e6:.1f} MB per token become {saving.sparse_total / 1e6:.1f}"
    return (
        f"decoding {saving.n_tokens} tokens with and without skipping, "
        f"{len(saving.dense_s)} rounds in turn:\n"
        f"{bytes_} MB: {saving.predicted:.2f} times as fast if time were bytes, "
        f"{saving.measured:.2f} times measured (exact: the bits are the same)\n"
    )
