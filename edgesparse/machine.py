"""What this machine is and how fast it reads memory: the ceiling beside every decode speed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from edgesparse import _native
from edgesparse.cpus import usable_cpus
from edgesparse.errors import UsageError

__all__ = [
    "Bandwidth",
    "Machine",
    "arm_core",
    "cpu_features",
    "cpu_name",
    "describe",
    "memory_bytes",
    "read_bandwidth",
    "usable_cpus",
]

MIN_BANDWIDTH_BYTES = 64 << 20
"""Bytes per thread that a bandwidth run reads at least: beyond private caches everywhere."""

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_BOARD = Path("/proc/device-tree/model")
_FEATURES = (
    *("sse4_1", "ssse3", "avx", "avx2", "fma", "f16c", "bmi2", "avx_vnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_vbmi", "avx512_bf16"),
    *("amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)
_ARM_LTD = "0x41"
_ARM_PARTS = {
    **{"0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72"},
    **{"0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse-N1"},
    **{"0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0xd49": "Neoverse-N2"},
}
"""Part numbers of Arm's own cores, as /proc/cpuinfo has them (Main ID Register)."""


@dataclass(frozen=True)
class Bandwidth:
    """A measured sequential read speed.

    Attributes
    ----------
    gb_per_s : float
        10⁹ bytes per second, all threads together, best of the repeats.
    n_threads : int
    bytes_per_thread : int
    method : str
        ``native`` (the engine's own prefetching loop) or ``numpy`` (no compiled module: a
        maximum over an array, which may stay below what the memory can do).
    """

    gb_per_s: float
    n_threads: int
    bytes_per_thread: int
    method: str


@dataclass(frozen=True)
class Machine:
    """Facts about the computer, as far as the system tells them; 0 or empty where it does not."""

    cpu: str
    architecture: str
    system: str
    features: tuple[str, ...]
    n_cpus: int
    n_usable_cpus: int
    memory_bytes: int
    available_bytes: int
    page_bytes: int
    huge_pages: str


def describe() -> Machine:
    """Collect the facts about this machine."""
    total, available = memory_bytes()
    return Machine(
        cpu=cpu_name(),
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        features=cpu_features(),
        n_cpus=os.cpu_count() or 1,
        n_usable_cpus=usable_cpus(),
        memory_bytes=total,
        available_bytes=available,
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        huge_pages=_huge_pages(),
    )


def cpu_name() -> str:
    """Name the processor, and the board where the system knows it (a Raspberry Pi does)."""
    name = _cpuinfo("model name") or arm_core() or _cpuinfo("Hardware")
    board = _text(_BOARD).strip("\0\n ")
    if not name and sys.platform == "darwin":
        name = _sysctl("machdep.cpu.brand_string")
    return ", ".join(part for part in (name, board) if part) or platform.machine()


def arm_core() -> str:
    """Name the core that every CPU of this machine has, if it is one of Arm's; else empty."""
    found = set()
    implementer = ""
    for line in _text(_CPUINFO).splitlines():
        name, _, value = (part.strip() for part in line.partition(":"))
        if name == "CPU implementer":
            implementer = value
        elif name == "CPU part":
            found.add(_ARM_PARTS.get(value, "") if implementer == _ARM_LTD else "")
    return found.pop() if len(found) == 1 else ""


def cpu_features() -> tuple[str, ...]:
    """List those vector instruction sets that matter to a kernel, as the system spells them."""
    flags = set((_cpuinfo("flags") or _cpuinfo("Features")).split())
    return tuple(name for name in _FEATURES if name in flags)


def memory_bytes() -> tuple[int, int]:
    """Return the installed memory and what is available now, in bytes."""
    sizes = {}
    for line in _text(_MEMINFO).splitlines():
        name, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[1] == "kB":
            sizes[name] = int(words[0]) * 1024
    if "MemTotal" in sizes:
        return sizes["MemTotal"], sizes.get("MemAvailable", 0)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), 0
    except (OSError, ValueError):
        return 0, 0


def read_bandwidth(
    n_threads: int, *, bytes_per_thread: int = MIN_BANDWIDTH_BYTES, repeats: int = 3
) -> Bandwidth:
    """Measure how fast threads read memory in sequence, each its own piece.

    Parameters
    ----------
    n_threads : int
    bytes_per_thread : int
        A piece; small ones measure a cache instead of memory.
    repeats : int
        Passes, of which the fastest counts.

    Raises
    ------
    UsageError
        A number is out of range, or there is no memory for the pieces.
    """
    if not 1 <= n_threads <= 1024 or bytes_per_thread < 4096 or repeats < 1:
        raise UsageError("A bandwidth run needs 1 to 1024 threads and 4096 bytes for each.")
    if _native.available():
        speed = float(_native.lib().es_read_bandwidth(n_threads, bytes_per_thread, repeats))
        method = "native"
    else:
        speed = _numpy_bandwidth(n_threads, bytes_per_thread, repeats)
        method = "numpy"
    if speed <= 0:
        raise UsageError(f"There is no memory for {n_threads} × {bytes_per_thread} bytes.")
    return Bandwidth(speed, n_threads, bytes_per_thread, method)


def _numpy_bandwidth(n_threads: int, n_bytes: int, repeats: int) -> float:
    """Time a maximum over one array per thread; numpy releases the interpreter lock meanwhile."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    pieces = [np.ones(n_bytes // 8, np.int64) for _ in range(n_threads)]
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(np.max, pieces))  # starts the threads
        for _ in range(repeats):
            start = time.perf_counter()
            list(pool.map(np.max, pieces))
            best = max(best, sum(p.nbytes for p in pieces) / (time.perf_counter() - start))
    return best / 1e9


def _huge_pages() -> str:
    """Read the mode of transparent huge pages: the word in brackets."""
    mode = _text(_THP)
    return mode[mode.find("[") + 1 : mode.find("]")] if "[" in mode else ""


def _cpuinfo(key: str) -> str:
    for line in _text(_CPUINFO).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(
            ["sysctl", "-n", name], check=False, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
