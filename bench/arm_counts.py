"""Instructions and modelled cycles of kernels on a Raspberry Pi 4 and 5, without either.

Run: python -m bench.arm_counts [--kernel NAME …]
Builds for aarch64, runs each kernel in QEMU under a plugin that counts how often every run of
instructions is executed (two runs of different length, so that all but the kernel cancels out), and
asks llvm-mca for the cycles of each run, as if caches never missed and branches were foretold.
What it prints for tokens per second are predictions from those and published memory bandwidths.
Debian: gcc-aarch64-linux-gnu, qemu-user, llvm (19 or later knows Neoverse N1). Last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "arm"
CROSS = "aarch64-linux-gnu-"

TERNARY_WEIGHTS, HEAD_WEIGHTS = 2_084_044_800, 328_335_360
"""Of the BitNet-b1.58-2B-4T shape."""
KERNELS = (
    "t2",
    "t5",
    "t2_list",
    "t5_list",
    "t2n",
    "t2n_sums",
    "bst_lut",
    "bst_mad",
    "bs2_lut",
    "bs2_mad",
)
KERNELS += ("bs2_rounded", "q8n", "q8n_list", "q4n", "q4n_list", "q8mn", "q4mn")
KERNELS += ("q8", "q8m", "q6", "q4", "q4m", "f16", "bf16", "f32")
WITHOUT_ZEROS = ("bmp8", "bmp4", "csr", "nm8", "nm4")
SPARSE = tuple(name + end for name in WITHOUT_ZEROS for end in ("", "_expand"))
ROWWISE = ("q8r_list", "q8r_tile", "q4r_list", "q4r_tile")
SKIPPING = ("proposal", "sign_votes", "sign_bits", "list_positive", "list_nonzero", "list_columns")
VECTORS = ("rmsnorm", "quantize_i8", "quantize_i16", "add", "rope_neox")
VECTORS += ("glu_relu2", "glu_silu", "glu_gelu")
KERNELS += (*SPARSE, *ROWWISE, *SKIPPING, *VECTORS, "scale_sums")
KERNELS += ("attention_f16", "attention_q8_0", "expand_rows", "prune_row")
BODIES = ("t2", "t5", "bst_lut", "bst_mad")
HEAD = "q6"
ONE_TOKEN = ("t2_list", "t5_list", "t2n_sums", "q8n_list", "q4n_list", "q8mn_list", "q4mn_list")
ONE_TOKEN += ("attention_f16", "attention_q8_0", "expand_rows", "prune_row")
ONE_TOKEN += (*SPARSE, *ROWWISE, *SKIPPING, *VECTORS, "scale_sums")
TIMES = 2
LEAST_SHARE = 0.004
"""Runs with a smaller share of the instructions are not modelled; the rest stands for them."""
CALLS = re.compile(r"(bl|blr|br|ret)\b")
JUMPS = re.compile(r"(b|b\.\w+|cbn?z|tbn?z|bl|blr|br|ret)\s?")


@dataclass(frozen=True)
class Board:
    """A computer: QEMU's CPU, our instruction set, llvm-mca's models in order of preference."""

    name: str
    cpu: str
    isa: str
    models: tuple[str, ...]
    cores: int
    hertz: float
    bytes_per_s: float


BOARDS = (
    Board("Pi 4", "cortex-a72", "neon", ("cortex-a72",), 4, 1.8e9, 5.5e9),
    # LLVM gives the A76 the A57's model; the Neoverse N1 is the A76's core for servers.
    Board("Pi 5", "cortex-a76", "neondot", ("neoverse-n1", "cortex-a76"), 4, 2.4e9, 11.4e9),
)


@dataclass(frozen=True)
class Count:
    """What one kernel costs on one board, per weight and token."""

    board: str
    kernel: str
    variant: str
    tokens: int
    instructions: float
    cycles: float
    bytes: float


def run_text(command: list[str], text: str = "") -> str:
    """Run a program to its end and return what it prints."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


@cache
def mca_program() -> str:
    """Find the newest llvm-mca."""
    for name in [*(f"llvm-mca-{n}" for n in range(24, 12, -1)), "llvm-mca"]:
        if shutil.which(name):
            return name
    sys.exit("llvm-mca is missing; Debian: apt-get install llvm-19")


def build(folder: Path) -> None:
    """Build the engine for aarch64, the program around its kernels, and the plugin."""
    tools = Path(sys.executable).parent
    subprocess.run(
        ["native/check/arm.sh", "--build-only"],
        cwd=ROOT,
        check=True,
        env={"PATH": f"{tools}:/usr/bin:/bin:/usr/sbin:/sbin"},
    )
    native, here = ROOT / "native", ROOT / "bench" / "arm"
    includes = [f"-I{native / name}" for name in ("include", "src", ".")]
    # Not position-independent, so that addresses are those of the file.
    source, library = here / "kernels.c", BUILD / "libes_core.a"
    flags = ["-std=c11", "-O2", "-D_GNU_SOURCE", "-static", "-no-pie", "-pthread", *includes]
    program = [f"{CROSS}gcc", *flags, str(source), str(library), "-lm"]
    subprocess.run([*program, "-o", str(folder / "kernels")], check=True)
    plugin = ["cc", "-O2", "-shared", "-fPIC", str(here / "executed.c")]
    subprocess.run([*plugin, "-o", str(folder / "executed.so")], check=True)


Runs = Counter[tuple[int, int]]


def execute(folder: Path, board: Board, kernel: str, tokens: int, times: int) -> tuple[Runs, str]:
    """Return how often each run (address, instructions) was executed, and what was printed."""
    log = folder / "executed.txt"
    plugin = f"{folder / 'executed.so'},out={log}"
    command = ["qemu-aarch64", "-cpu", board.cpu, "-plugin", plugin, str(folder / "kernels")]
    printed = run_text([*command, kernel, board.isa, str(tokens), str(times)])
    runs: Runs = Counter()
    for line in log.read_text().splitlines():
        address, n_instructions, n_executed = line.split()
        runs[int(address, 16), int(n_instructions)] += int(n_executed)
    return runs, printed


def disassemble(program: Path) -> dict[int, str]:
    """Return the instruction at each address."""
    dump = run_text([f"{CROSS}objdump", "-d", "--no-show-raw-insn", str(program)])
    found = re.findall(r"^\s+([0-9a-f]+):\t(.+)$", dump, re.MULTILINE)
    return {int(address, 16): text for address, text in found}


def merged(runs: Runs, code: dict[int, str]) -> Runs:
    """Join runs that follow each other without a jump: the emulator ends them at pages too."""
    left: Runs = Counter(runs)
    for start, n in sorted(runs):
        while (start, n) in left:
            end = start + 4 * n
            after = next((key for key in left if key[0] == end), None)
            jumps = JUMPS.match(code.get(end - 4, "ret"))
            if after is None or jumps or left[after] != left[start, n]:
                break
            times = left.pop((start, n))
            del left[after]
            n += after[1]
            left[start, n] = times
    return left


@cache
def cycles_of(model: str, text: str) -> float:
    """Model the cycles that a run takes when it follows itself."""
    options = ["-march=aarch64", f"-mcpu={model}", "-mattr=+dotprod,+fullfp16"]
    options += ["-iterations=100", "-instruction-info=0", "-resource-pressure=0"]
    report = run_text([mca_program(), *options], text)
    found = re.search(r"Total Cycles:\s+(\d+)", report)
    if found is None:
        sys.exit(f"llvm-mca says nothing of cycles:\n{report}")
    return int(found[1]) / 100


def assembly(code: dict[int, str], start: int, n: int) -> str:
    """Write a run as llvm-mca reads it: targets are all one symbol, calls are left out."""
    lines = [code[start + 4 * i].split("//")[0].strip() for i in range(n)]
    kept = [line for line in lines if not CALLS.match(line)]
    return "\n".join(re.sub(r"[0-9a-f]+ <[^>]*>", "target", line) for line in kept) + "\n"


def model_name(board: Board) -> str:
    """Choose the first of a board's models that this llvm-mca has as one of its own."""
    version = re.search(r"LLVM version (\d+)", run_text([mca_program(), "--version"]))
    recent = version is not None and int(version[1]) >= 17
    return board.models[0 if recent else -1]


def count(
    folder: Path, code: dict[int, str], board: Board, kernel: str, tokens: int
) -> tuple[Count, float]:
    """Count one kernel; also return the share of instructions that was modelled."""
    few, printed = execute(folder, board, kernel, tokens, TIMES)
    more, _ = execute(folder, board, kernel, tokens, 2 * TIMES)
    first, second, variant = printed.split()
    n_weights, n_bytes = float(first), float(second)
    # Differing lengths of start-up (addresses of the stack) leave a few strays below zero.
    runs = merged(
        Counter({key: more[key] - few[key] for key in more if more[key] > few[key]}), code
    )
    total = sum(n * times for (_, n), times in runs.items())
    cycles, modelled = 0.0, 0
    for (start, n), times in runs.items():
        if n * times >= LEAST_SHARE * total:
            cycles += times * cycles_of(model_name(board), assembly(code, start, n))
            modelled += n * times
    per = TIMES * n_weights * tokens
    share = modelled / total
    return Count(
        board.name, kernel, variant, tokens, total / per, cycles / share / per, n_bytes
    ), share


def seconds(board: Board, body: Count, head: Count) -> tuple[float, float]:
    """Predict the seconds of a token: reading alone, and reading or computing, the longer one."""
    memory, both = 0.0, 0.0
    for part, n_weights in ((body, TERNARY_WEIGHTS), (head, HEAD_WEIGHTS)):
        reading = n_weights * part.bytes / board.bytes_per_s
        memory += reading
        both += max(reading, n_weights * part.cycles / (board.cores * board.hertz))
    return memory, both


HEADING = (
    "| kernel | variant | tokens | instructions / 1,000 weights | cycles / 1,000 | G weights/s "
    "| reads GB/s |\n|---|---|---:|---:|---:|---:|---:|"
)


def row(board: Board, c: Count) -> str:
    """Write a line of the table; rates are those of all cores, products with weights."""
    rate = 1e-9 * board.cores * board.hertz / c.cycles
    return (
        f"| {c.kernel} | {c.variant} | {c.tokens} | {1e3 * c.instructions:.0f} "
        f"| {1e3 * c.cycles:.0f} | {rate:.1f} | {rate * c.bytes / c.tokens:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", nargs="*", default=list(KERNELS))
    parser.add_argument("--tokens", nargs="*", type=int, default=[1, 8])
    options = parser.parse_args()
    counts: list[Count] = []
    wanted = [
        (kernel, tokens)
        for kernel in options.kernel
        for tokens in options.tokens
        if tokens == 1 or kernel not in ONE_TOKEN
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        code = disassemble(folder / "kernels")
        for board in BOARDS:
            print(f"\n{board.name}: {board.isa}, llvm-mca's {model_name(board)}\n\n{HEADING}")
            for kernel, tokens in wanted:
                c, share = count(folder, code, board, kernel, tokens)
                counts.append(c)
                print(row(board, c) + ("" if share > 0.9 else f" {share:.0%}"), flush=True)
    for board in BOARDS:
        here = {(c.kernel, c.tokens): c for c in counts if c.board == board.name}
        for body in BODIES:
            if (body, 1) in here and (HEAD, 1) in here:
                memory, both = seconds(board, here[body, 1], here[HEAD, 1])
                print(
                    f"PREDICTED {board.name}, 2B-4T shape, {body} and {HEAD} head: "
                    f"{1 / both:.1f} tok/s; memory alone allows {1 / memory:.1f}"
                )
    print(json.dumps([vars(c) for c in counts]))


if __name__ == "__main__":
    main()
