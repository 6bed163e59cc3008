"""Time and memory from the start of the process to the first token, with a warm page cache.

Run: python -m bench.startup [--model FILE] [--rounds 7]
Wall time and peak resident memory of ``edgesparse run -p Hi -n 1``, and of importing the package.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.workers import load_average
from edgesparse.default_model import default_model_path


def child(command: list[str]) -> tuple[float, float]:
    """Run a command; return seconds and peak resident megabytes (10⁶ bytes)."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    if status != 0:
        sys.exit(f"{' '.join(command)}: ended with status {status}")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * unit / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=default_model_path())
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    answer = [sys.executable, "-m", "edgesparse", "run", str(options.model)]
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import": [sys.executable, "-c", "import edgesparse"],
        "import_load": [sys.executable, "-c", "import edgesparse; edgesparse.load"],
        "first_token": [*answer, "-p", "Hi", "-n", "1", "--temp", "0", "-q"],
    }
    print(f"load {load_average()}")
    result: dict[str, float] = {"file_mb": options.model.stat().st_size / 1e6}
    for name, command in commands.items():
        child(command)  # warms the page cache
        runs = [child(command) for _ in range(options.rounds)]
        result[f"{name}_s"] = statistics.median(seconds for seconds, _ in runs)
        result[f"{name}_peak_mb"] = max(peak for _, peak in runs)
    check = "import sys, edgesparse; edgesparse.load; exit('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], check=False)
    result["import_without_numba"] = done.returncode == 0
    result["peak_beyond_file_mb"] = result["first_token_peak_mb"] - result["file_mb"]
    for key, value in result.items():
        print(f"{key:24s} {value:10.3f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
