"""Which processors this process may use, and how many threads that makes.

More threads than cores do not help: decoding waits for memory, and the second thread of a core
shares its caches and its units. So the default is one thread per physical core that the affinity
mask allows, performance cores only where there are two kinds, and no more than the control group's
quota of processor time: threads beyond it would be stopped in the middle of a step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgesparse.errors import UsageError

__all__ = [
    "MAX_THREADS",
    "Cores",
    "default_threads",
    "find_cores",
    "last_level_cache_bytes",
    "resolve_threads",
    "usable_cpus",
]

MAX_THREADS = 1024

_ROOT = Path("/")
_ASSUMED_CACHE = 32 << 20
_BIG_SHARE = 0.9


@dataclass(frozen=True)
class Cores:
    """What a process may run on.

    Attributes
    ----------
    n_cpus : int
        Logical processors in the affinity mask.
    n_cores : int
        Physical cores behind them; second threads of a core do not count.
    n_fast_cores : int
        Those of the fast kind where there are two kinds, else all.
    quota : float or None
        Processors' worth of time that the control group allows; None: no limit.
    """

    n_cpus: int
    n_cores: int
    n_fast_cores: int
    quota: float | None = None

    @property
    def threads(self) -> int:
        """Threads to use by default."""
        limit = self.n_fast_cores if self.quota is None else int(self.quota)
        return max(1, min(self.n_fast_cores, limit))

    @property
    def reason(self) -> str:
        """Why it is that many, for people."""
        if self.quota is not None and int(self.quota) < self.n_fast_cores:
            return f"the control group allows {self.quota:g} processors' time"
        if self.n_fast_cores < self.n_cores:
            slow = self.n_cores - self.n_fast_cores
            return f"performance cores; {slow} slower ones are left out"
        if self.n_cores < self.n_cpus:
            return f"physical cores; {self.n_cpus} logical processors share them"
        return "physical cores"


def usable_cpus() -> int:
    """Count the logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Threads that are used when nobody says how many."""
    return find_cores().threads


def find_cores(root: Path = _ROOT, cpus: Iterable[int] | None = None) -> Cores:
    """Find out what this process may run on.

    Where the system does not tell, every logical processor counts as a core.

    Parameters
    ----------
    root : Path
        Where ``sys`` and ``proc`` are.
    cpus : iterable of int, optional
        Logical processors; by default those of the affinity mask.
    """
    if cpus is None:
        cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(usable_cpus())
    allowed = sorted(set(cpus))
    folder = root / "sys/devices/system/cpu"
    cores: dict[frozenset[int], int] = {}  # siblings → first allowed thread
    for cpu in allowed:
        cores.setdefault(_siblings(folder / f"cpu{cpu}/topology", cpu), cpu)
    firsts = list(cores.values())
    n_fast = len(_fast(root, folder, firsts))
    return Cores(len(allowed), len(firsts), n_fast, _quota(root))


def last_level_cache_bytes(root: Path = _ROOT) -> int:
    """Size of the last-level cache; 32 MiB where the system does not tell."""
    sizes = [(0, 0)]
    for index in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        with contextlib.suppress(ValueError):
            size = _text(index / "size")
            unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 1)
            sizes.append((int(_text(index / "level")), int(size.rstrip("KMG")) * unit))
    return max(sizes)[1] or _ASSUMED_CACHE


def _siblings(topology: Path, cpu: int) -> frozenset[int]:
    """Logical processors of the core that `cpu` belongs to."""
    text = _text(topology / "core_cpus_list") or _text(topology / "thread_siblings_list")
    found = _cpu_list(text)
    return frozenset(found) if cpu in found else frozenset((cpu,))


def _fast(root: Path, folder: Path, cpus: list[int]) -> list[int]:
    """Those of the fast kind: Intel lists them, Arm gives every processor a capacity."""
    performance = set(_cpu_list(_text(root / "sys/devices/cpu_core/cpus")))
    slow = set(_cpu_list(_text(root / "sys/devices/cpu_atom/cpus")))
    if performance and slow:
        return [cpu for cpu in cpus if cpu in performance] or cpus
    capacity = {}
    for cpu in cpus:
        text = _text(folder / f"cpu{cpu}/cpu_capacity")
        capacity[cpu] = int(text) if text.isdecimal() else 0
    most = max(capacity.values(), default=0)
    return [cpu for cpu in cpus if capacity[cpu] >= _BIG_SHARE * most]


def _quota(root: Path) -> float | None:
    """Smallest quota on the way from this process's control group to the root, in processors."""
    quotas: list[float] = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        mount = root / "sys/fs/cgroup" / ("" if not controllers else "cpu")
        group = mount / path.lstrip("/")
        if ".." in group.parts:  # a group outside the namespace that is visible here
            group = mount
        while True:
            quotas += _group_quota(group)
            if group == mount:
                break
            group = group.parent
    return min(quotas, default=None)


def _group_quota(group: Path) -> list[float]:
    """Quota of one group in processors: nothing, or one number (versions 2 and 1 of the files)."""
    words = _text(group / "cpu.max").split()
    if not words:
        words = [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
    with contextlib.suppress(ValueError):
        quota, period = (int(word) for word in words)
        if quota > 0 and period > 0:
            return [quota / period]
    return []


def _cpu_list(text: str) -> list[int]:
    """Read the kernel's ``0-3,8``; nothing where it is something else."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return []
        if int(last or first) - int(first) > 65_536:
            return []
        found += range(int(first), int(last or first) + 1)
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def resolve_threads(wanted: int | None) -> int:
    """Return how many threads to use, by default as `default_threads`.

    Raises
    ------
    UsageError
        A number that no pool has.
    """
    if wanted is not None and not 1 <= wanted <= MAX_THREADS:
        raise UsageError(f"threads must be between 1 and {MAX_THREADS}, not {wanted}.")
    return wanted or default_threads()
