"""``edgesparse prune``: set weights to zero where that costs least, and say what it costs."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesparse.cli import options
from edgesparse.cli.own_text import OWN_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from edgesparse.checkpoint import Checkpoint
    from edgesparse.cli.terminal import Terminal
    from edgesparse.compress.prune import MatrixReport, PruneOptions
    from edgesparse.model import Model
    from edgesparse.tokenizer import Tokenizer

__all__ = ["add_arguments", "run"]

_WINDOW = 512
_WINDOWS = 32
"""Windows to learn from, but of the model's own words."""
_HELD_OUT = 4
"""Windows at the end of a text that are scored instead of learned from, if no other is named."""
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
        help=f"pieces of {_WINDOW} tokens to take from it (default: {_WINDOWS}; of the model's own "
        f"words {OWN_WINDOWS})",
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
    from edgesparse.errors import UsageError
    from edgesparse.loading import tensor_names
    from edgesparse.tokenizer import load_tokenizer

    terminal = Terminal(color=not args.no_color)
    source, out = Path(args.model), Path(args.output)
    if _n_windows(args) < 1:
        raise UsageError(f"--windows must be positive, not {args.windows}.")
    with open_checkpoint(source) as checkpoint:
        check_family(checkpoint.get_str("general.architecture"), str(source))
        chosen = _options(args, checkpoint, source, out)
        check_prunable(checkpoint, chosen)
        _check_output(args, source, out, checkpoint)
        config = read_config(checkpoint)
        tokenizer = load_tokenizer(checkpoint)
        size = min(_WINDOW, config.n_ctx)
        text = _text(args, source, out, size, terminal, learns=chosen.needs_text)
        windows, held_out, sha256 = _texts(args, text, tokenizer, size)
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
        marks = {**about, "store": chosen.store.name, "text": sha256, "windows": len(windows)}
        work = Work(out, fingerprint_of(source, marks))
        before = _perplexity(args, source, held_out, terminal, "before")
        reports = _prune(args, checkpoint, config, plan, windows, chosen, work, terminal)
        _write(checkpoint, config, plan, chosen, work, source, out, about, reports)
    after = _perplexity(args, out, held_out, terminal, "after")
    work.remove()
    forget_own_text(out)
    _report(args, terminal, chosen, reports, before, after, out)
    return 0


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


def _n_windows(args: argparse.Namespace) -> int:
    if args.windows is None:
        return OWN_WINDOWS if args.own_text else _WINDOWS
    return int(args.windows)


def _share(args: argparse.Namespace) -> float:
    return 0.5 if args.sparsity is None else float(args.sparsity)


def _check_output(
    args: argparse.Namespace, source: Path, out: Path, checkpoint: Checkpoint
) -> None:
    from edgesparse.errors import UsageError

    if out.exists() and out.resolve() == source.resolve():
        raise UsageError("IN and OUT are the same.")
    if out.exists() and not args.yes:
        raise UsageError(f"{out} exists.", advice="Add -y to replace it.")
    if out.exists() and out.is_dir() != (out.suffix != ".gguf"):
        raise UsageError(f"{out} is {'a folder' if out.is_dir() else 'a file'}.")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out.absolute().parent}: no such folder.")


def _text(
    args: argparse.Namespace,
    source: Path,
    out: Path,
    size: int,
    terminal: Terminal,
    *,
    learns: bool,
) -> str:
    """Return the text to learn from; the model writes none that nothing is learned from."""
    is_scored = not args.no_evaluate and args.evaluate is None
    if not args.own_text or not (learns or is_scored):
        from edgesparse.sample_text import sample_text

        return sample_text() if args.file is None else options.read_prompt_file(args.file)
    from edgesparse.cli.own_text import written_by

    held_out = _HELD_OUT if is_scored else 0
    n_tokens = (_n_windows(args) + held_out) * size
    with _load(args, source) as model:
        return written_by(model, source, out, n_tokens, terminal)


def _texts(
    args: argparse.Namespace, text: str, tokenizer: Tokenizer, size: int
) -> tuple[list[npt.NDArray[np.int32]], npt.NDArray[np.int32], str]:
    """Return windows to learn from, tokens to score, and the hash of the first text."""
    import hashlib

    import numpy as np

    from edgesparse.errors import UsageError

    ids = np.asarray(tokenizer.encode(text, add_special=True), np.int32)
    if args.evaluate is not None:
        other = options.read_prompt_file(args.evaluate).removesuffix("\n")
        held_out = np.asarray(tokenizer.encode(other, add_special=True), np.int32)
    elif args.no_evaluate:
        held_out = ids[:0]
    else:
        ids, held_out = ids[: -_HELD_OUT * size], ids[-_HELD_OUT * size :]
    if len(ids) < size:
        raise UsageError(
            f"the text has {len(ids)} tokens to learn from; at least {size} are needed.",
            advice="Take a longer text.",
        )
    count = min(_n_windows(args), len(ids) // size)
    starts = np.linspace(0, len(ids) - size, count).astype(int)
    return (
        [ids[start : start + size] for start in starts],
        held_out,
        hashlib.sha256(text.encode()).hexdigest(),
    )


def _prune(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    config: Any,
    plan: Any,
    windows: Sequence[npt.NDArray[np.int32]],
    chosen: PruneOptions,
    work: Any,
    terminal: Terminal,
) -> list[MatrixReport]:
    from edgesparse.cancel import CancelToken
    from edgesparse.cli.interrupt import cancel_on_interrupt
    from edgesparse.compress.prune import prune_model
    from edgesparse.errors import Cancelled

    if work.n_found and not args.quiet:
        terminal.note(f"{work.n_found} matrices are finished already")
    began: dict[str, float] = {}

    def progress(stage: str, done: int, of: int) -> None:
        started = began.setdefault(stage, time.monotonic())
        left = (time.monotonic() - started) / max(1, done - 1) * (of - done) if done > 1 else None
        bar = "█" * round(20 * done / of) + "░" * (20 - round(20 * done / of))
        clock = "" if left is None else f", {int(left) // 60}:{int(left) % 60:02d} left"
        terminal.progress(f"{stage} {bar} layer {done} of {of}{clock}")

    token = CancelToken()
    try:
        with cancel_on_interrupt(token):
            return prune_model(
                *(checkpoint, config, plan, windows, chosen, work), progress=progress, cancel=token
            )
    except Cancelled:
        raise Cancelled(
            "stopped; what is finished is kept.", advice="The same command goes on from there."
        ) from None
    finally:
        terminal.progress("")


def _write(
    checkpoint: Checkpoint,
    config: Any,
    plan: Any,
    chosen: PruneOptions,
    work: Any,
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
    from edgesparse.perplexity import windows

    with _load(args, path) as model:
        value = 0.0
        for estimate in windows(model, ids, min(_WINDOW, model.engine.n_ctx)):
            value = estimate.perplexity
            done = f"{estimate.n_windows} of {estimate.of_windows}"
            terminal.progress(f"perplexity {when}: window {done}")
    terminal.progress("")
    return value


def _load(args: argparse.Namespace, path: Path) -> Model:
    from edgesparse import _native
    from edgesparse.load_model import load

    executor = "native" if _native.available() else "portable"
    return load(path, threads=args.threads, executor=executor, head="exact")


def _report(
    args: argparse.Namespace,
    terminal: Terminal,
    chosen: PruneOptions,
    reports: Sequence[MatrixReport],
    before: float | None,
    after: float | None,
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
            f"perplexity of text that was left out: {before:.4f} before, {after:.4f} after "
            f"({after / before - 1:+.1%})\n"
        )
    terminal.write(f"{out} written, {n_bytes / 1e6:.1f} MB\n")
    if chosen.pattern.sparsity >= _RISKY and not args.quiet:
        terminal.note(
            f"without training afterwards, {chosen.pattern.sparsity:.0%} is more than models "
            "usually bear: look at what this one says"
        )
