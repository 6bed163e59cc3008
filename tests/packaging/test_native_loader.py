"""The loader finds the compiled module, or gives a reason that a user can act on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from edgesparse import _native
from edgesparse.errors import NativeUnavailable


@pytest.fixture(autouse=True)
def _load_anew() -> Iterator[None]:
    _native._load.cache_clear()
    yield
    _native._load.cache_clear()


def _refuse(monkeypatch: pytest.MonkeyPatch, answers: dict[str, ImportError | ModuleType]) -> None:
    real = importlib.import_module

    def fake(name: str) -> ModuleType:
        answer = answers.get(name.rpartition(".")[2])
        if isinstance(answer, ImportError):
            raise answer
        return answer if answer is not None else real(name)

    monkeypatch.setattr(importlib, "import_module", fake)
    monkeypatch.delenv("EDGESPARSE_NO_NATIVE", raising=False)


def _not_found(stem: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named '{stem}'", name=f"edgesparse._native.{stem}")


def test_the_reason_is_empty_exactly_when_the_module_is_usable() -> None:
    assert _native.available() is (_native.why_not() == "")
    if _native.available():
        assert _native.lib() is not None
        assert _native.ffi().sizeof("int") == 4
    else:
        with pytest.raises(NativeUnavailable):
            _native.lib()


@pytest.mark.parametrize(("value", "off"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_the_switch(monkeypatch: pytest.MonkeyPatch, value: str, off: bool) -> None:
    monkeypatch.setenv("EDGESPARSE_NO_NATIVE", value)
    assert ("EDGESPARSE_NO_NATIVE" in _native.why_not()) is off


def test_switched_off_raises_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPARSE_NO_NATIVE", "1")
    for access in (_native.ffi, _native.lib):
        with pytest.raises(NativeUnavailable, match="Unset EDGESPARSE_NO_NATIVE"):
            access()


def test_the_reason_recorded_by_the_build_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    note = ModuleType("_absent")
    note.REASON = "no C compiler was found"  # type: ignore[attr-defined]
    _refuse(monkeypatch, {"_edgesparse": _not_found("_edgesparse"), "_absent": note})
    assert _native.why_not() == "no C compiler was found"


def test_not_built_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = {stem: _not_found(stem) for stem in ("_edgesparse", "_absent")}
    _refuse(monkeypatch, dict(missing))
    assert "has not been built" in _native.why_not()
    with pytest.raises(NativeUnavailable, match="portable executor"):
        _native.lib()


def test_built_for_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    _refuse(monkeypatch, {"_edgesparse": ImportError("wrong ELF class")})
    assert "wrong ELF class" in _native.why_not()


def test_a_missing_dependency_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ModuleNotFoundError("No module named '_cffi_backend'", name="_cffi_backend")
    _refuse(monkeypatch, {"_edgesparse": error})
    assert "_cffi_backend" in _native.why_not()
