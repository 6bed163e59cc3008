"""``edgesparse quantize``: write a model with its matrices in few bits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgesparse.cli import options
from edgesparse.cli.own_text import OWN_WINDOWS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgesparse.compress.quantize import MatrixReport
    from edgesparse.model import Model

__all__ = ["add_arguments", "run"]

_WINDOW = 512
_TOKENS, _OWN_TOKENS = 32 * _WINDOW, OWN_WINDOWS * _WINDOW
"""Tokens to calibrate on, and of the model's own words, which are of more kinds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    parser.add_argument("input", metavar="IN", help="a dense model: a GGUF file or a folder")
    parser.add_argument("output", metavar="OUT", help="the GGUF file to write")
    parser.add_argument(
        "type",
        metavar="TYPE",
        help="w1 to w4 with _g32, _g64, _g128 or _row (w4_g128: 4 bits, groups of 128 columns), "
        "q8_0, q4_0, q4_1, or t2 for a model that was trained ternary",
    )
    parser.add_argument(
        "--method",
        choices=("rtn", "gptq"),
        default="rtn",
        help="round to the nearest, or spread errors by a text, which takes minutes (w1 to w4)",
    )
    parser.add_argument(
        "--outliers",
        default="0",
        metavar="SHARE",
        help="keep this share of every matrix, such as 0.5%%, in a sparse side matrix of 8 bits: "
        "the largest numbers, with gptq times the size of their inputs (default: none)",
    )
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "-f",
        "--file",
        metavar="TEXT",
        help="gptq: text to calibrate on (default: help topics of Python)",
    )
    text.add_argument(
        "--own-text",
        action="store_true",
        help="gptq: calibrate on what the model says of its own accord: slower, and better on "
        "other texts",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help=f"gptq: tokens of it to use (default: {_TOKENS}; of the model's own words "
        f"{_OWN_TOKENS})",
    )
    parser.add_argument(
        "-e",
        "--evaluate",
        metavar="TEXT",
        help="text for the perplexity before and after (default: help topics that are not "
        "calibrated on)",
    )
    parser.add_argument(
        "--windows",
        type=int,
        default=8,
        metavar="N",
        help="pieces of 512 tokens of it, 0: no perplexity (default: 8)",
    )
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: auto)")
    parser.add_argument(
        "-y", "--yes", action="store_true", help="replace OUT; do what makes little sense"
    )


def run(args: argparse.Namespace) -> int:
    """Quantise, write, print what it cost; return the exit code."""
    from pathlib import Path

    import edgesparse
    from edgesparse.cancel import CancelToken
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.cli.interrupt import cancel_on_interrupt
    from edgesparse.cli.own_text import written_by
    from edgesparse.cli.progress import Progress
    from edgesparse.cli.terminal import Terminal
    from edgesparse.compress.outliers import parse_share
    from edgesparse.compress.own_text import forget_own_text
    from edgesparse.compress.quantize import check_quantizable, quantize_model
    from edgesparse.compress.target import Target
    from edgesparse.compress.work import Work, fingerprint_of
    from edgesparse.errors import ModelFormatError, UsageError
    from edgesparse.whole_file import require_output

    target, outliers = Target.parse(args.type), parse_share(args.outliers)
    source, output = Path(args.input), Path(args.output)
    if output.suffix != ".gguf":
        raise UsageError(f"{output}: what is written is a GGUF file.", advice="Name it *.gguf.")
    require_output(output, source, replace=args.yes)
    n_tokens = args.tokens
    if n_tokens is None:
        n_tokens = _OWN_TOKENS if args.own_text else _TOKENS
    if n_tokens < _WINDOW or args.windows < 0:
        raise UsageError(f"--tokens must be at least {_WINDOW}, --windows not negative.")
    terminal = Terminal(color=not args.no_color)
    calibration, evaluation = _texts(args)
    with edgesparse.load(source, threads=args.threads, fused=False) as model:
        warning = check_quantizable(
            *(model.config, target, args.method, str(source)), outliers=outliers
        )
        if warning and not args.yes:
            raise UsageError(f"{warning}.", advice="Add -y to do it all the same.")
        if args.own_text and args.method == "gptq":
            calibration = written_by(model, source, output, n_tokens, terminal)
        before = _scores(model, evaluation, args.windows)
        windows = _windows(model, calibration, n_tokens) if args.method == "gptq" else []
        config, plan = model.config, model.engine.plan
    if windows:
        terminal.note(f"calibrating on {sum(map(len, windows))} tokens")
    settings = {"type": target.name, "method": args.method, "tokens": n_tokens}
    settings |= {"outliers": str(outliers)}
    marks = fingerprint_of(source, {**settings, "text": calibration})
    progress, token = Progress(terminal, "quantise", "layer"), CancelToken()
    with (
        Work(output, marks) as work,
        open_checkpoint(source) as checkpoint,
        cancel_on_interrupt(token),
    ):
        for said in work.notes(checkpoint.tensors):
            terminal.note(said)
        try:
            reports, n_bytes = quantize_model(
                *(checkpoint, config, plan, output, target, work),
                method=args.method,
                outliers=outliers,
                windows=windows,
                progress=progress.show,
                cancel=token,
            )
        except (ModelFormatError, UsageError):
            work.remove()  # the next run would end the same way
            forget_own_text(output)
            raise
        finally:
            progress.clear()
        n_before = checkpoint.n_bytes
        work.remove()
    forget_own_text(output)
    terminal.write(_table(reports))
    terminal.write(f"{output}: {n_bytes / 1e6:.1f} MB, {n_before / 1e6:.1f} MB before\n")
    if before:
        with edgesparse.load(output, threads=args.threads) as model:
            after = _scores(model, evaluation, args.windows)
        terminal.write(_compared(before, after))
    return 0


def _texts(args: argparse.Namespace) -> tuple[str, str]:
    """Return the text to calibrate on and the one to evaluate on."""
    from edgesparse.sample_text import sample_text

    calibration = "" if args.file is None else options.read_prompt_file(args.file)
    evaluation = "" if args.evaluate is None else options.read_prompt_file(args.evaluate)
    if (args.method == "gptq" and not calibration) or (args.windows and not evaluation):
        sample = sample_text()
        half = len(sample) // 2
        calibration = calibration or sample[:half]
        evaluation = evaluation or sample[half:]
    return calibration, evaluation


def _windows(model: Model, text: str, n_tokens: int) -> list[npt.NDArray[np.int32]]:
    from edgesparse.sparsity.passes import windows_of

    ids = model.tokenize(text, add_special=True)
    found = windows_of(model, ids, max_tokens=n_tokens, least=_WINDOW // 2)
    return [window.tokens for window in found]


def _scores(model: Model, text: str, n_windows: int) -> list[float]:
    """Return the mean negative log-likelihood of every window, in nats per token."""
    from edgesparse.perplexity import windows

    if n_windows == 0:
        return []
    # Four characters and more to a token: so much is enough, and quick to cut into tokens.
    ids = model.tokenize(text[: n_windows * _WINDOW * 8], add_special=True)
    n_ctx = min(_WINDOW, model.engine.n_ctx)
    scores, total = [], 0.0
    for n, estimate in enumerate(windows(model, ids, n_ctx, max_windows=n_windows), 1):
        scores.append(n * estimate.nll - total)  # windows have equally many tokens
        total = n * estimate.nll
    return scores


def _compared(before: list[float], after: list[float]) -> str:
    """Say what became of the perplexity, and how far the windows agree about that."""
    import math
    from statistics import fmean, stdev

    rises = [b - a for a, b in zip(before, after, strict=True)]
    spread = f" ± {stdev(rises) / math.sqrt(len(rises)):.4f}" if len(rises) > 1 else ""
    return (
        f"perplexity {math.exp(fmean(before)):.4f} before, {math.exp(fmean(after)):.4f} after: "
        f"{fmean(rises):+.4f}{spread} nats per token, {len(rises)} windows\n"
    )


def _table(reports: list[MatrixReport]) -> str:
    """Lay the matrices out by layer."""
    layers: dict[str, list[MatrixReport]] = {}
    for report in reports:
        layers.setdefault(".".join(report.name.split(".")[:2]), []).append(report)
    lines = [f"{'layer':<10}{'MB':>8}{'mean error':>12}{'largest':>10}"]
    for layer, found in layers.items():
        worst = max(found, key=lambda report: report.error)
        mean = sum(report.error for report in found) / len(found)
        size = sum(report.n_bytes for report in found) / 1e6
        name = worst.name.split(".")[2]
        lines.append(f"{layer:<10}{size:>8.2f}{mean:>12.5f}{worst.error:>10.5f}  {name}")
    return "\n".join(lines) + "\n"
