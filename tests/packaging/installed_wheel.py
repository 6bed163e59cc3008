"""Tries an installed package where nothing else is: no compiler, no checkout, nothing writable.

    python tests/packaging/installed_wheel.py

Answers with the default model in a folder, from a home and with temporary files that cannot be
written, without a PATH and any cache; a wheel that needs more than itself and its requirements, or
that writes into its own folder, fails here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_CHECK = """
import importlib.util
import edgesparse
from edgesparse import _native
assert _native.available(), _native.why_not()
origin = importlib.util.find_spec("edgesparse").origin
assert "site-packages" in origin, origin
with edgesparse.load(threads=1) as model:
    assert "site-packages" in model.info.path, model.info.path
    assert model.generate("The sky is", max_tokens=4, temperature=0).text
"""


_FOLDER = """
import importlib.util, os
print(os.path.dirname(importlib.util.find_spec("edgesparse").origin))
"""


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Give size and time of every file below a folder."""
    found = {str(path): path.stat() for path in folder.rglob("*")}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in found.items()}


def main() -> int:
    """Run the checks; return the exit code."""
    # Nobody can write there, root included.
    here = Path("/proc") if sys.platform == "linux" else Path("/")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {
            "HOME": "/dev/null/home",
            "XDG_CACHE_HOME": "/dev/null/cache",
            "XDG_STATE_HOME": "/dev/null/state",
            "TMPDIR": "/dev/null/tmp",
            "PATH": str(folder / "nothing"),
            "PYTHONDONTWRITEBYTECODE": "1",
            **({"LANG": os.environ["LANG"]} if "LANG" in os.environ else {}),
        }

        def run(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, "-I", *command],
                cwd=here,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            if done.returncode != 0:
                raise SystemExit(f"{command}: exit {done.returncode}\n{done.stderr}")
            return done.stdout

        package = Path(run("-c", _FOLDER).strip())
        before = _files(package)
        run("-c", _CHECK)
        program = ("-m", "edgesparse")
        answer = run(*program, "chat", "-p", "Say hello.", "-st", "-n", "8", "--temp", "0")
        assert answer.strip(), "no answer"
        assert "native engine built" in run(*program, "--version")
        assert len(before) > 100, package
        assert _files(package) == before, "the package was written to"
    print(f"the installed package answers: {answer.strip()!r}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
