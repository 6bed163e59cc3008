"""Facts about the machine, and the bandwidth that bounds a decode."""

from __future__ import annotations

import json

import pytest

from edgesparse import _native, machine
from edgesparse.cli import main
from edgesparse.errors import UsageError
from edgesparse.lookup import SLICE_TOPICS


def test_facts_are_there():
    found = machine.describe()
    assert found.cpu
    assert 1 <= found.n_usable_cpus <= found.n_cpus
    assert found.memory_bytes > 1 << 28
    assert found.page_bytes in (4096, 16384, 65536)


def test_an_arm_board_is_named(monkeypatch, tmp_path):
    info, board = tmp_path / "cpuinfo", tmp_path / "model"
    info.write_text("processor\t: 0\nFeatures\t: fp asimd evtstrm asimddp asimdhp\n")
    board.write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    monkeypatch.setattr(machine, "_CPUINFO", info)
    monkeypatch.setattr(machine, "_BOARD", board)
    assert machine.cpu_name() == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.cpu_features() == ("asimd", "asimddp", "asimdhp")


def cpuinfo(*parts: tuple[str, str]) -> str:
    return "\n\n".join(
        f"processor\t: {i}\nCPU implementer\t: {maker}\nCPU part\t: {part}\nCPU revision\t: 1"
        for i, (maker, part) in enumerate(parts)
    )


@pytest.mark.parametrize(
    ("parts", "core"),
    [
        ([("0x41", "0xd08")] * 4, "Cortex-A72"),
        ([("0x41", "0xd0b")] * 4, "Cortex-A76"),
        ([("0x41", "0xd0b"), ("0x41", "0xd05")], ""),  # two kinds of core
        ([("0x61", "0xd0b")], ""),  # another maker's number
        ([("0x41", "0xfff")], ""),
        ([], ""),
    ],
)
def test_arm_cores_are_known_by_their_part_numbers(monkeypatch, tmp_path, parts, core):
    info = tmp_path / "cpuinfo"
    info.write_text(cpuinfo(*parts))
    monkeypatch.setattr(machine, "_CPUINFO", info)
    monkeypatch.setattr(machine, "_BOARD", tmp_path / "none")
    assert machine.arm_core() == core
    if core:
        assert machine.cpu_name() == core


@pytest.mark.parametrize("native", ["", "1"])
def test_bandwidth_is_measured_with_and_without_native(monkeypatch, native):
    monkeypatch.setenv("EDGESPARSE_NO_NATIVE", native)
    found = machine.read_bandwidth(2, bytes_per_thread=4 << 20, repeats=2)
    assert found.method == ("native" if _native.available() else "numpy")
    assert 0.1 < found.gb_per_s < 10_000


def test_senseless_bandwidth_runs_are_refused():
    for options in ({"n_threads": 0}, {"n_threads": 1, "bytes_per_thread": 8}):
        with pytest.raises(UsageError):
            machine.read_bandwidth(**options)


def test_doctor_says_which_kernels_run(capsys):
    code = main(["doctor", "--no-measure", "-o", "json"])
    data = json.loads(capsys.readouterr().out)
    native = data["native"]
    assert native["available"] is _native.available()
    assert code == (0 if native["available"] else 1)
    if native["available"]:
        assert native["isa"] in native["isas"]
        assert len(native["kernels"]) == 30
        assert all(native["kernels"].values())
    assert data["model"]["stored_as"]
    assert data["packages"]["numpy"]


def test_doctor_shows_the_kernels_of_a_lower_set(capsys):
    if not _native.available():
        assert main(["doctor", "--no-measure", "--isa", "scalar"]) == 1
        return
    assert main(["doctor", "--no-measure", "--isa", "scalar", "-o", "json"]) == 0
    native = json.loads(capsys.readouterr().out)["native"]
    assert native["isa"] == "scalar"
    assert set(native["kernels"].values()) == {"scalar"}


def test_doctor_obeys_the_kernel_that_is_asked_for(monkeypatch, capsys):
    for kernel in ("lut", "mad"):
        monkeypatch.setenv("EDGESPARSE_KERNEL", kernel)
        main(["doctor", "--no-measure", "-o", "json"])
        found = json.loads(capsys.readouterr().out)["tuning"]
        said = {topic: row for topic, row in found.items() if topic in SLICE_TOPICS}
        assert len(said) == 10
        assert {row["choice"] for row in said.values()} == {kernel}
        assert {row["reason"] for row in said.values()} == {"EDGESPARSE_KERNEL"}
        assert "EDGESPARSE_KERNEL" not in {
            row["reason"] for t, row in found.items() if t not in said
        }
    monkeypatch.setenv("EDGESPARSE_KERNEL", "fast")
    assert main(["doctor", "--no-measure"]) == 2
    assert "'fast' is no kind of kernel" in capsys.readouterr().err


def test_doctor_without_native_says_why(monkeypatch, capsys):
    monkeypatch.setenv("EDGESPARSE_NO_NATIVE", "1")
    assert main(["doctor", "--no-measure"]) == 1
    assert "EDGESPARSE_NO_NATIVE is set" in capsys.readouterr().out
