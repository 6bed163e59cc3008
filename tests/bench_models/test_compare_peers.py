"""Engines take turns; ratios are taken round by round; failures are told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.compare_peers import compare, main
from bench.make_model import make_model
from bench.model_shapes import Shape
from bench.players import Binary, Case, Ours, PlayerFailed, parse_peer
from bench.workers import Worker

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


def script(folder: Path, text: str) -> Path:
    """Make a program of shell commands."""
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


ROW = '{"n_prompt": 0, "n_gen": 4, "avg_ts": 5}'


@pytest.mark.parametrize(
    "text",
    [
        f"echo '[{ROW}]'",
        f"echo 'loading [cpu] [1]'; echo '[{ROW}]'; echo 'freed [2]'",
        f"printf '\\377\\n'; echo '[{ROW}]'",
        f"echo '[{ROW.replace('4', '8')}, {ROW}]'",
    ],
)
def test_rows_are_found_amid_chatter(text: str, tmp_path: Path) -> None:
    assert Binary("x", [str(script(tmp_path, text))], "").play(Case("tg", 4), 1)["avg_ts"] == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("echo oh dear; exit 7", "status 7: oh dear"),
        ("seq 99999 >&2; exit 1", "status 1: 99997 / 99998 / 99999$"),
        ("true", "no row tg4$"),
        ("echo hello; echo '[[[ {'", "no row tg4: hello"),
        ("echo '[1, 2]'", "no row tg4"),
        ("head -c 3000 /dev/urandom", "no row tg4"),
        (f"echo '[{ROW.replace('4', '8')}]'", "no row tg4"),
        (f"echo '[{ROW.replace('5', '0')}]'", "tg4 at 0 tokens"),
        (f"echo '[{ROW.replace('5', '-5')}]'", "tg4 at -5 tokens"),
        (f"echo '[{ROW.replace('5', 'NaN')}]'", "tg4 at nan tokens"),
        (f"echo '[{ROW.replace('5', 'null')}]'", "tg4 at None tokens"),
    ],
)
def test_what_is_no_answer_is_told(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PlayerFailed, match=words) as failed:
        Binary("x", [str(script(tmp_path, text))], "").play(Case("tg", 4), 1)
    assert str(failed.value).isprintable()
    assert len(str(failed.value)) < 400


def test_a_peer_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    mark = tmp_path / "child"
    program = script(tmp_path, f"sleep 600 & echo $! > {mark}; wait")
    player = Binary("x", [str(program)], "", timeout_s=1.0)
    with pytest.raises(PlayerFailed, match="no answer within 1 s"):
        player.play(Case("tg", 4), 1)
    status = Path(f"/proc/{int(mark.read_text())}/stat")
    for _ in range(100):  # it is a zombie until someone reaps it
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the child of a program that was given up still runs")


def test_peers_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = script(tmp_path, "true")
    monkeypatch.chdir(tmp_path)
    peer = parse_peer("ik=./program,other.gguf", "same.gguf", {"ik": "-rtr 1"})
    assert (peer.label, peer.command) == ("ik", [str(bench)])  # wherever it is started
    assert peer.model == str(tmp_path / "other.gguf")
    assert peer.extra == ["-rtr", "1"]
    assert parse_peer(f"ik={bench}", "same.gguf", {}).model == "same.gguf"
    assert Path(parse_peer("ik=sh", "same.gguf", {}).command[0]).is_absolute()
    for bad in ("ik", "=x", "ik="):
        with pytest.raises(ValueError, match="NAME="):
            parse_peer(bad, "m", {})
    for bad, arguments in (("ik=/no/such/bench", ""), ("ik=/bin", ""), ("ik=/bin/sh", '"x')):
        with pytest.raises(ValueError, match=r"no program|closing quotation"):
            parse_peer(bad, "m", {"ik": arguments})
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


def test_what_was_measured_before_a_failure_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = script(tmp_path, f"""[ "$4" = 0 ] || exit 9; echo '[{ROW}]'""")
    monkeypatch.setattr("bench.compare_peers.Ours", lambda *_: Scripted("ours", [10, 10], []))
    words = ["default", "--peer", f"x={program}", "--threads", "1", "--rounds", "1", "--gen", "4"]
    assert main([*words, "--prompt", "8"]) == 1
    seen = capsys.readouterr()
    found = json.loads(seen.out.splitlines()[-1])
    assert [row["ratios"] for row in found["rows"]] == [{"ours": {"x": 2}}]
    assert found["failed"] == "x: status 9"
    assert "x: status 9" in seen.err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--threads", "abc"], "--threads takes whole numbers"),
        (["--threads", "0"], "from 1 on"),
        (["--threads", ","], "above 0"),
        (["--rounds", "0"], "above 0"),
        (["--timeout", "0"], "above 0"),
        (["--gen", "0", "--prompt", "0"], "one of them more than 0"),
        (["--gen", "-1"], "from 0 on"),
        (["--peer", "x=/no/such/llama-bench"], "no program"),
        (["--peer", "sh=sh", "--peer", "sh=sh"], "same name"),
        (["--peer-args", "nobody=-x"], "which is no --peer"),
        (["--ours", '"--isa'], "no closing quotation"),
        (["--llama-cpp-python", "/no/such/python"], "not installed"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["default", *words])
    assert refused.value.code == 2
    seen = capsys.readouterr()
    assert reason in seen.err.splitlines()[-1]
    assert not seen.out


def test_a_silent_worker_is_given_up(tmp_path: Path) -> None:
    for text, reason in (
        ("sleep 600", "no answer"),
        ("exit 3", "ended with status 3"),
        ("echo READY; read line; echo oops", "answered 'oops'"),
    ):
        python = str(script(tmp_path, text))
        with pytest.raises(RuntimeError, match=reason):
            Worker("x", "llama.cpp", "m", 1, python=python, timeout_s=1.0).run("tg", 1)
