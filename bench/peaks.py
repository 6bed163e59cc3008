"""Peak memory with a full context: ``edgesparse run`` and ``es_run``, reading and mapping a model.

Run: make es-run && python -m bench.peaks --model FILE [--context 2048] [--head q6] [--tokens 8]
Converts the model with every storage of ternary weights and of the cache asked for, then runs each
file in a process of its own whose prompt and answer fill the context. Peaks are VmHWM of
/proc/PID/status; "anonymous" leaves out the pages of mapped files, which the system may drop and
read again. Linux only. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edgesparse.checkpoint import open_checkpoint
from edgesparse.tokenizer import load_tokenizer

ROOT = Path(__file__).parent.parent
ES_RUN = ROOT / "build" / "run" / "es_run"
PROGRAM = [sys.executable, "-m", "edgesparse"]
POLL_S = 0.02


def peaks(command: list[str]) -> dict[str, float]:
    """Run a command; return the largest VmHWM and RssAnon seen, in 10⁶ bytes."""
    found = {"VmHWM": 0, "RssAnon": 0}
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors) as process:
            while process.poll() is None:
                try:
                    status = Path(f"/proc/{process.pid}/status").read_text()
                except OSError:
                    break
                for name in found:
                    value = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
                    found[name] = max(found[name], int(value[1]) if value else 0)
                time.sleep(POLL_S)
        errors.seek(0)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)[:200]}: {errors.read()}")
    return {"peak_mb": found["VmHWM"] * 1024 / 1e6, "anonymous_mb": found["RssAnon"] * 1024 / 1e6}


def prompt_of(model: Path, n_tokens: int) -> str:
    """Write a text of about `n_tokens` tokens, and no more."""
    with open_checkpoint(model) as checkpoint:
        tokenizer = load_tokenizer(checkpoint)
    word = " the"
    n_words = n_tokens // max(1, (len(tokenizer.encode(word * 64)) + 63) // 64)
    while len(tokenizer.encode(word * n_words)) + 2 > n_tokens:
        n_words -= 1
    return word * n_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=8, help="to generate at the end")
    parser.add_argument("--head", default="q6")
    parser.add_argument("--ternary", nargs="*", default=["t2", "t5"])
    parser.add_argument("--cache", nargs="*", default=["f16", "q8_0"])
    parser.add_argument("--threads", type=int, default=2)
    o = parser.parse_args()
    rows = []
    print(
        f"head {o.head}, context {o.context}\n\n| weights | cache | program | file MB | peak MB | ",
        end="",
    )
    print("anonymous MB |\n|---|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        folder = Path(name)
        text, file = folder / "prompt.txt", folder / "model.esp"
        text.write_text(prompt_of(o.model, o.context - o.tokens))
        tokens = [str(3 + i % 1000) for i in range(o.context - o.tokens)]
        for ternary in o.ternary:
            for cache in o.cache:
                options = ["-ctk", cache, "-ctv", cache, "-c", str(o.context)]
                storage = ["--ternary", ternary, "--head", o.head]
                make = [*PROGRAM, "convert", str(o.model), str(file), *storage, *options]
                subprocess.run([*make, "-q", "--force"], check=True, stdout=subprocess.DEVNULL)
                run = [*PROGRAM, "run", "-f", str(text), "--raw", "-n", str(o.tokens), *options]
                run += ["--temp", "0", "--no-loop-guard", "-q", "-t", str(o.threads), "-m"]
                alone = [str(ES_RUN), str(file), "-n", str(o.tokens), "-t", str(o.threads)]
                for program, command in {
                    "edgesparse, GGUF": [*run, str(o.model), *storage],
                    "edgesparse": [*run, str(file)],
                    "edgesparse --mmap": [*run, str(file), "--mmap"],
                    "es_run": [*alone, *tokens],
                    "es_run --mmap": [*alone, "--mmap", *tokens],
                }.items():
                    size = o.model if "GGUF" in program else file
                    row = {"ternary": ternary, "cache": cache, "program": program}
                    row |= {"file_mb": size.stat().st_size / 1e6, **peaks(command)}
                    rows.append(row)
                    print(
                        f"| {ternary} | {cache} | {program} | {row['file_mb']:.0f} "
                        f"| {row['peak_mb']:.0f} | {row['anonymous_mb']:.0f} |",
                        flush=True,
                    )
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
