from __future__ import annotations

import io
import os
import stat
import unicodedata

import pytest

from edgesparse.cli import lines
from edgesparse.cli.terminal import Terminal, printable


class Screen(io.StringIO):
    def isatty(self):
        return True


def screen(monkeypatch, **options):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", Screen())
    return Terminal(**options)


def test_no_control_character_but_newline_and_tab_reaches_a_screen(monkeypatch):
    terminal = screen(monkeypatch)
    count = 0
    for code in [*range(0x20), *range(0x7F, 0xA0), *range(0x200B, 0x2070)]:
        if chr(code) in "\n\t":
            continue
        if unicodedata.category(chr(code)) == "Cc" or unicodedata.bidirectional(chr(code)) in (
            *("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"),
        ):
            terminal.write(f"a{chr(code)}b")
            assert chr(code) not in terminal.out.getvalue()
            count += 1
    assert count == 30 + 33 + 9
    terminal.write("é\tñ\n日本🙂")
    assert terminal.out.getvalue().endswith("é\tñ\n日本🙂")


def test_pipes_and_raw_output_get_the_text_as_it_is(monkeypatch):
    terminal = screen(monkeypatch, raw=True)
    terminal.write("\x1b[31m")
    assert terminal.out.getvalue() == "\x1b[31m"
    monkeypatch.setattr("sys.stdout", io.StringIO())
    terminal = Terminal()
    terminal.write("\x1b[31m")
    assert terminal.out.getvalue() == "\x1b[31m"


def test_styles_can_be_forbidden(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = screen(monkeypatch)
    terminal.note("x")
    assert terminal.err.getvalue() == "\x1b[2mx\x1b[0m\n"
    terminal = screen(monkeypatch, color=False)
    terminal.note("x\x1b")
    assert terminal.err.getvalue() == "x\u241b\n"
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = screen(monkeypatch)
    terminal.note("x")
    assert terminal.err.getvalue() == "x\n"


def test_progress_removes_itself_and_is_for_screens_only(monkeypatch):
    terminal = screen(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    terminal.progress("reading 10 %")
    terminal.progress("")
    assert terminal.err.getvalue() == f"\r\rreading 10 %\r{' ' * 12}\r"
    monkeypatch.setenv("COLUMNS", "8")
    terminal = screen(monkeypatch)
    terminal.progress("reading 10 %")
    assert terminal.err.getvalue().endswith("\rreading")
    monkeypatch.setattr("sys.stderr", io.StringIO())
    terminal = Terminal()
    terminal.progress("reading 10 %")
    assert terminal.err.getvalue() == ""


def test_printable_keeps_ordinary_text():
    assert printable("a\tb\nc é") == "a\tb\nc é"


def read_from(*given):
    source = iter(given)

    def read(prompt):
        try:
            return next(source)
        except StopIteration:
            raise EOFError from None

    return read


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "", "  ", "b"], ["a", "b"]),
        (['"""a', "", 'b"""', "c"], ["a\n\nb", "c"]),
        (['"""one line"""'], ["one line"]),
        (['"""never closed', "x"], ["never closed\nx"]),
        (['""""""', "x"], ["x"]),
    ],
)
def test_messages(given, expected):
    assert list(lines.messages(read_from(*given))) == expected


def test_history_is_private_and_can_be_off(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGESPARSE_NOHISTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = lines.history_path()
    assert path == tmp_path / "state" / "edgesparse" / "history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    monkeypatch.setenv("EDGESPARSE_NOHISTORY", "1")
    assert lines.history_path() is None
    monkeypatch.setenv("EDGESPARSE_NOHISTORY", "0")
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)
    assert lines.history_path() is None
