"""Room for weights: how much memory is free, and one private arena to put them in."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgesparse.errors import MemoryBudgetError

__all__ = [
    "ALIGNMENT",
    "Arena",
    "allocate",
    "available_bytes",
    "release_freed",
    "require_bytes",
]

ALIGNMENT = 64
_ARENA_BYTES = 64 << 20
_CGROUP = Path("/sys/fs/cgroup")
_CGROUP_OF = Path("/proc/self/cgroup")


def available_bytes() -> int | None:
    """Estimate the memory that can be taken without swapping; None where nothing tells.

    Linux: MemAvailable, and what the control group leaves if that is less. Elsewhere: half of the
    physical memory, since free pages are a poor measure there.
    """
    found = [n for n in (_meminfo_available(), _cgroup_room()) if n is not None]
    if found:
        return min(found)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup_room() -> int | None:
    """Count what the control groups of this process leave; None where none has a limit."""
    rooms = [_room(folder) for folder in _cgroup_folders()]
    return min((room for room in rooms if room is not None), default=None)


def _cgroup_folders() -> list[Path]:
    """Folders of this process's group and of those around it (control groups version 2)."""
    try:
        lines = _CGROUP_OF.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    names = [line[3:].strip("/") for line in lines if line.startswith("0::/")]
    inner = _CGROUP / (names[0] if names else "")
    parts = [inner, *inner.parents]
    return [folder for folder in parts if folder == _CGROUP or _CGROUP in folder.parents]


def _room(folder: Path) -> int | None:
    """Limit of a control group minus what it cannot drop (page cache can be dropped)."""
    try:
        limit = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines():
            if line.startswith("inactive_file "):
                used -= int(line.split()[1])
    except (OSError, ValueError, IndexError):  # no control group, or its limit is "max"
        return None
    return max(0, limit - used)


def require_bytes(n_bytes: int, what: str) -> None:
    """Refuse early what would not fit.

    Raises
    ------
    MemoryBudgetError
        `n_bytes` is more than `available_bytes`.
    """
    available = available_bytes()
    if available is not None and n_bytes > available:
        raise _too_much(n_bytes, what, f"{available / 1e6:.0f} MB are available")


def _too_much(n_bytes: int, what: str, found: str) -> MemoryBudgetError:
    return MemoryBudgetError(
        f"{what} needs {n_bytes / 1e6:.0f} MB, {found}.",
        advice="Close other programs or choose a smaller model.",
    )


def allocate(sizes: Sequence[int], what: str = "the model") -> list[npt.NDArray[np.uint8]]:
    """Give one zeroed array per size, 64-byte aligned, out of a single private mapping.

    Pages take memory when they are first written. The mapping lives as long as any of the arrays.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of each array.
    what : str
        Named in errors.

    Raises
    ------
    MemoryBudgetError
        The system refuses a mapping of that size.
    """
    starts = []
    total = 0
    for size in sizes:
        starts.append(total)
        total += -(-size // ALIGNMENT) * ALIGNMENT
    if total == 0:
        return [np.zeros(0, dtype=np.uint8) for _ in sizes]
    try:
        arena = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, MemoryError, ValueError):
        raise _too_much(total, what, "the system refuses to reserve it") from None
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages; 4 KiB ones will do
            arena.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(arena, dtype=np.uint8)
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]


class Arena:
    """Holds arrays whose sizes become known one by one, in few mappings.

    A mapping smaller than a huge page gets none, and matrices of small models are smaller; products
    read from 4 KiB pages half as fast on some machines.

    Parameters
    ----------
    what : str
        Named in errors.
    """

    def __init__(self, what: str = "the model") -> None:
        self._what = what
        self._free = np.zeros(0, dtype=np.uint8)

    def keep(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Copy an array here; the copy is 64-byte aligned and read-only.

        Raises
        ------
        MemoryBudgetError
            The system refuses another mapping.
        """
        taken = -(-data.size // ALIGNMENT) * ALIGNMENT
        if taken > self._free.size:
            (self._free,) = allocate([max(taken, _ARENA_BYTES)], self._what)
        kept, self._free = self._free[: data.size], self._free[taken:]
        kept[:] = data.reshape(-1)
        kept.flags.writeable = False
        return kept


def release_freed() -> None:
    """Give memory that was freed back to the operating system, where the C library can (glibc).

    Making a tokenizer leaves tens of megabytes of freed blocks in the heap; weights lie elsewhere
    and would come on top of them.
    """
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
