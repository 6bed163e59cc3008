"""What wheels promise, as far as that can be seen without building one."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgesparse import _native
from tests.packaging.wheel_elf import check_module

ROOT = Path(__file__).parents[2]
CMAKE = Path(sys.executable).with_name("cmake")
THIS = platform.machine()
# As if a compiler for 32-bit ARM had been found, as on Raspberry Pi OS with 32 bits.
NARROW = """
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR armv7l)
set(CMAKE_C_COMPILER_FORCED TRUE)
set(CMAKE_C_COMPILER_ID GNU)
set(CMAKE_SIZEOF_VOID_P 4)
"""


@pytest.mark.skipif(not CMAKE.exists(), reason="cmake is not in this environment")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_32_bit_build_is_refused(tmp_path: Path) -> None:
    (tmp_path / "narrow.cmake").write_text(NARROW)
    command = [str(CMAKE), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={CMAKE.with_name('ninja')}"]
    command += ["-S", str(ROOT / "native"), "-B", str(tmp_path / "build"), "-DES_MODULE=OFF"]
    command += [f"-DPython_EXECUTABLE={sys.executable}"]
    done = subprocess.run(
        [*command, "--toolchain", str(tmp_path / "narrow.cmake")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "edgesparse needs a 64-bit system" in done.stderr
    assert "64-bit kernel under 32-bit programs" in " ".join(done.stderr.split())


@pytest.mark.skipif(sys.platform != "linux" or THIS not in ("x86_64", "aarch64"), reason="ELF only")
@pytest.mark.skipif(shutil.which("readelf") is None, reason="there is no readelf")
def test_the_compiled_module_keeps_the_promises_of_a_wheel() -> None:
    if not _native.available():
        pytest.skip(_native.why_not())
    spec = importlib.util.find_spec("edgesparse._native._edgesparse")
    assert spec is not None
    assert spec.origin is not None
    module = Path(spec.origin)
    facts = check_module(module, THIS, None)
    assert "libc.so.6" in facts["needs"].split()
    with pytest.raises(AssertionError, match="is newer than"):
        check_module(module, THIS, (2, 1))
    with pytest.raises(AssertionError):
        check_module(module, "aarch64" if THIS == "x86_64" else "x86_64", None)
