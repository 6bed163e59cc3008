"""Checks the compiled module in a Linux wheel against what the wheel's name promises.

    python tests/packaging/wheel_elf.py WHEEL …

The right machine, nothing needed but the C library, no symbol newer than the manylinux version,
segments that suit pages of 16 KiB (Raspberry Pi 5), no relocations in code, no executable stack,
and no exported name but the module's own. Needs readelf of the binutils.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_MODULE = "edgesparse/_native/_edgesparse.abi3.so"
_MACHINES = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}
_LIBRARIES = re.compile(r"(libc|libm|libpthread|ld-linux-[\w-]+)\.so\.\d+")
_PAGE_BYTES = {"x86_64": 4096, "aarch64": 16384}


def _readelf(path: Path, *options: str) -> str:
    command = ["readelf", "-W", *options, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def check_module(path: Path, machine: str, glibc: tuple[int, int] | None) -> dict[str, str]:
    """Check one shared object; return what was found, or raise `AssertionError`.

    Parameters
    ----------
    path : Path
    machine : str
        ``x86_64`` or ``aarch64``.
    glibc : tuple of int or None
        The newest version of a C library symbol that is allowed; None: any.
    """
    header, segments, dynamic = (_readelf(path, option) for option in ("-h", "-l", "-d"))
    assert re.search(r"Class:\s+ELF64", header)
    assert re.search(rf"Machine:\s+{_MACHINES[machine]}\n", header), header

    alignments = [int(n, 16) for n in re.findall(r"^\s+LOAD\s.* (0x\w+)$", segments, re.MULTILINE)]
    assert len(alignments) >= 2
    assert min(alignments) >= _PAGE_BYTES[machine], alignments
    stack = re.search(r"^\s+GNU_STACK(?:\s+0x\w+){5}\s+(\S+)", segments, re.MULTILINE)
    assert stack is not None, segments
    assert "E" not in stack[1], stack[0]

    assert "TEXTREL" not in dynamic
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)
    assert needed
    assert all(_LIBRARIES.fullmatch(name) for name in needed), needed
    assert not re.search(r"\((RPATH|RUNPATH)\)", dynamic), dynamic

    symbols = _readelf(path, "--dyn-syms")
    versions = {
        (int(major), int(minor), name)
        for name, major, minor in re.findall(r"(\w+)@GLIBC_(\d+)\.(\d+)", symbols)
    }
    newest = max(versions)
    assert glibc is None or newest[:2] <= glibc, f"{newest} is newer than {glibc}"
    exported = re.findall(r"\b(?:FUNC|OBJECT)\s+GLOBAL\s+DEFAULT\s+\d+ (\S+)", symbols)
    assert set(exported) - {"_init", "_fini"} == {"PyInit__edgesparse"}, exported
    return {
        "machine": machine,
        "segments aligned to": f"{min(alignments) >> 10} KiB",
        "needs": " ".join(needed),
        "newest symbol": f"GLIBC {newest[0]}.{newest[1]} ({newest[2]})",
    }


def check_wheel(path: Path) -> dict[str, str]:
    """Check the module in a wheel by the promises of the wheel's name."""
    name = re.fullmatch(r"edgesparse-[^-]+-cp310-abi3-(\w+?)_(x86_64|aarch64)\.whl", path.name)
    assert name is not None, path.name
    version = re.fullmatch(r"manylinux_(\d+)_(\d+)", name[1])
    glibc = (int(version[1]), int(version[2])) if version else None
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as wheel:
        return check_module(Path(wheel.extract(_MODULE, folder)), name[2], glibc)


def main() -> int:
    """Check the wheels that are named; return the exit code."""
    for wheel in sys.argv[1:]:
        facts = check_wheel(Path(wheel))
        print(f"{Path(wheel).name}: " + ", ".join(f"{name} {fact}" for name, fact in facts.items()))
    return 0 if sys.argv[1:] else 2


if __name__ == "__main__":
    sys.exit(main())
