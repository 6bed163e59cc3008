"""Engines that take turns: anything that speaks llama-bench, ours among them, and llama-cpp-python.

A player answers one question: how many tokens per second for this test with this many threads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.workers import Worker

__all__ = ["Binary", "Case", "LlamaCppPython", "Ours", "Player", "PlayerFailed", "parse_peer"]

MAX_SAID = 300
"""Letters of a program's last words that a message repeats."""
ROOT = Path(__file__).parents[1]
TIMEOUT_S = 600.0
"""Seconds that one run may take; `compare_peers --timeout` is another number."""


class PlayerFailed(RuntimeError):
    """An engine ended with an error or answered with something else than llama-bench's rows."""


@dataclass(frozen=True)
class Case:
    """``pp512`` or ``tg64``."""

    kind: str
    n_tokens: int

    @property
    def name(self) -> str:
        return f"{self.kind}{self.n_tokens}"

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens read and tokens generated."""
        return (self.n_tokens, 0) if self.kind == "pp" else (0, self.n_tokens)

    @property
    def flags(self) -> list[str]:
        """Arguments of llama-bench."""
        prompt, gen = self.lengths
        return ["-p", str(prompt), "-n", str(gen)]


class Player(Protocol):
    """An engine with its model and its options."""

    label: str

    def play(self, test: Case, n_threads: int) -> dict[str, Any]:
        """Run once; the result has ``avg_ts`` and whatever else the engine reports."""

    def close(self) -> None:
        """End what is running."""


@dataclass
class Binary:
    """A program with llama-bench's arguments and its JSON.

    Attributes
    ----------
    label : str
    command : list of str
        Program, and arguments that stand first.
    model : str
    extra : list of str
        Arguments of every run.
    timeout_s : float
        Seconds that a run may take.
    """

    label: str
    command: list[str]
    model: str
    extra: list[str] = field(default_factory=list)
    timeout_s: float = TIMEOUT_S

    def play(self, test: Case, n_threads: int) -> dict[str, Any]:
        model = ["-m", self.model] if self.model else []
        command = [*self.command, *model, *test.flags, "-t", str(n_threads), "-r", "1"]
        command += ["-o", "json", *self.extra]
        status, output, errors = self._finish(command)
        if status != 0:
            what = f"status {status}" if status > 0 else f"ended by {_signal_name(-status)}"
            raise PlayerFailed(f"{self.label}: {what}{_tail(errors or output)}")
        for row in _rows(output):
            if (row.get("n_prompt"), row.get("n_gen")) == test.lengths:
                speed = row.get("avg_ts")
                if not isinstance(speed, (int, float)) or not 0 < speed < math.inf:
                    raise PlayerFailed(f"{self.label}: {test.name} at {speed} tokens a second")
                return row
        said = _tail(output or errors)
        raise PlayerFailed(f"{self.label}: its answer has no row {test.name}{said}")

    def _finish(self, command: list[str]) -> tuple[int, str, str]:
        """Run a command to its end; give its status, output and errors."""
        pipe = subprocess.PIPE
        try:
            # A session of its own, so that a wrapper's children end with it.
            process = subprocess.Popen(
                command, stdout=pipe, stderr=pipe, cwd=ROOT, start_new_session=True
            )
        except OSError as error:
            reason = error.strerror or error
            raise PlayerFailed(f"{self.label}: {command[0]} does not start ({reason})") from None
        with process:
            try:
                output, errors = process.communicate(timeout=self.timeout_s)
            except BaseException as error:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    reason = f"no answer within {self.timeout_s:g} s"
                    raise PlayerFailed(f"{self.label}: {reason}") from None
                raise
        return process.returncode, output.decode(errors="replace"), errors.decode(errors="replace")

    def close(self) -> None:
        """Nothing runs between turns."""


def _rows(text: str) -> list[dict[str, Any]]:
    """Give llama-bench's rows: a JSON list of objects, whatever a program chats around it."""
    decoder = json.JSONDecoder()
    begin = text.find("[")
    while begin >= 0:
        with contextlib.suppress(ValueError, RecursionError):
            found, _ = decoder.raw_decode(text, begin)
            if found and all(isinstance(row, dict) for row in found):
                return list(found)
        begin = text.find("[", begin + 1)
    return []


def _tail(text: str) -> str:
    """Give the last lines that a program said, on one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-3:]
    said = " / ".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return f": {said[-MAX_SAID:]}" if said else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def Ours(model: str, arguments: str) -> Binary:
    """Make a player of ``edgesparse bench`` with further arguments."""
    extra = words(arguments)
    label = " ".join(["edgesparse", *extra])
    own_model = any(word in ("-m", "--model") for word in extra)
    command = [sys.executable, "-m", "edgesparse", "bench"]
    return Binary(label, command, "" if own_model else model, extra)


class LlamaCppPython:
    """llama.cpp through its Python package, in an interpreter that has it; one process a count."""

    def __init__(
        self, model: str, python: str, *, plain: bool, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.label = "llama-cpp-python"
        self._model, self._python, self._plain = model, python, plain
        self._timeout_s = timeout_s
        self._workers: dict[int, Worker] = {}

    def play(self, test: Case, n_threads: int) -> dict[str, Any]:
        try:
            if n_threads not in self._workers:
                self._workers[n_threads] = Worker(
                    *(self.label, "llama.cpp", self._model, n_threads),
                    python=self._python,
                    plain=self._plain,
                    timeout_s=self._timeout_s,
                )
            return {"avg_ts": self._workers[n_threads].run(test.kind, test.n_tokens)}
        except RuntimeError as error:
            raise PlayerFailed(str(error)) from None

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def parse_peer(text: str, model: str, arguments: dict[str, str]) -> Binary:
    """Read ``NAME=/path/llama-bench[,MODEL.gguf]``.

    Paths are those of the working directory; a program without a folder is looked for in ``PATH``.

    Raises
    ------
    ValueError
        It does not look like that, or there is no such program.
    """
    name, equals, rest = text.partition("=")
    program, _, own_model = rest.partition(",")
    if not (name and equals and program):
        raise ValueError(f"expected NAME=/path/llama-bench[,MODEL.gguf], not {text!r}")
    found = shutil.which(program)
    if found is None:
        raise ValueError(f"{name}: there is no program {program}")
    own_model = str(Path(own_model).resolve()) if own_model else model
    # Not resolved further than made absolute: programs find their libraries by their own name.
    return Binary(name, [os.path.abspath(found)], own_model, words(arguments.get(name, "")))


def words(text: str) -> list[str]:
    """Split arguments as a shell does.

    Raises
    ------
    ValueError
        A quotation is not closed.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text}: {str(error).lower()}") from None
