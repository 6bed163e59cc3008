"""Throttle bits and temperatures, from a made-up /sys and a made-up vcgencmd."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgesparse import throttle
from edgesparse.cli import main
from edgesparse.cli.bench import _throttling
from edgesparse.throttle import Throttle, read_throttle


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(throttle, "_SYS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path


def _zone(system: Path, number: int, kind: str, millidegrees: str) -> None:
    folder = system / "class/thermal" / f"thermal_zone{number}"
    folder.mkdir(parents=True)
    (folder / "type").write_text(f"{kind}\n")
    (folder / "temp").write_text(f"{millidegrees}\n")


def test_a_machine_that_says_nothing(system: Path) -> None:
    found = read_throttle()
    assert found == Throttle(None, {})
    assert found.describe() == ""


def test_a_pi_by_sysfs(system: Path) -> None:
    folder = system / "devices/platform/soc/soc:firmware"
    folder.mkdir(parents=True)
    (folder / "get_throttled").write_text("50005\n")
    _zone(system, 0, "cpu-thermal", "61328")
    _zone(system, 1, "cpu-thermal", "50000")
    _zone(system, 2, "broken\x1b[31m", "0")
    _zone(system, 3, "absurd", "999999")
    found = read_throttle()
    assert found.bits == 0x50005
    assert found.now == ("low voltage", "throttled")
    assert found.since_boot == ("low voltage", "throttled")
    assert found.temperatures == {"cpu-thermal": 61.328, "thermal_zone1": 50.0}
    assert "cpu-thermal 61.3 °C" in found.describe()


@pytest.mark.parametrize(
    ("output", "bits"),
    [("throttled=0x0", 0), ("throttled=0x80008", 0x80008), ("error", None), ("", None)],
)
def test_a_pi_by_its_own_program(system: Path, output: str, bits: int | None) -> None:
    program = system / "bin/vcgencmd"
    program.write_text(f"#!/bin/sh\necho '{output}'\n")
    program.chmod(0o755)
    assert read_throttle().bits == bits


def test_a_throttled_measurement_says_so() -> None:
    calm, hot = Throttle(0, {"cpu": 40.0}), Throttle(0x40000, {"cpu": 85.0})
    assert not any("THROTTLED" in line for line in _throttling(calm, calm))
    assert any("THROTTLED" in line for line in _throttling(calm, hot))
    assert not any("THROTTLED" in line for line in _throttling(hot, hot))  # before, not meanwhile
    assert any("THROTTLED" in line for line in _throttling(calm, Throttle(0x4, {})))
    assert _throttling(Throttle(None, {}), Throttle(None, {})) == []


def test_doctor_shows_it(
    system: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _zone(system, 0, "cpu-thermal", "61328")
    assert main(["doctor", "--no-measure"]) == 0
    assert "throttling    cpu-thermal 61.3 °C" in capsys.readouterr().out
    assert main(["doctor", "--no-measure", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["throttle"]["temperatures"]
