"""Engines take turns; ratios are taken round by round; failures are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.compare_peers import compare, main
from bench.make_model import make_model
from bench.model_shapes import Shape
from bench.players import Binary, Case, Ours, PlayerFailed, parse_peer

FAKE = Path(__file__).with_name("fake_bench.py")
TINY = Shape("this test", 256, 512, 2, 4, 2, 64, 1200, 128, 10_000.0)


class Scripted:
    """A player with speeds written down beforehand, which notes when it was called."""

    def __init__(self, label: str, speeds: list[float], order: list[str]) -> None:
        self.label, self._speeds, self._order = label, iter(speeds), order

    def play(self, test: Case, n_threads: int) -> dict[str, Any]:
        self._order.append(self.label)
        return {"avg_ts": next(self._speeds), "bytes_per_token": 10, "quality": "exact"}

    def close(self) -> None:
        pass


def test_players_take_turns_and_ratios_are_per_round() -> None:
    order: list[str] = []
    players = [Scripted("ours", [10, 40, 30], order), Scripted("peer", [5, 10, 20], order)]
    found = compare(players, 1, Case("tg", 8), 2, 3)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert found["players"]["ours"]["median_ts"] == 30
    assert found["players"]["peer"]["median_ts"] == 10
    assert found["ratios"] == {"ours": {"peer": 2}}


def test_binaries_speak_llama_bench() -> None:
    player = Binary("fake", [sys.executable, str(FAKE), "12.5"], "a.gguf", ["-x", "1"])
    row = player.play(Case("pp", 64), 3)
    assert (row["avg_ts"], row["n_prompt"], row["n_gen"]) == (12.5, 64, 0)
    assert (row["n_threads"], row["model"]) == (3, "a.gguf")
    player.extra = ["--fail", "1"]
    with pytest.raises(PlayerFailed, match="status 3: out of luck"):
        player.play(Case("tg", 4), 1)
    with pytest.raises(PlayerFailed, match="no row"):
        Binary("echo", ["/bin/echo"], "", []).play(Case("tg", 4), 1)
    with pytest.raises(PlayerFailed, match="does not start"):
        Binary("none", ["/no/such/program"], "", []).play(Case("tg", 4), 1)


def test_peers_are_parsed() -> None:
    peer = parse_peer("ik=/bin/bench,other.gguf", "same.gguf", {"ik": "-rtr 1"})
    assert (peer.label, peer.command, peer.model) == ("ik", ["/bin/bench"], "other.gguf")
    assert peer.extra == ["-rtr", "1"]
    assert parse_peer("ik=/bin/bench", "same.gguf", {}).model == "same.gguf"
    for bad in ("ik", "=x", "ik="):
        with pytest.raises(ValueError, match="NAME="):
            parse_peer(bad, "m", {})
    assert Ours("m.gguf", "--isa avx2").label == "edgesparse --isa avx2"
    assert Ours("m.gguf", "-m other.gguf").model == ""


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, program = tmp_path / "m.gguf", tmp_path / "llama-bench"
    make_model(model, TINY, "tq2_0", head="q8_0")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} 5 "$@"\n')
    program.chmod(0o755)
    words = [str(model), "--peer", f"fake={program}", "--threads", "1", "--rounds", "2"]
    assert main([*words, "--prompt", "8", "--gen", "4", "--isa", "scalar"]) == 0
    out = capsys.readouterr().out
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert [row["test"] for row in rows] == ["tg4", "pp8"]
    for row in rows:
        ours = row["players"]["edgesparse --isa scalar"]
        assert len(ours["samples_ts"]) == 2
        assert ours["read_bandwidth_gb_per_s"] > 0
        assert row["ratios"]["edgesparse --isa scalar"]["fake"] > 0
    assert "quality of ours: " in out
    assert main([*words, "--peer-args", "fake=--fail 1"]) == 1
    assert "out of luck" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--peer-args", "nobody=-x"])
