"""Whether the machine holds its processor back: a Raspberry Pi's throttle bits, temperatures.

A Pi's firmware keeps bits for low voltage, capped frequency and throttling, now (0 to 3) and since
boot (16 to 19); `vcgencmd get_throttled` and a file in sysfs show the same number. Speeds that were
measured while any of them was set are not the board's.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Throttle", "read_throttle"]

_BITS = ("low voltage", "frequency capped", "throttled", "soft temperature limit")
_SYS = Path("/sys")
_FILES = "devices/platform/soc*/*firmware*/get_throttled"
_ZONES = "class/thermal/thermal_zone*"
_MAX_TEMPERATURE = 200.0


@dataclass(frozen=True)
class Throttle:
    """What the system says; empty where it says nothing.

    Attributes
    ----------
    bits : int or None
        The firmware's number; None on machines without.
    temperatures : dict of str to float
        Degrees Celsius by the name of the zone.
    """

    bits: int | None
    temperatures: dict[str, float]

    @property
    def now(self) -> tuple[str, ...]:
        """What holds the processor back at this moment."""
        return tuple(name for i, name in enumerate(_BITS) if (self.bits or 0) >> i & 1)

    @property
    def since_boot(self) -> tuple[str, ...]:
        """What did since the machine started."""
        return tuple(name for i, name in enumerate(_BITS) if (self.bits or 0) >> (16 + i) & 1)

    def describe(self) -> str:
        """One line; empty if nothing is known."""
        parts = []
        if self.bits is not None:
            now = ", ".join(self.now) or "nothing"
            before = ", ".join(self.since_boot) or "nothing"
            parts.append(f"throttle bits {self.bits:#x}: now {now}; since boot {before}")
        parts += [f"{zone} {degrees:.1f} °C" for zone, degrees in self.temperatures.items()]
        return "; ".join(parts)


def read_throttle() -> Throttle:
    """Read the throttle bits and temperatures that this machine shows."""
    return Throttle(_bits(), _temperatures())


def _bits() -> int | None:
    for path in sorted(_SYS.glob(_FILES)):
        found = _number(_text(path), 16)
        if found is not None:
            return found
    program = shutil.which("vcgencmd")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "get_throttled"], check=False, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    shown = re.fullmatch(r"throttled=0x([0-9a-fA-F]{1,8})\s*", done.stdout)
    return int(shown[1], 16) if shown else None


def _temperatures() -> dict[str, float]:
    found = {}
    for zone in sorted(_SYS.glob(_ZONES)):
        millidegrees = _number(_text(zone / "temp"), 10)
        name = re.sub(r"[^\w.-]", "", _text(zone / "type"))[:32] or zone.name
        # Zones without a sensor show zero or numbers that no machine survives.
        if millidegrees and 0 < millidegrees / 1000 < _MAX_TEMPERATURE:
            found[name if name not in found else zone.name] = millidegrees / 1000
    return found


def _number(text: str, base: int) -> int | None:
    try:
        return int(text.strip(), base)
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
