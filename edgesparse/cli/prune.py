"""``edgesparse prune``: set weights to zero where that costs least, and say what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesparse.cli import calibration
from edgesparse.cli.own_text import OWN_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from edgesparse.checkpoint import Checkpoint
    from edgesparse.cli.terminal import Terminal
    from edgesparse.compress.prune import MatrixReport, PruneOptions
    from edgesparse.compress.work import Work
    from edgesparse.config import ModelConfig
    from edgesparse.plan.plan import Plan

__all__ = ["add_arguments", "run"]

_RISKY = 0.6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    parser.add_argument("model", metavar="IN", help="file or folder of a dense model")
    parser.add_argument(
        "output", metavar="OUT", help="a .gguf file, or a folder of sparse-bitmask safetensors"
    )
    parser.add_argument("-y", "--yes", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--method",
        choices=("magnitude", "wanda", "sparsegpt"),
        default="sparsegpt",
        help="magnitude: the smallest weights; wanda: those that the text uses least; sparsegpt "
        "(default): likewise, and the others make up for them",
    )
    share = parser.add_mutually_exclusive_group()
    share.add_argument(
        "--sparsity", type=float, metavar="S", help="share of weights that become 0 (default: 0.5)"
    )
    share.add_argument(
        "--pattern", metavar="N:M", help="keep N of every M neighbouring inputs, such as 2:4, 4:8"
    )
    parser.add_argument(
        "--owl",
        action="store_true",
        help="let layers with many outliers keep more; may help from 0.7 on",
    )
    parser.add_argument(
        "--store",
        choices=("f16", "bf16", "int8", "int4"),
        help="how a .gguf holds the weights that are left: float (default: f16), or rounded to 8.5 "
        "or 4.5 bits, which sparsegpt takes into account",
    )
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "-f", "--file", metavar="TEXT", help="text to learn from; '-' for stdin (default: Python's)"
    )
    text.add_argument(
        "--own-text",
        action="store_true",
        help="learn from what the model says of its own accord: slower, and better on other texts",
    )
    parser.add_argument(
        "--windows",
        type=int,
        metavar="N",
        help=f"pieces of {calibration.WINDOW} tokens to take from it (default: "
        f"{calibration.WINDOWS}; of the model's own words {OWN_WINDOWS})",
    )
    parser.add_argument(
        "-e",
        "--evaluate",
        metavar="TEXT",
        help="text whose perplexity is printed (default: the end of the first, which is left out)",
    )
    parser.add_argument(
        "--no-evaluate", action="store_true", help="do not measure perplexity before and after"
    )
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="for measuring perplexity")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Prune, write, report; return the exit code."""
    from edgesparse.architectures import build_plan, check_family
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.cli.terminal import Terminal
    from edgesparse.compress.own_text import forget_own_text
    from edgesparse.compress.prune import check_prunable
    from edgesparse.compress.work import Work, fingerprint_of
    from edgesparse.config import read_config
    from edgesparse.errors import EdgesparseError
    from edgesparse.loading import tensor_names
    from edgesparse.tokenizer import load_tokenizer
    from edgesparse.whole_file import require_output

    terminal = Terminal(color=not args.no_color)
    source, out = Path(args.model), Path(args.output)
    calibration.check_arguments(args)
    with open_checkpoint(source) as checkpoint:
        check_family(checkpoint.get_str("general.architecture"), str(source))
        chosen = _options(args, checkpoint, source, out)
        names = check_prunable(checkpoint, chosen)
        require_output(out, source, replace=args.yes, as_folder=out.suffix != ".gguf")
        config = read_config(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        size = min(calibration.WINDOW, config.n_ctx)
        texts = calibration.read(args, source, out, tokenizer, size, terminal, chosen.needs_text)
        plan = build_plan(
            config,
            tensor_names(checkpoint),
            n_ctx=size,
            max_tokens=size,
            fused=False,
            sparse=False,
            path=str(source),
        )
        about = {
            "method": chosen.method,
            "pattern": str(chosen.pattern) if chosen.pattern.is_structured else "unstructured",
            "sparsity": chosen.pattern.sparsity,
            "owl": chosen.owl,
        }
        marks = {
            **about,
            "store": chosen.store.name,
            "text": texts.sha256,
            "windows": len(texts.windows),
        }
        with Work(out, fingerprint_of(source, marks)) as work:
            for said in () if args.quiet else work.notes(names):
                terminal.note(said)
            before = _perplexity(args, source, texts.held_out, terminal, "before")
            try:
                reports = _prune(checkpoint, config, plan, texts.windows, chosen, work, terminal)
                _write(checkpoint, config, plan, chosen, work, source, out, about, reports)
            except OSError as error:
                why = error.strerror or error
                raise EdgesparseError(
                    f"{out} cannot be written ({why}); what is finished is kept.",
                    advice="The same command goes on from there.",
                ) from error
            work.remove()
        n_before = checkpoint.n_bytes
    forget_own_text(out)
    after, code = None, 0
    try:
        after = _perplexity(args, out, texts.held_out, terminal, "after")
    except KeyboardInterrupt:  # the file stands, and what was done is worth saying
        code = 130
    _report(args, terminal, chosen, reports, before, after, n_before, out)
    return code


def _options(
    args: argparse.Namespace, checkpoint: Checkpoint, source: Path, out: Path
) -> PruneOptions:
    from edgesparse.checkpoint.names import is_projection
    from edgesparse.compress.patterns import Pattern
    from edgesparse.compress.prune import PruneOptions
    from edgesparse.compress.store import STORES
    from edgesparse.errors import UsageError

    pattern = Pattern.parse(args.pattern) if args.pattern else Pattern(_share(args))
    if out.suffix == ".gguf":
        return PruneOptions(args.method, pattern, STORES[args.store or "f16"], args.owl)
    if checkpoint.kind != "safetensors" or not source.is_dir():
        raise UsageError(
            f"{out}: a folder is made of a Hugging Face folder, whose tokenizer it takes over.",
            advice="Name an output that ends in .gguf.",
        )
    types = {checkpoint.info(name).type.name for name in checkpoint.tensors if is_projection(name)}
    if len(types) != 1 or not types <= {"F32", "F16", "BF16"}:
        raise UsageError(
            f"{source}: its matrices are {', '.join(sorted(types))}; sparse-bitmask folders are "
            "made of floats of one type.",
            advice="Name an output that ends in .gguf.",
        )
    kind = types.pop().lower()
    if args.store not in (None, kind):
        raise UsageError(
            f"--store {args.store} is for .gguf; a folder keeps the type of IN, {kind}.",
        )
    return PruneOptions(args.method, pattern, STORES[kind], args.owl)


def _share(args: argparse.Namespace) -> float:
    return 0.5 if args.sparsity is None else float(args.sparsity)


def _prune(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    windows: Sequence[npt.NDArray[np.int32]],
    chosen: PruneOptions,
    work: Work,
    terminal: Terminal,
) -> list[MatrixReport]:
    from edgesparse.cancel import CancelToken
    from edgesparse.cli.interrupt import cancel_on_interrupt
    from edgesparse.cli.progress import Progress
    from edgesparse.compress.prune import prune_model

    stages: dict[str, Progress] = {}

    def progress(stage: str, done: float, of: int) -> None:
        stages.setdefault(stage, Progress(terminal, stage, "layer")).show(done, of)

    token = CancelToken()
    try:
        with cancel_on_interrupt(token):
            return prune_model(
                *(checkpoint, config, plan, windows, chosen, work), progress=progress, cancel=token
            )
    finally:
        terminal.progress("")


def _write(
    checkpoint: Checkpoint,
    config: ModelConfig,
    plan: Plan,
    chosen: PruneOptions,
    work: Work,
    source: Path,
    out: Path,
    about: dict[str, Any],
    reports: Sequence[MatrixReport],
) -> None:
    from edgesparse.compress.gguf_pruned import write_pruned_gguf
    from edgesparse.compress.hf_bitmask import write_folder

    if out.suffix == ".gguf":
        write_pruned_gguf(out, checkpoint, config, plan, chosen.store, work, about)
        return
    pattern = str(about["pattern"])
    write_folder(*(source, out, config.architecture, work), _sparsity(reports), pattern)


def _sparsity(reports: Sequence[MatrixReport]) -> float:
    return sum(r.n_zeros for r in reports) / sum(r.shape[0] * r.shape[1] for r in reports)


def _perplexity(
    args: argparse.Namespace,
    path: Path,
    ids: npt.NDArray[np.int32],
    terminal: Terminal,
    when: str,
) -> float | None:
    if args.no_evaluate:
        return None
    from edgesparse.cli.progress import Progress
    from edgesparse.perplexity import windows

    progress = Progress(terminal, f"perplexity {when}", "window")
    try:
        with calibration.load(args, path) as model:
            value = 0.0
            for estimate in windows(model, ids, min(calibration.WINDOW, model.engine.n_ctx)):
                value = estimate.perplexity
                progress.show(estimate.n_windows, estimate.of_windows)
    finally:
        progress.clear()
    return value


def _report(
    args: argparse.Namespace,
    terminal: Terminal,
    chosen: PruneOptions,
    reports: Sequence[MatrixReport],
    before: float | None,
    after: float | None,
    n_before: int,
    out: Path,
) -> None:
    from edgesparse.compress.report import prune_rows, prune_table

    sparsity = _sparsity(reports)
    n_bytes = sum(p.stat().st_size for p in out.iterdir()) if out.is_dir() else out.stat().st_size
    if args.json:
        import json

        found = {
            "output": str(out),
            "n_bytes": n_bytes,
            "n_bytes_before": n_before,
            "method": chosen.method,
            "pattern": str(chosen.pattern),
            "store": chosen.store.name,
            "owl": chosen.owl,
            "sparsity": sparsity,
            "perplexity_before": before,
            "perplexity_after": after,
            "layers": prune_rows(reports),
        }
        terminal.write(json.dumps(found) + "\n")
        return
    terminal.write(prune_table(reports, of_text=chosen.needs_text))
    terminal.write(
        f"{chosen.method}, {chosen.pattern}{', OWL' if chosen.owl else ''}: {sparsity:.2%} of the "
        f"weights of all layers are 0, the others {chosen.store.name}\n"
    )
    if before is not None and after is not None:
        terminal.write(
            f"perplexity of {args.evaluate or 'text that was left out'}: {before:.4f} before, "
            f"{after:.4f} after "
            f"({after / before - 1:+.1%})\n"
        )
    terminal.write(f"{out} written, {n_bytes / 1e6:.1f} MB, {n_before / 1e6:.1f} MB before\n")
    if n_bytes > n_before and chosen.store.is_float and out.suffix == ".gguf" and not args.quiet:
        terminal.note("larger, for zeros take room in floats: --store int4 or int8 is smaller")
    if chosen.pattern.sparsity >= _RISKY and not args.quiet:
        terminal.note(
            f"without training afterwards, {chosen.pattern.sparsity:.0%} is more than models "
            "usually bear: look at what this one says"
        )
