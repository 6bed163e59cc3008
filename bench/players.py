"""Engines that take turns: anything that speaks llama-bench, ours among them, and llama-cpp-python.

A player answers one question: how many tokens per second for this test with this many threads.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.workers import Worker

__all__ = ["Binary", "Case", "LlamaCppPython", "Ours", "Player", "PlayerFailed", "parse_peer"]

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 600


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
    def flags(self) -> list[str]:
        """Arguments of llama-bench."""
        prompt, gen = (self.n_tokens, 0) if self.kind == "pp" else (0, self.n_tokens)
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
    """

    label: str
    command: list[str]
    model: str
    extra: list[str] = field(default_factory=list)

    def play(self, test: Case, n_threads: int) -> dict[str, Any]:
        model = ["-m", self.model] if self.model else []
        command = [*self.command, *model, *test.flags, "-t", str(n_threads), "-r", "1"]
        command += ["-o", "json", *self.extra]
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT
            )
        except OSError as error:
            raise PlayerFailed(f"{self.label}: {command[0]} does not start ({error})") from None
        except subprocess.TimeoutExpired:
            raise PlayerFailed(f"{self.label}: no answer within {TIMEOUT_S} s") from None
        if done.returncode != 0:
            tail = " / ".join(done.stderr.strip().splitlines()[-3:])
            raise PlayerFailed(f"{self.label}: status {done.returncode}: {tail}")
        return self._row(done.stdout, test)

    def _row(self, text: str, test: Case) -> dict[str, Any]:
        try:
            rows = json.loads(text[text.index("[") :])
            prompt = test.n_tokens if test.kind == "pp" else 0
            row: dict[str, Any] = next(r for r in rows if r["n_prompt"] == prompt)
            row["avg_ts"] = float(row["avg_ts"])
        except (ValueError, KeyError, TypeError, StopIteration):
            raise PlayerFailed(f"{self.label}: its answer has no row {test.name}") from None
        return row

    def close(self) -> None:
        """Nothing runs between turns."""


def Ours(model: str, arguments: str) -> Binary:
    """Make a player of ``edgesparse bench`` with further arguments."""
    extra = shlex.split(arguments)
    label = " ".join(["edgesparse", *extra])
    own_model = any(word in ("-m", "--model") for word in extra)
    command = [sys.executable, "-m", "edgesparse", "bench"]
    return Binary(label, command, "" if own_model else model, extra)


class LlamaCppPython:
    """llama.cpp through its Python package, in an interpreter that has it; one process a count."""

    def __init__(self, model: str, python: str, *, plain: bool) -> None:
        self.label = "llama-cpp-python"
        self._model, self._python, self._plain = model, python, plain
        self._workers: dict[int, Worker] = {}

    def play(self, test: Case, n_threads: int) -> dict[str, Any]:
        try:
            if n_threads not in self._workers:
                self._workers[n_threads] = Worker(
                    *(self.label, "llama.cpp", self._model, n_threads),
                    python=self._python,
                    plain=self._plain,
                )
            return {"avg_ts": self._workers[n_threads].run(test.kind, test.n_tokens)}
        except RuntimeError as error:
            raise PlayerFailed(str(error)) from None

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def parse_peer(text: str, model: str, arguments: dict[str, str]) -> Binary:
    """Read ``NAME=/path/llama-bench[,MODEL.gguf]``.

    Raises
    ------
    ValueError
        It does not look like that.
    """
    name, equals, rest = text.partition("=")
    program, _, own_model = rest.partition(",")
    if not (name and equals and program):
        raise ValueError(f"expected NAME=/path/llama-bench[,MODEL.gguf], not {text!r}")
    return Binary(name, [program], own_model or model, shlex.split(arguments.get(name, "")))
