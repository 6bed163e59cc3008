"""``edgesparse inspect``: what is in a model file, and what the engine makes of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.checkpoint import Checkpoint
    from edgesparse.engine import Engine
    from edgesparse.formats.weight import Weight

__all__ = ["add_arguments", "run"]

_MAX_VALUE = 100
"""Characters of a metadata value that are shown; long ones are templates and vocabularies."""
_ROWS = 4096
"""Rows unpacked at a time when zeros are counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument("--tensors", action="store_true", help="one line for every tensor")
    parser.add_argument(
        "--costs",
        action="store_true",
        help="what each matrix that is not ternary would cost a token, dense and without zeros",
    )
    parser.add_argument("--metadata", action="store_true", help="keys and values of the header")
    parser.add_argument("--template", action="store_true", help="the chat template")
    parser.add_argument(
        "--no-load", action="store_true", help="only what the file says; load no weights"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")
    options.add_engine(parser)


def run(args: argparse.Namespace) -> int:
    """Print the description; return the exit code."""
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.checkpoint.opening import is_packed
    from edgesparse.cli.terminal import Terminal
    from edgesparse.default_model import default_model_path
    from edgesparse.native_choices import ternary_reason
    from edgesparse.tokenizer import load_tokenizer

    path = loading.model_path(args) or default_model_path()
    weights: dict[str, Weight] = {}
    engine: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    stored_bytes = 0
    if not args.no_load:
        model = loading.load_model(argparse.Namespace(**{**vars(args), "quiet": True}))
        weights = dict(model.parameters.weights)
        running = model.engine
        stored_bytes, warnings = model.info.weight_bytes, model.info.warnings
        engine = {
            "activation": model.config.activation,
            "executor": running.executor_name,
            "n_threads": running.n_threads,
            "n_ctx": running.n_ctx,
            "head": model.info.head,
            "quality": model.info.quality,
            "memory": model.info.memory.to_dict() if model.info.memory else {},
            "memory_text": model.info.memory.describe() if model.info.memory else "",
            "ternary": ternary_reason(
                args.ternary,
                {weight.format for weight in weights.values()},
                packed=is_packed(path),
                isa=getattr(running.executor, "isa", ""),
                n_threads=running.n_threads,
            ),
            "kernels": _kernels(running, weights.values()),
        }
        if args.costs:
            engine["predictions"] = _predictions(running, weights.values())
    with open_checkpoint(path) as checkpoint:
        tokenizer = load_tokenizer(checkpoint)
        data: dict[str, Any] = {
            "path": checkpoint.path,
            "container": checkpoint.kind,
            "file_bytes": checkpoint.n_bytes,
            "architecture": str(checkpoint.metadata.get("general.architecture", "")),
            "name": str(checkpoint.metadata.get("general.name", "")),
            "n_parameters": sum(t.n_rows * t.n_cols for t in checkpoint.tensors.values()),
            "stored_bytes": stored_bytes,
            "engine": engine,
            "tokenizer": {
                "kind": tokenizer.kind,
                "pre": tokenizer.pre,
                "n_vocab": tokenizer.n_vocab,
                "bos_id": tokenizer.bos_id,
                "eos_id": tokenizer.eos_id,
                "end_of_generation": sorted(tokenizer.eog_ids),
                "add_bos": tokenizer.add_bos,
                "template": tokenizer.template_source,
            },
            "warnings": list(dict.fromkeys([*checkpoint.warnings, *tokenizer.warnings, *warnings])),
            "metadata": {key: _plain(value) for key, value in checkpoint.metadata.items()},
            "tensors": _tensors(checkpoint, weights, zeros=args.tensors or args.output == "json"),
        }
    terminal = Terminal(color=not args.no_color)
    if args.output == "json":
        import json

        terminal.write(json.dumps(data, indent=2) + "\n")
        return 0
    parts = [_summary(data), _types(data["tensors"])]
    if "predictions" in engine:
        parts.append(_prediction_table(engine["predictions"]))
    if args.metadata:
        rows = ((key, _short(value)) for key, value in data["metadata"].items())
        parts.append(_table(("key", "value"), rows))
    if args.tensors:
        parts.append(_tensor_table(data["tensors"]))
    if args.template:
        parts.append(tokenizer.chat_template or f"built-in template: {tokenizer.template_source}")
    parts += [f"warning: {warning}" for warning in data["warnings"]]
    terminal.write("\n\n".join(parts) + "\n")
    return 0


def _kernels(engine: Engine, weights: Iterable[Weight]) -> dict[str, str]:
    """Say how bit slices are multiplied; other formats have one kind of kernel."""
    from edgesparse.executors.native import NativeExecutor
    from edgesparse.lookup import kernel_lines

    executor = engine.executor
    if not isinstance(executor, NativeExecutor):
        return {}
    return kernel_lines(weights, executor.isa, engine.n_threads)


def _predictions(engine: Engine, weights: Iterable[Weight]) -> dict[str, Any]:
    from edgesparse.cli.costs import break_even, cost_of, predictions

    cost = cost_of(engine)
    return {
        "measured": cost.measured,
        "read_gb_per_s": cost.read,
        "gweights_per_s": dict(cost.rates),
        "break_even": break_even(cost),
        "tensors": predictions(weights, cost),
    }


def _prediction_table(data: dict[str, Any]) -> str:
    names = ("q8", "bmp8", "nm8", "q4", "bmp4", "nm4", "csr")
    rows = (
        (
            row["tensor"],
            row["format"],
            f"{100 * row['zeros']:.1f} %",
            *(
                f"{row['us'][name]:.1f} µs, {_size(row['bytes'][name])}"
                if name in row["us"]
                else "not 2:4"
                for name in names
            ),
            ", ".join(row["taken"]),
        )
        for row in data["tensors"]
    )
    rates = ", ".join(f"{name} {data['gweights_per_s'][name]:.3g}" for name in names)
    source = "measured by 'edgesparse tune'" if data["measured"] else "usual ones, not measured"
    said = (
        f"predicted from {data['read_gb_per_s']:.3g} GB/s and 10⁹ weights a second: "
        f"{rates} ({source})"
    )
    table = _table(("tensor", "stored as", "zeros", *names, "taken"), rows)
    pays = [
        f"{row['format']} over {row['over']}: smaller {_from(row['smaller'])}, "
        f"faster {_from(row['faster'])}"
        for row in data["break_even"]
    ]
    lines = [said, "zeros from which on leaving them out pays here:", *pays, table]
    return "\n".join(lines)


def _from(share: float | None) -> str:
    return "never" if share is None else f"from {share:.0%}"


def _tensors(
    checkpoint: Checkpoint, weights: dict[str, Weight], *, zeros: bool
) -> list[dict[str, Any]]:
    rows = []
    for name, info in checkpoint.tensors.items():
        row: dict[str, Any] = {
            "name": name,
            "shape": list(info.shape),
            "type": info.type.name,
            "file_bytes": info.n_bytes,
        }
        weight = weights.get(name)
        if weight is not None:
            row |= {"format": weight.format.name, "bytes": weight.n_bytes, "note": weight.note}
            if zeros and (weight.format.is_ternary or weight.format.is_sparse):
                row["zero_fraction"] = _zero_fraction(weight)
        rows.append(row)
    return rows


def _zero_fraction(weight: Weight) -> float:
    import numpy as np

    from edgesparse.formats.ternary import unpack_ternary
    from edgesparse.formats.without_zeros import zero_share

    if weight.format.is_sparse:
        return zero_share(weight)
    n_zeros = 0
    for begin in range(0, weight.n_rows, _ROWS):
        chosen = np.arange(begin, min(begin + _ROWS, weight.n_rows))
        codes = unpack_ternary(weight, chosen)
        n_zeros += codes.size - int(np.count_nonzero(codes))
    return n_zeros / (weight.n_rows * weight.k)


def _summary(data: dict[str, Any]) -> str:
    engine, tokenizer = data["engine"], data["tokenizer"]
    rows = [
        ("file", f"{data['path']} ({data['container']}, {_size(data['file_bytes'])})"),
        ("model", f"{data['name'] or 'unnamed'}, {data['n_parameters'] / 1e6:.1f} M parameters"),
        ("architecture", data["architecture"]),
        (
            "tokenizer",
            f"{tokenizer['kind']} {tokenizer['pre']}, {tokenizer['n_vocab']} tokens, "
            f"template: {tokenizer['template']}",
        ),
    ]
    if engine:
        rows.append(("activation", engine["activation"]))
        rows.append(("in memory", f"{_size(data['stored_bytes'])} of weights"))
        rows.append(
            (
                "engine",
                f"{engine['executor']}, threads: {engine['n_threads']}, context {engine['n_ctx']}",
            )
        )
        rows += [("head", engine["head"]), ("quality", engine["quality"])]
        if engine["ternary"]:
            rows.append(("ternary", engine["ternary"]))
        rows.append(("memory", engine["memory_text"]))
        rows += engine["kernels"].items()
    if pruned := _pruned(data["tensors"]):
        rows.append(("pruned", pruned))
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _pruned(tensors: list[dict[str, Any]]) -> str:
    """Say what became of the zeros of pruned matrices: where one was stored, what was noted."""
    said = []
    for mark in ("zeros left out", "zeros, stored"):
        notes = [tensor["note"] for tensor in tensors if mark in tensor.get("note", "")]
        if notes:
            said.append(f"{len(notes)} matrices, the first: {notes[0]}")
    return "; ".join(said)


def _types(tensors: list[dict[str, Any]]) -> str:
    groups: dict[tuple[str, str], list[int]] = {}
    for tensor in tensors:
        # Vectors (norms, biases) are not stored in a weight format: they stay float32.
        key = (tensor["type"], tensor.get("format", ""))
        sums = groups.setdefault(key, [0, 0, 0])
        sums[0] += 1
        sums[1] += tensor["file_bytes"]
        sums[2] += tensor.get("bytes", 0)
    rows = (
        (kind, str(count), _size(in_file), fmt or "–", _size(stored) if stored else "–")
        for (kind, fmt), (count, in_file, stored) in groups.items()
    )
    return _table(("type in file", "tensors", "in file", "stored as", "in memory"), rows)


def _tensor_table(tensors: list[dict[str, Any]]) -> str:
    rows = (
        (
            tensor["name"],
            " × ".join(map(str, tensor["shape"])),
            tensor["type"],
            tensor.get("format", "–"),
            _size(tensor.get("bytes", tensor["file_bytes"])),
            f"{100 * tensor['zero_fraction']:.1f} %" if "zero_fraction" in tensor else "",
            tensor.get("note", ""),
        )
        for tensor in tensors
    )
    return _table(("tensor", "shape", "in file", "stored as", "bytes", "zeros", "note"), rows)


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [tuple(head), *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _plain(value: Any) -> Any:
    """Make a metadata value fit for JSON; arrays become their length and first elements."""
    if isinstance(value, (bool, int, float, str)):
        return value
    head = [item.item() if hasattr(item, "item") else item for item in value[:4]]
    return {"length": len(value), "first": head}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}… ({len(text)} characters)"


def _size(n_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes} B"
