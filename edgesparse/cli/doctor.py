"""``edgesparse doctor``: what this machine and this build can do, and which kernels run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgesparse.cli import loading, options

if TYPE_CHECKING:
    from edgesparse.formats.weight import Format

__all__ = ["add_arguments", "run"]

_FAMILIES = (
    *("t2", "t2n", "t5", "signs", "q8", "q4", "q8m", "q4m", "q6", "q8n", "q4n", "q8r", "q4r"),
    *("q8mn", "q4mn", "q8mr", "q4mr", "bmp8", "bmp4", "csr", "nm8", "nm4"),
    *("f16", "bf16", "f32", "lut", "mad", "vector", "attention", "kvsparse"),
)
_PACKAGES = ("numpy", "numba", "llvmlite", "cffi", "tokenizers", "sentencepiece", "gguf", "jinja2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's flags."""
    options.add_model(parser)
    parser.add_argument("--isa", choices=options.ISAS, help="show the kernels of this one")
    options.add_head(parser)
    parser.add_argument(
        "--no-measure", action="store_true", help="do not measure the read bandwidth"
    )
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")
    parser.add_argument("--json", action="store_const", const="json", dest="output")


def run(args: argparse.Namespace) -> int:
    """Print the facts; return 0, or 1 when the native engine is missing."""
    import json

    from edgesparse.cli.terminal import Terminal

    facts = {
        "machine": _machine(),
        "throttle": _throttle(),
        "threads": _threads(),
        "native": _native_facts(args.isa),
        "tuning": _tuning(args.isa),
        "tuning_file": _tuning_file(),
        "packages": _packages(),
        "bandwidth_gb_per_s": {} if args.no_measure else _bandwidth(),
        "model": _model(args),
    }
    terminal = Terminal(color=not args.no_color)
    if args.output == "json":
        terminal.write(json.dumps(facts) + "\n")
    else:
        terminal.write("\n".join(_lines(facts)) + "\n")
    return 0 if facts["native"]["available"] else 1


def _machine() -> dict[str, Any]:
    import dataclasses

    from edgesparse.machine import describe

    return dataclasses.asdict(describe())


def _throttle() -> dict[str, Any]:
    from edgesparse.throttle import read_throttle

    found = read_throttle()
    return {
        "bits": found.bits,
        "now": list(found.now),
        "since_boot": list(found.since_boot),
        "temperatures": found.temperatures,
        "text": found.describe(),
    }


def _threads() -> dict[str, Any]:
    import dataclasses

    from edgesparse.cpus import find_cores

    cores = find_cores()
    return {**dataclasses.asdict(cores), "default": cores.threads, "reason": cores.reason}


def _tuning(isa: str | None) -> dict[str, Any]:
    """Say which of equally exact choices are in force with the default threads, and why."""
    from edgesparse import _native, tuning
    from edgesparse.cpus import default_threads

    if not _native.available():
        return {}
    from edgesparse.executors.native import choose_isa
    from edgesparse.lookup import FORCED, SLICE_TOPICS, forced_tokens, shown

    answers = [
        tuning.lookup(topic, choose_isa(isa), default_threads()) for topic in tuning.DEFAULTS
    ]
    found = {a.topic: {"value": a.value, "choice": a.choice, "reason": a.reason} for a in answers}
    forced = forced_tokens()
    if forced is not None:
        for topic in SLICE_TOPICS:
            found[topic] = {"value": float(forced), "choice": shown(forced), "reason": FORCED}
    return found


def _tuning_file() -> dict[str, str]:
    """Say where answers of 'edgesparse tune' are kept, and why they do not count if so."""
    from edgesparse import tuning

    return {"path": str(tuning.cache_file() or ""), "problem": tuning.trouble()}


def _native_facts(isa: str | None) -> dict[str, Any]:
    from edgesparse import _native

    if not _native.available():
        return {"available": False, "why_not": _native.why_not(), "advice": "executor portable"}
    from edgesparse.executors.native import choose_isa, isa_names

    chosen, names = choose_isa(isa), isa_names()
    lib, ffi = _native.lib(), _native.ffi()
    kernels = {
        family: ffi.string(lib.es_kernel_variant(names[chosen], family.encode())).decode()
        for family in _FAMILIES
    }
    return {
        "available": True,
        "isas": list(names),
        "isa": chosen,
        "reason": _reason(isa),
        "kernels": kernels,
    }


def _reason(isa: str | None) -> str:
    import os

    if isa is not None:
        return "asked for with --isa"
    if os.environ.get("EDGESPARSE_ISA"):
        return "asked for with EDGESPARSE_ISA"
    return "the best that this processor and this build both have"


def _packages() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    import edgesparse

    found = {"edgesparse": edgesparse.__version__}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _bandwidth() -> dict[str, float]:
    from edgesparse.cpus import default_threads
    from edgesparse.machine import read_bandwidth

    counts = sorted({1, default_threads()})
    size = 256 << 20
    return {
        f"{n} threads": round(read_bandwidth(n, bytes_per_thread=size // n).gb_per_s, 1)
        for n in counts
    }


def _model(args: argparse.Namespace) -> dict[str, Any]:
    """Say what is in the model's file and how each type of tensor is stored."""
    from edgesparse.checkpoint import open_checkpoint
    from edgesparse.default_model import default_model_path
    from edgesparse.formats.choose import choose
    from edgesparse.formats.head import head_override
    from edgesparse.loading import tensor_names

    path = loading.model_path(args) or default_model_path()
    ternary = _preferred_ternary(args.isa)
    with open_checkpoint(path) as checkpoint:
        stored: dict[str, dict[str, Any]] = {}
        names = tensor_names(checkpoint)
        head = "output.weight" if "output.weight" in names else "token_embd.weight"
        for info in checkpoint.tensors.values():
            if len(info.shape) != 2 or info.name not in names:
                continue
            if checkpoint.stored is not None:  # packed: as it lies in the file
                record = checkpoint.stored.records[info.name]
                source, fmt, note = record.source, record.format, record.note
            else:
                override = head_override(info, args.head) if info.name == head else None
                choice = choose(info, uniform=True, ternary=ternary, override=override)
                source, fmt, note = info.type.value, choice.format, choice.note
            key = f"{source} → {fmt.name.lower()}"
            row = stored.setdefault(key, {"tensors": 0, "bytes": 0, "note": note})
            row["tensors"] += 1
            row["bytes"] += info.n_bytes
        return {
            "path": str(path),
            "architecture": checkpoint.get_str("general.architecture", ""),
            "bytes": checkpoint.n_bytes,
            "stored_as": stored,
            "warnings": list(checkpoint.warnings),
        }


def _preferred_ternary(isa: str | None) -> Format:
    from edgesparse import _native, tuning
    from edgesparse.cpus import default_threads
    from edgesparse.formats.weight import Format

    if not _native.available():
        return Format.T2
    from edgesparse.executors.native import choose_isa

    return tuning.preferred_ternary(choose_isa(isa), default_threads())


def _lines(facts: dict[str, Any]) -> list[str]:
    machine, native, model = facts["machine"], facts["native"], facts["model"]
    lines = [
        f"processor     {machine['cpu']} ({machine['n_usable_cpus']} usable)",
        f"features      {' '.join(machine['features'])}",
        f"memory        {machine['memory_bytes'] / 1e9:.1f} GB, "
        f"{machine['available_bytes'] / 1e9:.1f} GB available; huge pages: {machine['huge_pages']}",
    ]
    if facts["throttle"]["text"]:
        lines.append(f"throttling    {facts['throttle']['text']}")
    threads = facts["threads"]
    lines.append(f"threads       {threads['default']} by default: {threads['reason']}")
    lines += [f"bandwidth     {n}: {gb} GB/s" for n, gb in facts["bandwidth_gb_per_s"].items()]
    if native["available"]:
        lines.append(f"native        yes; runs {native['isa']}, {native['reason']}")
        lines.append(
            f"              of {', '.join(native['isas'])}; a family without a kernel for it"
        )
        lines.append("              uses the next lower one, all give the same bits:")
        by_variant: dict[str, list[str]] = {}
        for family, variant in native["kernels"].items():
            by_variant.setdefault(variant, []).append(family)
        lines += [f"  {variant:<16}{', '.join(names)}" for variant, names in by_variant.items()]
    else:
        lines.append(f"native        NO: {native['why_not']}; --executor portable works")
    lines += [
        f"{topic:<14}{answer['choice']}: {answer['reason']}"
        for topic, answer in facts["tuning"].items()
    ]
    if facts["tuning_file"]["problem"]:
        lines.append(f"warning       {facts['tuning_file']['problem']}")
    lines.append(f"model         {model['path']}")
    lines.append(f"              {model['architecture']}, {model['bytes'] / 1e6:.1f} MB")
    for key, row in model["stored_as"].items():
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(f"  {row['tensors']:>4} × {key}, {row['bytes'] / 1e6:.1f} MB{note}")
    lines += [f"warning       {text}" for text in model["warnings"]]
    lines.append("packages      " + ", ".join(f"{k} {v}" for k, v in facts["packages"].items()))
    return lines
