"""What may reach a screen, and how it looks there.

Text from models and files can carry escape sequences that take a terminal over, and direction
marks that make it lie. On a terminal they become visible signs; a pipe gets the text as it is.
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

__all__ = ["Terminal", "printable"]

_REPLACEMENT = "\ufffd"
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if code not in (0x09, 0x0A)}
_VISIBLE[0x7F] = "\u2421"
_VISIBLE |= dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT)
_VISIBLE |= dict.fromkeys((0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F)), _REPLACEMENT)
_VISIBLE |= dict.fromkeys(range(0x2066, 0x206A), _REPLACEMENT)


def printable(text: str) -> str:
    """Make control characters visible; newline and tab stay."""
    return text.translate(_VISIBLE)


class Terminal:
    """The product goes to stdout, everything about it to stderr.

    Parameters
    ----------
    color : bool
        Allow styles where stderr is a terminal; ``NO_COLOR`` forbids them.
    raw : bool
        Do not filter control characters.
    """

    def __init__(self, *, color: bool = True, raw: bool = False) -> None:
        self.out: TextIO = sys.stdout
        self.err: TextIO = sys.stderr
        self.interactive = sys.stdin.isatty()
        self.out_is_tty = self.out.isatty()
        self.err_is_tty = self.err.isatty()
        self.color = color and not os.environ.get("NO_COLOR")
        self._filter = self.out_is_tty and not raw
        self._progress = ""

    def write(self, text: str) -> None:
        """Put a piece of the product on stdout, at once."""
        if text:
            self.out.write(printable(text) if self._filter else text)
            self.out.flush()

    def note(self, text: str) -> None:
        """Put a line on stderr, dimmed where that is possible."""
        text = printable(text)
        self.err.write(f"\x1b[2m{text}\x1b[0m\n" if self.color and self.err_is_tty else f"{text}\n")
        self.err.flush()

    def progress(self, text: str) -> None:
        """Show a passing remark on stderr if it is a terminal; empty text removes it."""
        # A line that wraps could not be taken back.
        text = printable(text)[: shutil.get_terminal_size().columns - 1]
        if not self.err_is_tty or text == self._progress:
            return
        self.err.write(f"\r{' ' * len(self._progress)}\r{text}")
        self.err.flush()
        self._progress = text
