"""Ctrl-C: the first stops the answer, the second the program; also during long native calls."""

from __future__ import annotations

import hashlib
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgesparse.cancel import CancelToken
from edgesparse.cli.interrupt import cancel_on_interrupt

ROOT = Path(__file__).parents[2]

SLOW = """
import edgesparse, sys
from edgesparse.cli import main
from tests.cli.fake_model import fake_model
text = bytes(range(65, 91)) * 200
edgesparse.load = lambda *a, **k: fake_model(text, token_s=0.01, n_ctx=9000)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def heard():
    """A shell's background jobs, and so the tests in one, start with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def environment(tmp_path):
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XDG_STATE_HOME": str(tmp_path),
        "TERM": "xterm",
        "EDGESPARSE_NOHISTORY": "1",
    }


def test_a_native_call_does_not_delay_the_stop():
    token = CancelToken()
    seen = []

    def press_and_watch():
        time.sleep(0.1)
        pressed = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)
        while not token.cancelled and time.perf_counter() < pressed + 5:
            time.sleep(0.001)
        seen.extend([pressed, time.perf_counter()])

    before = signal.getsignal(signal.SIGINT)
    with cancel_on_interrupt(token):
        thread = threading.Thread(target=press_and_watch)
        thread.start()
        # One call that holds the main thread and releases the lock, as the engine's do.
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 3_000_000)
        returned = time.perf_counter()
        thread.join()
    pressed, cancelled = seen
    assert pressed < cancelled < returned
    assert cancelled - pressed < 0.3
    assert signal.getsignal(signal.SIGINT) is before


def test_the_second_press_ends_the_program():
    token = CancelToken()
    cancelled = []

    def press_twice():
        with cancel_on_interrupt(token):
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
                cancelled.append(token.cancelled)

    with pytest.raises(KeyboardInterrupt):
        press_twice()
    assert cancelled == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_leave_signals_alone():
    token = CancelToken()
    before = signal.getsignal(signal.SIGINT)
    handlers = []

    def work():
        with cancel_on_interrupt(token):
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [before]


@pytest.mark.parametrize("prompt", ["hi", "long " * 300])
def test_run_stops_at_once_with_code_130(tmp_path, prompt):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "run", "-p", prompt, "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(tmp_path),
    )
    if prompt == "hi":
        assert process.stdout.read(3) == b"ABC"
    else:
        time.sleep(1.2)  # the program has started and is reading its prompt
    pressed = time.perf_counter()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.perf_counter() - pressed < 1.0
    assert err == b""
    if prompt == "hi":
        assert (b"ABC" + out).strip() in bytes(range(65, 91)) * 10
    else:
        assert out == b"\n"


class Terminal:
    """The screen side of a pseudo-terminal."""

    def __init__(self, argv, env):
        self.fd, inner = pty.openpty()
        self.process = subprocess.Popen(
            argv, stdin=inner, stdout=inner, stderr=inner, cwd=ROOT, env=env, start_new_session=True
        )
        os.close(inner)
        self.seen = b""
        self.read_to = 0

    def wait_for(self, text, seconds=15.0):
        end = time.perf_counter() + seconds
        while (at := self.seen.find(text, self.read_to)) < 0:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.perf_counter()))
            assert ready, f"{text!r} not seen in {self.seen[self.read_to :]!r}"
            data = os.read(self.fd, 4096)
            if b"\x1b[6n" in data:
                os.write(self.fd, b"\x1b[1;1R")  # the cursor's place, which line editors ask for
            self.seen += data
        self.read_to = at + len(text)

    def type(self, text):
        os.write(self.fd, text)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.fd)


def test_a_message_stopped_while_it_is_read_is_left_out(tmp_path):
    argv = [sys.executable, "-c", SLOW, "chat", "--no-color"]
    screen = Terminal(argv, environment(tmp_path))
    try:
        screen.wait_for(b"is small: it chats")
        screen.wait_for(b"/help lists")
        screen.wait_for(b">>>")
        screen.type(b"\x1b[200~" + b"long " * 100 + b"\nand wide\x1b[201~")
        screen.wait_for(b"wide")
        screen.type(b"\r")
        screen.wait_for(b"reading")
        pressed = time.perf_counter()
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"not part of the conversation)")
        assert time.perf_counter() - pressed < 0.5
        screen.wait_for(b">>>")
        screen.type(b"/show nothing\r")
        screen.wait_for(b"error: expected /show")
        screen.wait_for(b">>>")
        screen.type(b"\x04")
        assert screen.process.wait(10) == 0
        assert b"t/s" not in screen.seen
        assert b"\x1b[2m" not in screen.seen
    finally:
        screen.close()


@pytest.mark.parametrize("leave", [b"/bye\r", b"\x04", b"\x03"])
def test_chat_on_a_terminal_goes_on_after_a_stop(tmp_path, leave):
    screen = Terminal([sys.executable, "-c", SLOW, "chat"], environment(tmp_path))
    try:
        screen.wait_for(b">>>")
        screen.type(b"hello\r")
        screen.wait_for(b"ABC")
        pressed = time.perf_counter()
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"(stopped)")
        assert time.perf_counter() - pressed < 0.5
        screen.wait_for(b"t/s ]")
        screen.wait_for(b">>>")
        screen.type(b"again\r")
        screen.wait_for(b"ABC")
        screen.process.send_signal(signal.SIGINT)
        screen.wait_for(b"(stopped)")
        screen.wait_for(b">>>")
        screen.type(leave)
        assert screen.process.wait(10) == 0
        assert b"Traceback" not in screen.seen
    finally:
        screen.close()
