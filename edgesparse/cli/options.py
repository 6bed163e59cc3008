"""Flags that several verbs share, and their environment variables.

Nothing heavy is imported here: building a parser must cost milliseconds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgesparse.choices import HEADS, WEIGHTS
from edgesparse.errors import UsageError

__all__ = [
    "add_cache_types",
    "add_common",
    "add_engine",
    "add_generation",
    "add_head",
    "add_i2s_layout",
    "add_lut",
    "add_mem_budget",
    "add_model",
    "add_predict",
    "add_sparse",
    "add_ternary",
    "add_thresholds",
    "add_weights",
    "apply_environment",
    "generation_changes",
    "read_prompt_file",
]

EXECUTORS = ("native", "portable", "reference")
SPARSE = ("auto", "off")
CACHE_TYPES = ("f16", "q8_0")
TERNARY = ("auto", "t2", "t5", "bst")
LUT = ("exact", "lossy")
I2S_LAYOUTS = ("auto", "128x32", "64x16", "row4")
ISAS = ("scalar", "avx2", "avxvnni", "avx512vnni", "amx", "neon", "neondot")
_TRUE = frozenset({"1", "on", "enabled", "true", "yes"})
_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_n",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, also as ``-m``."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="file or folder of a model")
    parser.add_argument(
        "-m", "--model", dest="model_flag", metavar="MODEL", help="the same as a flag"
    )


def add_engine(
    parser: argparse.ArgumentParser, *, thresholds: bool = True, predict: bool = True
) -> None:
    """Add the flags that decide how a model is run; the keywords: calibrations among them."""
    group = parser.add_argument_group("engine")
    group.add_argument("-t", "--threads", type=int, metavar="N", help="threads (default: auto)")
    group.add_argument("-tb", "--threads-batch", type=int, metavar="N", help=argparse.SUPPRESS)
    group.add_argument(
        "-c",
        "--ctx-size",
        "--ctx",
        type=int,
        metavar="N",
        help="context in tokens (default: the model's, at most 4096; 0: all of the model's)",
    )
    group.add_argument("--executor", choices=EXECUTORS, default="native", help="default: native")
    group.add_argument("--isa", choices=ISAS, help="force an instruction set")
    add_i2s_layout(group)
    add_sparse(group)
    if thresholds:
        add_thresholds(group)
    if predict:
        add_predict(group)
    add_cache_types(group)
    add_head(group)
    add_ternary(group)
    add_lut(group)
    add_weights(group)
    add_mem_budget(group)
    # Flags of other tools that have nothing to decide here.
    group.add_argument("-ngl", "--n-gpu-layers", help=argparse.SUPPRESS)
    group.add_argument("-fa", "--flash-attn", nargs="?", const="on", help=argparse.SUPPRESS)
    group.add_argument(
        "--mmap",
        action="store_true",
        help="map a file of 'edgesparse convert' instead of reading it: processes share its pages",
    )
    group.add_argument("--no-mmap", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--mlock", action="store_true", help=argparse.SUPPRESS)


def add_i2s_layout(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that says how I2_S tensors are packed, which their file does not."""
    parser.add_argument(
        "--i2s-layout",
        choices=I2S_LAYOUTS,
        default="auto",
        help="packing of I2_S tensors, where the file was made for another processor",
    )


def add_sparse(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that decides whether dead neurons are skipped."""
    parser.add_argument(
        "--sparse",
        choices=SPARSE,
        default="auto",
        help="skip neurons that a ReLU has set to zero; exact (default: auto)",
    )


def add_thresholds(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that names a calibration by thresholds, or the share to be ignored."""
    parser.add_argument(
        "--sparsity",
        metavar="P|FILE",
        help="while generating, ignore this share of activations (0.4, say) or those below the "
        "thresholds of this calibration; lossy",
    )


def add_predict(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flags that let a predictor decide which gates are computed."""
    parser.add_argument(
        "--predict",
        metavar="FILE",
        help="do not compute gates that this file of 'edgesparse calibrate --method sparseinfer' "
        "predicts to be dead; lossy",
    )
    parser.add_argument(
        "--predict-force",
        action="store_true",
        help="predict even where that reads more bytes than it saves",
    )


def add_cache_types(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flags that choose how keys and values are stored."""
    for short, long, what in (
        ("-ctk", "--cache-type-k", "keys"),
        ("-ctv", "--cache-type-v", "values"),
    ):
        parser.add_argument(
            short,
            long,
            choices=CACHE_TYPES,
            default="f16",
            help=f"storage of the cache's {what} (default: f16; q8_0 is half the size and lossy)",
        )
    parser.add_argument(
        "--kv-sparsity",
        type=float,
        default=0.0,
        metavar="S",
        help="drop this share of each key and value beyond the latest positions; lossy "
        "(default: 0; 0.5 takes 69 %% of the memory at 2048 positions, saves none below 600)",
    )


def add_head(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that chooses how the matrix that makes the logits is stored."""
    parser.add_argument(
        "--head",
        choices=HEADS,
        default="auto",
        help="storage of the output matrix: exact is as in the file; auto (default) rounds a "
        "larger one to q8; two-stage adds a 2-bit copy that proposes the candidates of greedy and "
        "top-k sampling (lossy)",
    )


def add_ternary(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that chooses between equally exact storage formats of ternary weights."""
    parser.add_argument(
        "--ternary",
        choices=TERNARY,
        default="auto",
        help="bytes of ternary weights (default auto: what 'edgesparse tune' found, else t2)",
    )


def add_weights(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that chooses how layers that are not ternary are stored."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default="auto",
        help="layers that are not ternary: auto (default) keeps the file's numbers and leaves the "
        "zeros of q8 and q4 out where that is faster; dense stores zeros; q8, q4 round floats; "
        "bmp8, bmp4 round and leave zeros out; so do csr (8 bits, for over 90 %% zeros) and nm8, "
        "nm4 (for 2:4; others stay dense); slices: bit slices wherever they are exact, "
        "blocks: none for GPTQ and AWQ",
    )


def add_lut(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that rounds the tables of bit slices."""
    parser.add_argument(
        "--lut",
        choices=LUT,
        default="exact",
        help="tables of bit slices (bs1 to bs4): exact (default), or lossy, rounded to 8 bits",
    )


def add_mem_budget(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flag that limits the memory of the whole process."""
    parser.add_argument(
        "--mem-budget",
        metavar="SIZE",
        help="with a full context take no more than this (900MB, 1.5GB, 512MiB): first by smaller, "
        "slower storage with the same results, else by refusing before weights are loaded "
        "(default: refuse only what certainly cannot fit)",
    )


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Add the flags that decide how an answer is made."""
    group = parser.add_argument_group(
        "generation", "Defaults are the model's own where it recommends any, else those named here."
    )

    def number(*names: str, kind: type, metavar: str, text: str, dest: str | None = None) -> None:
        extra: dict[str, Any] = {"dest": dest} if dest else {}
        group.add_argument(*names, type=kind, metavar=metavar, help=text, **extra)

    number(
        "-n",
        "--n-predict",
        kind=int,
        metavar="N",
        text="tokens at most (default -1: until the model ends or the context is full)",
        dest="max_tokens",
    )
    number(
        "--temp",
        "--temperature",
        kind=float,
        metavar="T",
        text="temperature (default 0.8; 0: always the most likely token)",
        dest="temperature",
    )
    number("--top-k", kind=int, metavar="K", text="keep the K best (default 40; 0: all)")
    number("--top-p", kind=float, metavar="P", text="keep this much probability (default 0.95)")
    number("--min-p", kind=float, metavar="P", text="relative to the best (default 0.05)")
    number("--repeat-penalty", kind=float, metavar="X", text="default 1.0, which is off")
    number("--repeat-last-n", kind=int, metavar="N", text="tokens that penalties see (default 64)")
    number("--presence-penalty", kind=float, metavar="X", text="default 0")
    number("--frequency-penalty", kind=float, metavar="X", text="default 0")
    number("-s", "--seed", kind=int, metavar="N", text="default -1: random, reported with -v")
    group.add_argument(
        "-r",
        "--stop",
        "--reverse-prompt",
        action="append",
        metavar="TEXT",
        help="end the answer at this text; may be repeated",
    )
    group.add_argument(
        "--no-loop-guard", action="store_true", help="let the answer repeat itself for ever"
    )


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every verb has."""
    group = parser.add_argument_group("output")
    group.add_argument("-v", "--verbose", action="store_true", help="more on stderr")
    group.add_argument("-q", "--quiet", action="store_true", help="no notes on stderr")
    group.add_argument("--no-color", action="store_true", help="also: NO_COLOR=1")
    group.add_argument("--offline", action="store_true", help=argparse.SUPPRESS)
    group.add_argument("--debug", action="store_true", help="errors with their traceback")


def apply_environment(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    """Let ``EDGESPARSE_<FLAG>`` set a long flag's default; the flag itself still wins."""
    for action in parser._actions:
        for flag in action.option_strings:
            name = "EDGESPARSE_" + flag.lstrip("-").replace("-", "_").upper()
            value = environment.get(name, "")
            if not flag.startswith("--") or not value or action.dest == "help":
                continue
            if action.choices is not None and value not in action.choices:
                parser.error(f"{name}: expected one of {', '.join(action.choices)}, not {value!r}")
            if action.nargs == 0:
                action.default = value.lower() in _TRUE
            elif isinstance(action, argparse._AppendAction):
                action.default = [value]
            else:
                action.default = value  # argparse converts and checks strings


def generation_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Give the options that were set on the command line, by their Python names."""
    changes = {name: getattr(args, name) for name in _SAMPLING if getattr(args, name) is not None}
    if args.max_tokens is not None:
        changes["max_tokens"] = args.max_tokens
    if args.stop:
        changes["stop"] = tuple(args.stop)
    if args.no_loop_guard:
        changes["loop_guard"] = False
    return changes


def read_prompt_file(name: str) -> str:
    """Read a prompt from a file, or from stdin for ``-``.

    Raises
    ------
    UsageError
        It cannot be read or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return data.decode()
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8 at byte {error.start}.") from None
