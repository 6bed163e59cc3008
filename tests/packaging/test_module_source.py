"""The header's marked block is what the Python module is made of."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from cffi import FFI

NATIVE = Path(__file__).parents[2] / "native"
HEADER = NATIVE / "include" / "edgesparse.h"


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgesparse_native_build", NATIVE / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_cffi_parses_the_marked_block(build: ModuleType) -> None:
    ffi = FFI()
    ffi.cdef(build.read_cdef(HEADER))
    structs, _unions, _ = ffi.list_types()
    assert structs, "the block declares no type"


def test_module_source_is_for_the_stable_abi(build: ModuleType, tmp_path: Path) -> None:
    header = tmp_path / "edgesparse.h"
    header.write_text("/* cffi:begin */\nint es_answer(void);\n/* cffi:end */\n")
    output = tmp_path / "module.c"
    build.write_module(header, output)
    source = output.read_text()
    assert '#include "edgesparse.h"' in source
    assert "es_answer" in source
    assert "PyInit__edgesparse" in source


@pytest.mark.parametrize(
    "text",
    [
        "int es_answer(void);\n",
        "/* cffi:begin */\nint es_answer(void);\n",
        "/* cffi:end */\n/* cffi:begin */\n",
        "/* cffi:begin */\n/* cffi:begin */\n/* cffi:end */\n",
    ],
    ids=["none", "no end", "swapped", "twice"],
)
def test_a_header_without_one_block_is_refused(
    build: ModuleType, tmp_path: Path, text: str
) -> None:
    header = tmp_path / "edgesparse.h"
    header.write_text(text)
    with pytest.raises(ValueError, match="cffi:"):
        build.read_cdef(header)
