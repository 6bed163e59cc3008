"""Write the C source of the Python module from the engine's one header.

CMake runs ``build.py HEADER OUTPUT``. The declarations that Python sees are the text between the
header's two markers, so there is no second copy that could drift from what C compiles.
"""

from __future__ import annotations

import sys
from pathlib import Path

MODULE = "edgesparse._native._edgesparse"
BEGIN = "/* cffi:begin */"
END = "/* cffi:end */"


def read_cdef(header: Path) -> str:
    """Return the part of a C header that cffi is to parse.

    Parameters
    ----------
    header : Path
        A header holding exactly one marked block, free of preprocessor directives other than
        ``#define NAME integer``.

    Raises
    ------
    ValueError
        The markers are missing, repeated or in the wrong order.
    """
    text = header.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{header}: expected one '{BEGIN}' and one '{END}'")
    before, _, rest = text.partition(BEGIN)
    if END in before:
        raise ValueError(f"{header}: '{END}' stands before '{BEGIN}'")
    return rest.partition(END)[0]


def write_module(header: Path, output: Path) -> None:
    """Emit the module's C source for the stable ABI of CPython.

    Parameters
    ----------
    header : Path
        The engine's header; the emitted source includes it by its bare name.
    output : Path
        The C file to write; left untouched when nothing changed.
    """
    from cffi import FFI

    ffi = FFI()
    ffi.cdef(read_cdef(header))
    ffi.set_source(MODULE, f'#include "{header.name}"', py_limited_api=True)
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: build.py HEADER OUTPUT")
    write_module(Path(sys.argv[1]), Path(sys.argv[2]))
