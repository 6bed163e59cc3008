"""Choices between equally exact ways of computing, made by measuring once on this machine.

A topic is a question that has one answer for each instruction set and number of threads: which
ternary format, say. ``edgesparse tune`` measures the candidates for a few seconds and keeps the
answers in the user's cache; loading a model only reads them, which takes a millisecond. Where
nothing was measured, or the cache cannot be read, every topic has a default: nothing needs the
cache, and results have the same bits either way.

The file is JSON, ``$XDG_CACHE_HOME/edgesparse/tuning-<machine>.json``::

    {"schema": 1,
     "machine": {"cpu": "…", "features": ["avx2", …], "version": "0.1.0"},
     "choices": {"ternary": {"avx2/2": {"value": "t2", "seconds": {"t2": 1e-3, "t5": 2e-3}}}}}

The name ends in a digest of ``machine``, so that machines may share a home directory and a new
version measures anew. A value is a word or a number; what a topic does not accept counts as not
measured. A new topic is one more entry in `edgesparse.tuning_topics.TOPICS`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from edgesparse import column_share
from edgesparse.column_share import COLUMN_TOPICS
from edgesparse.formats.sparse_cost import RATE_TOPICS, SparseCost, usual_cost
from edgesparse.formats.weight import Format
from edgesparse.lookup import SLICE_TOPICS, shown
from edgesparse.whole_file import replace_file

__all__ = [
    "Answer",
    "Value",
    "cache_file",
    "default_of",
    "forget",
    "lookup",
    "preferred_ternary",
    "remember",
    "sparse_cost",
    "trouble",
]

SCHEMA = 1
MAX_FILE_BYTES = 1 << 18
MARGIN = 0.05
"""A candidate replaces the default only when it is faster by this share: less is noise."""

Value = str | float

DEFAULTS: dict[str, Value] = {"ternary": "t2", **SLICE_TOPICS, **COLUMN_TOPICS, **RATE_TOPICS}
"""What counts where nothing was measured, by topic."""

WORDS = {"ternary": ("t2", "t5", "bst")}
"""Values of topics that are words; numbers are 0 or more."""

PREDICTED: dict[tuple[str, str], dict[str, Value]] = {
    ("neon", "Cortex-A72"): {"ternary": "t5", "read": 5.5},
    ("neondot", "Cortex-A76"): {"ternary": "t5", "read": 11.4},
}
"""Defaults by instruction set and core, from counted instructions and published bandwidths of a
Raspberry Pi 4 and 5 (bench/arm/README.md): memory is so slow beside these cores that the smaller
format wins although it takes longer to unpack."""


@dataclass(frozen=True)
class Answer:
    """What is in force for a topic.

    Attributes
    ----------
    topic : str
    isa : str
    threads : int
        Threads for which it was asked.
    value : str or float
    seconds : mapping of str to float
        Measured candidates; empty for a default.
    measured_threads : int
        Threads that it was measured with; 0 for a default.
    predicted_for : str
        Core whose instructions were counted for this default, or empty.
    """

    topic: str
    isa: str
    threads: int
    value: Value
    seconds: Mapping[str, float] = field(default_factory=dict)
    measured_threads: int = 0
    predicted_for: str = ""

    @property
    def choice(self) -> str:
        """The value in words."""
        if self.topic in RATE_TOPICS:
            return f"{self.value:.3g}" if self.value else "usual rates"
        if self.topic in COLUMN_TOPICS:
            return column_share.shown(float(self.value))
        return shown(self.value) if isinstance(self.value, float) else self.value

    @property
    def reason(self) -> str:
        """Why it is in force, for people."""
        if not self.measured_threads and self.predicted_for:
            return f"predicted for {self.predicted_for}; 'edgesparse tune' measures"
        if not self.measured_threads:
            return "default; 'edgesparse tune' measures what is faster here"
        times = ", ".join(f"{name} {1e3 * s:.3g} ms" for name, s in sorted(self.seconds.items()))
        return f"measured with {counted(self.measured_threads, 'thread')}: {times}"


def counted(n: int, what: str) -> str:
    """Say how many there are of something."""
    return f"{n} {what}{'s' * (n != 1)}"


def preferred_ternary(isa: str, threads: int) -> Format:
    """Return `Format.T2`, `Format.T5` or `Format.BST`: the fastest as far as known, else T2."""
    known = {"t5": Format.T5, "bst": Format.BST}
    return known.get(str(lookup("ternary", isa, threads).value), Format.T2)


def sparse_cost(isa: str, threads: int) -> SparseCost:
    """Give the rates of dense and bitmap kernels: measured where all are, else usual ones."""
    answers = {topic: lookup(topic, isa, threads) for topic in RATE_TOPICS}
    rates = {
        topic: float(a.value) * threads / max(1, a.measured_threads) for topic, a in answers.items()
    }
    if all(a.measured_threads and a.value for a in answers.values()):
        return SparseCost(rates.pop("read"), rates, measured=True)
    from edgesparse import _native
    from edgesparse.executors.native import isa_names

    name = _native.lib().es_kernel_variant(isa_names()[isa], b"bmp8")
    usual = usual_cost(_native.ffi().string(name).decode(), threads)
    read = answers["read"]
    return replace(usual, read=float(read.value)) if read.predicted_for else usual


def lookup(topic: str, isa: str, threads: int) -> Answer:
    """Say what is in force; never fails, and measures nothing.

    Of several measurements on this instruction set, that with the nearest number of threads counts.
    """
    default, core = default_of(topic, isa)
    found: list[tuple[int, int, Answer]] = []
    for key, entry in _choices().get(topic, {}).items():
        name, _, count = key.partition("/")
        if name != isa or not count.isdecimal() or not 1 <= int(count) <= 1024:
            continue
        value, seconds = _checked(entry, topic, default)
        if value is not None:
            answer = Answer(topic, isa, threads, value, seconds, int(count))
            found.append((abs(int(count) - threads), int(count), answer))
    if found:
        return min(found, key=lambda each: each[:2])[2]
    return Answer(topic, isa, threads, default, predicted_for=core)


def default_of(topic: str, isa: str) -> tuple[Value, str]:
    """Return what counts where nothing was measured, and the core it was predicted for, if any."""
    core = _core()
    predicted = PREDICTED.get((isa, core), {})
    return (predicted[topic], core) if topic in predicted else (DEFAULTS[topic], "")


def remember(answers: list[Answer]) -> Path | None:
    """Add answers to the cache; return the file, or None where it cannot be written."""
    path = cache_file()
    if path is None:
        return None
    # As they are now: another process may have measured meanwhile.
    choices = {topic: dict(entries) for topic, entries in _read()[0].items()}
    for a in answers:
        entry = {"value": a.value, "seconds": dict(a.seconds)}
        choices.setdefault(a.topic, {})[f"{a.isa}/{a.measured_threads}"] = entry
    text = json.dumps({"schema": SCHEMA, "machine": _machine(), "choices": choices}, indent=1)
    written = path if _write(path, text + "\n") else None
    _choices.cache_clear()
    return written


def forget() -> None:
    """Delete this machine's file."""
    path = cache_file()
    if path is not None:
        with contextlib.suppress(OSError):
            path.unlink()
    _choices.cache_clear()


def cache_file() -> Path | None:
    """Where answers for this machine are kept; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:
        return None
    digest = zlib.crc32(json.dumps(_machine(), sort_keys=True).encode())  # hashlib loads OpenSSL
    return folder / "edgesparse" / f"tuning-{digest:08x}.json"


@cache
def _core() -> str:
    from edgesparse.machine import arm_core

    return arm_core()


@cache
def _machine() -> dict[str, Any]:
    import edgesparse
    from edgesparse.machine import cpu_features, cpu_name

    return {
        "cpu": cpu_name(),
        "features": list(cpu_features()),
        "version": edgesparse.__version__,
    }


def trouble() -> str:
    """Say why answers that are kept do not count, or nothing where all is well or none are."""
    problem = _read()[1]
    return f"{cache_file()}: {problem}; 'edgesparse tune' writes it anew" if problem else ""


@cache
def _choices() -> dict[str, dict[str, Any]]:
    """Read the file once."""
    return _read()[0]


def _read() -> tuple[dict[str, dict[str, Any]], str]:
    """Read the file; where it is not as it should be it counts as absent, and the reason is told.

    An entry that is not as it should be goes alone, in silence: it may be a newer version's.
    """
    path = cache_file()
    try:
        if path is None or path.stat().st_size > MAX_FILE_BYTES:
            return {}, "" if path is None else f"longer than {MAX_FILE_BYTES >> 10} KiB"
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError):
        return {}, "not JSON"
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return {}, "not in the layout of this version"
    if content.get("machine") != _machine():
        return {}, "made on another machine"
    choices = content.get("choices")
    if not isinstance(choices, dict):
        return {}, "without choices"
    found = {t: each for t, each in choices.items() if t in DEFAULTS and isinstance(each, dict)}
    return found, ""


def _checked(entry: object, topic: str, default: Value) -> tuple[Value | None, dict[str, float]]:
    """Take an entry apart; None instead of a value that the topic does not have."""
    if not isinstance(entry, dict):
        return None, {}
    value, times = entry.get("value"), entry.get("seconds")
    if isinstance(default, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None, {}
        value = float(value)
    if isinstance(value, float):
        accepted = isinstance(default, float) and 0 <= value < math.inf
    else:
        accepted = isinstance(value, str) and value in WORDS.get(topic, ())
    if not accepted:
        return None, {}
    seconds = {
        name: float(s)
        for name, s in (times.items() if isinstance(times, dict) else ())
        if isinstance(s, (int, float)) and not isinstance(s, bool) and 0 < s < math.inf
    }
    return value, seconds


def _write(path: Path, text: str) -> bool:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(path, text)
    except OSError:
        return False
    return True
