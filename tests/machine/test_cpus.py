"""Default threads on machines that only exist as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgesparse.cpus import Cores, default_threads, find_cores, last_level_cache_bytes, usable_cpus


class Machine:
    """Writes files below a root as the kernel would show them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")

    def siblings(self, *cores: tuple[int, ...], name: str = "thread_siblings_list") -> None:
        for core in cores:
            for cpu in core:
                text = ",".join(map(str, core))
                self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/{name}", text)

    def find(self, *cpus: int) -> Cores:
        return find_cores(self.root, cpus)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_siblings_count_once(machine: Machine) -> None:
    machine.siblings((0, 4), (1, 5), (2, 6), (3, 7))
    found = machine.find(*range(8))
    assert (found.n_cpus, found.n_cores, found.threads) == (8, 4, 4)
    assert "logical" in found.reason
    assert machine.find(0, 4, 1).threads == 2
    assert machine.find(4, 5).threads == 2  # second threads of two cores


def test_newer_name_and_ranges(machine: Machine) -> None:
    machine.write("sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0-1")
    machine.write("sys/devices/system/cpu/cpu1/topology/core_cpus_list", "0-1")
    assert machine.find(0, 1).n_cores == 1


def test_nothing_to_read(machine: Machine) -> None:
    found = machine.find(0, 1, 2)
    assert (found.n_cores, found.quota, found.threads) == (3, None, 3)
    assert machine.find().threads == 1


@pytest.mark.parametrize("text", ["junk", "1-", "0-99999999", "-", "5,6", "1.5"])
def test_nonsense_counts_as_unknown(machine: Machine, text: str) -> None:
    machine.write("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", text)
    machine.write("sys/devices/system/cpu/cpu0/cpu_capacity", text)
    machine.write("proc/self/cgroup", text)
    assert machine.find(0, 1).threads == 2


def test_intel_hybrid(machine: Machine) -> None:
    machine.siblings((0, 1), (2, 3), (4,), (5,), (6,), (7,))
    machine.write("sys/devices/cpu_core/cpus", "0-3")
    machine.write("sys/devices/cpu_atom/cpus", "4-7")
    found = machine.find(*range(8))
    assert (found.n_cores, found.n_fast_cores, found.threads) == (6, 2, 2)
    assert "4 slower" in found.reason
    assert machine.find(4, 5, 6).threads == 3  # bound to the slow ones


def test_arm_big_little(machine: Machine) -> None:
    for cpu, capacity in enumerate((446, 446, 446, 446, 1024, 1024, 1010)):
        machine.write(f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity", str(capacity))
    assert machine.find(*range(7)).threads == 3


@pytest.mark.parametrize(
    ("limit", "threads"), [("200000 100000", 2), ("150000 100000", 1), ("20000 100000", 1)]
)
def test_quota_of_version_2(machine: Machine, limit: str, threads: int) -> None:
    machine.write("proc/self/cgroup", "0::/a/b")
    machine.write("sys/fs/cgroup/a/cpu.max", limit)
    machine.write("sys/fs/cgroup/a/b/cpu.max", "max 100000")
    found = machine.find(0, 1, 2, 3)
    assert found.threads == threads
    assert "control group" in found.reason


def test_quota_of_version_1(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/x\n0::/")
    machine.write("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "300000")
    machine.write("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    machine.write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert machine.find(*range(8)).quota == 3


def test_group_outside_the_namespace(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/../../other")
    machine.write("sys/fs/cgroup/cpu.max", "100000 100000")
    assert machine.find(0, 1).threads == 1


def test_last_level_cache(machine: Machine) -> None:
    for index, (level, size) in enumerate(((1, "32K"), (2, "512K"), (3, "32768K"), (3, "x"))):
        machine.write(f"sys/devices/system/cpu/cpu0/cache/index{index}/level", str(level))
        machine.write(f"sys/devices/system/cpu/cpu0/cache/index{index}/size", size)
    assert last_level_cache_bytes(machine.root) == 32 << 20
    assert last_level_cache_bytes(machine.root / "nowhere") == 32 << 20


def test_this_machine() -> None:
    assert 1 <= default_threads() <= usable_cpus()
    assert last_level_cache_bytes() >= 1 << 15
