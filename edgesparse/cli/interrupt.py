"""Ctrl-C while an answer is made: the first stops the answer, the second the program."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgesparse.cancel import CancelToken

__all__ = ["cancel_on_interrupt"]

_DONE = b"\0"


@contextmanager
def cancel_on_interrupt(token: CancelToken) -> Iterator[None]:
    """Let Ctrl-C set `token`; a second one raises `KeyboardInterrupt`.

    Python runs signal handlers between bytecodes, so during a long native call the handler would
    come too late. The interpreter also writes the signal's number to a descriptor at once: a
    thread waits there and sets the token, which native code polls.
    """
    presses = 0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal presses
        presses += 1
        token.cancel()
        if presses > 1:
            raise KeyboardInterrupt

    def watch() -> None:
        while (data := os.read(reader, 1)) not in (_DONE, b""):
            if data[0] == signal.SIGINT:
                token.cancel()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=watch, name="edgesparse-interrupt", daemon=True)
    watcher.start()
    previous = signal.signal(signal.SIGINT, handle)
    previous_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_fd)
        signal.signal(signal.SIGINT, previous)
        os.write(writer, _DONE)
        watcher.join()
        os.close(reader)
        os.close(writer)
