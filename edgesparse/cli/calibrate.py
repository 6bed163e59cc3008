"""``edgesparse calibrate``: from a model and a text to a calibration file, with its price."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.cli.terminal import Terminal
    from edgesparse.model import Model
    from edgesparse.sparsity import SparseInferTable, Thresholds

__all__ = ["add_arguments", "run"]

_WINDOW = 512
_UNUSED = {
    "teal": ("recall",),
    "cats": ("recall", "allocation"),
    "chess": ("recall", "allocation"),
    "sparseinfer": ("sparsity", "allocation", "dense_tokens"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument("-f", "--file", metavar="TEXT", help="text to calibrate on; '-' for stdin")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="no text: convert thresholds of another project, a folder of TEAL's histograms or the "
        ".pt file of CHESS (--method chess or cats)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="calibration file to write")
    parser.add_argument(
        "--method",
        choices=("teal", "cats", "chess", "sparseinfer"),
        default="teal",
        help="teal (default): ignore small inputs of every matrix; cats, chess: prune neurons by "
        "their gate; sparseinfer: predict which gates of a ReLU are dead, from signs",
    )
    parser.add_argument(
        "--sparsity",
        type=float,
        metavar="P",
        help="share to be ignored, for teal, cats and chess (default: 0.4, or what the name of a "
        "file of CHESS says)",
    )
    parser.add_argument(
        "--allocation",
        choices=("greedy", "uniform"),
        help="teal: spread the share so that layers' outputs move least, which takes minutes, or "
        "take it everywhere (default: greedy)",
    )
    parser.add_argument(
        "--recall",
        type=float,
        metavar="R",
        help="sparseinfer: share of live gates to be kept in every layer (default: 0.99)",
    )
    parser.add_argument(
        "--dense-tokens",
        type=int,
        metavar="N",
        help="tokens at the start of a sequence that are never sparsified (default: 16)",
    )
    parser.add_argument(
        "--tokens", type=int, default=2048, metavar="N", help="tokens to use (default: 2048)"
    )
    parser.add_argument(
        "-e",
        "--evaluate",
        metavar="TEXT",
        help="print perplexity on this other text, with and without; thresholds hold in prompts, "
        "too, here, unlike in 'edgesparse perplexity'",
    )
    options.add_engine(parser, thresholds=False, predict=False)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write the file, print what it does; return the exit code."""
    import hashlib

    from edgesparse.cli.terminal import Terminal
    from edgesparse.errors import UsageError
    from edgesparse.whole_file import require_writable

    if args.file is None and args.source is None:
        raise UsageError("there is no text.", advice="Name one with -f FILE, or -f - for stdin.")
    if args.output is None:
        raise UsageError("there is no file to write.", advice="Name one with -o FILE.")
    for name in (*_UNUSED[args.method], *(() if args.source is None else ("allocation",))):
        if getattr(args, name) is not None:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} has no meaning here, with --method {args.method}.")
    if args.method == "sparseinfer" and args.evaluate is not None and args.sparse == "off":
        raise UsageError(
            "with --sparse off no gate is predicted, so -e has nothing to compare.",
            advice="Leave one of them out.",
        )
    require_writable(args.output)
    if args.source is not None:
        return _import(args)
    if args.tokens < 1:
        raise UsageError(f"--tokens must be positive, not {args.tokens}.")
    text = options.read_prompt_file(args.file)
    other = None if args.evaluate is None else options.read_prompt_file(args.evaluate)
    terminal = Terminal(color=not args.no_color)
    with loading.load_model(
        argparse.Namespace(**{**vars(args), "fused": False, "sparsity": None})
    ) as model:
        ids = model.tokenize(text, add_special=True)
        scored = None if other is None else _scored(model, other)
        made = _calibrate(model, ids, args, hashlib.sha256(text.encode()).hexdigest(), terminal)
        made.save(args.output)
        terminal.write(_table(made) + _bytes(model, made))
        if scored is not None:
            terminal.write(_price(model, made, scored))
    terminal.write(f"{args.output} written\n")
    return 0


def _import(args: argparse.Namespace) -> int:
    """Convert another project's thresholds; the model's sizes and norms are enough for that."""
    from edgesparse.architectures import build_plan, check_family
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.cli.terminal import Terminal
    from edgesparse.config import read_config
    from edgesparse.default_model import default_model_path
    from edgesparse.errors import UsageError
    from edgesparse.loading import load_vectors, tensor_names
    from edgesparse.sparsity.fingerprint import fingerprint
    from edgesparse.sparsity.foreign import import_thresholds
    from edgesparse.sparsity.thresholds import DENSE_TOKENS

    if args.file is not None or args.evaluate is not None:
        raise UsageError("--from needs no text.", advice="Leave out -f and -e.")
    path = loading.model_path(args) or default_model_path()
    with open_checkpoint(path, i2s_layout=args.i2s_layout) as checkpoint:
        check_family(checkpoint.get_str("general.architecture"), str(path))
        config = read_config(checkpoint)
        plan = build_plan(config, tensor_names(checkpoint), n_ctx=1, max_tokens=1, path=str(path))
        print_of = fingerprint(config, load_vectors(checkpoint, plan))
    made = import_thresholds(
        args.source,
        config,
        print_of,
        method=args.method,
        sparsity=args.sparsity,
        dense_tokens=DENSE_TOKENS if args.dense_tokens is None else args.dense_tokens,
    )
    made.check(print_of, plan, args.source)
    made.save(args.output)
    terminal = Terminal(color=not args.no_color)
    terminal.write(_table(made))
    terminal.write(f"{args.output} written\n")
    return 0


def _calibrate(
    model: Model, ids: list[int], args: argparse.Namespace, sha256: str, terminal: Terminal
) -> Thresholds | SparseInferTable:
    from edgesparse.sparsity.calibrate import calibrate_thresholds
    from edgesparse.sparsity.sparseinfer import calibrate_alphas
    from edgesparse.sparsity.thresholds import DENSE_TOKENS

    if args.method == "sparseinfer":
        return calibrate_alphas(
            *(model, ids),
            recall=0.99 if args.recall is None else args.recall,
            max_tokens=args.tokens,
            text_sha256=sha256,
        )
    found = calibrate_thresholds(
        model,
        ids,
        method=args.method,
        sparsity=0.4 if args.sparsity is None else args.sparsity,
        allocation="greedy" if args.allocation is None else args.allocation,
        max_tokens=args.tokens,
        dense_tokens=DENSE_TOKENS if args.dense_tokens is None else args.dense_tokens,
        text_sha256=sha256,
        progress=lambda done, of: terminal.progress(f"layer {done} of {of}"),
    )
    terminal.progress("")
    return found


def _table(made: Any) -> str:
    from edgesparse.sparsity import SparseInferTable

    if isinstance(made, SparseInferTable):
        lines = [f"{'op':<20}{'alpha':>8}{'live kept':>11}{'dead dropped':>14}{'skipped':>9}"]
        lines += [
            f"{name:<20}{alpha / 1e4:>8.4f}{made.kept[name]:>11.2%}{made.dropped[name]:>14.1%}"
            f"{made.skipped[name]:>9.1%}"
            for name, alpha in made.alphas.items()
        ]
        return "\n".join(lines) + "\n"
    lines = [f"{'op':<20}{'threshold':>12}{'ignored':>9}"]
    for name, entry in made.thresholds.items():
        shown = f"{entry:.5g}" if isinstance(entry, float) else "by channel"
        achieved = f"{made.achieved[name]:.1%}" if name in made.achieved else "?"
        lines.append(f"{name:<20}{shown:>12}{achieved:>9}")
    return "\n".join(lines) + "\n"


def _bytes(model: Model, made: Any) -> str:
    """Say whether predicting saves more bytes than it reads, as loading will judge."""
    from edgesparse.sparsity import SparseInferTable
    from edgesparse.sparsity.predictor import predictor_cost

    if not isinstance(made, SparseInferTable):
        return ""
    cost = predictor_cost(model.engine.plan, model.parameters.weights, made, reloaded=True)
    verdict = "which pays" if cost.pays else "which does not pay: --predict wants --predict-force"
    return (
        f"prediction reads {cost.sign_bytes / 1e6:.2f} MB of signs per token to save "
        f"{cost.saved_bytes / 1e6:.2f} MB of {cost.gate_bytes / 1e6:.2f} MB of gates, {verdict}\n"
    )


def _scored(model: Model, text: str) -> list[int]:
    """Return the tokens of the text to judge on, which must be long enough for that."""
    from edgesparse.perplexity import require_windows

    ids = model.tokenize(text.removesuffix("\n"), add_special=True)
    require_windows(model, len(ids), min(_WINDOW, model.engine.n_ctx))
    return ids


def _price(model: Model, made: Any, ids: list[int]) -> str:
    from edgesparse.perplexity import perplexity
    from edgesparse.sparsity import SparseInferTable
    from edgesparse.sparsity.apply import predicted, thresholded

    n_ctx = min(_WINDOW, model.engine.n_ctx)
    dense = perplexity(model, ids, n_ctx)
    is_table = isinstance(made, SparseInferTable)
    with predicted(model, made) if is_table else thresholded(model, made):
        sparse = perplexity(model, ids, n_ctx)
    where = "" if is_table else f" from position {made.dense_tokens} on, prompts too"
    return (
        f"perplexity of {dense.n_scored} tokens: {dense.perplexity:.4f} dense, "
        f"{sparse.perplexity:.4f} with it{where} "
        f"({sparse.perplexity / dense.perplexity - 1:+.1%})\n"
    )
