"""bench, plan, doctor, perplexity and verify as a user calls them, with small settings."""

from __future__ import annotations

import csv
import io
import json
import sqlite3

import pytest

import edgesparse.load_model
from edgesparse import checkpoint
from edgesparse.cli import main

LLAMA_BENCH_KEYS = {
    *("build_commit", "build_number", "cpu_info", "backends", "model_filename", "model_type"),
    *("model_size", "model_n_params", "n_batch", "n_ubatch", "n_threads", "type_k", "type_v"),
    *("n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts"),
    *("samples_ns", "samples_ts"),
}
OWN_KEYS = {"bytes_per_token", "gb_per_s", "read_bandwidth_gb_per_s", "quality"}
TINY = ("-p", "8", "-n", "4", "-r", "2")


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_bench_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(output(capsys, "bench", *TINY, "-t", "1,2", "-o", "json"))
    assert [(r["n_threads"], r["n_prompt"], r["n_gen"]) for r in rows] == [
        (1, 8, 0),
        (1, 0, 4),
        (2, 8, 0),
        (2, 0, 4),
    ]
    for row in rows:
        assert row.keys() >= LLAMA_BENCH_KEYS | OWN_KEYS
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 2
        assert row["avg_ts"] > 0
        assert row["read_bandwidth_gb_per_s"] > 0
        # Decoding counts what it has read: about a fifth of the default model is skipped.
        assert 70e6 < row["bytes_per_token"] + 15e6 * (row["n_gen"] > 0) < 90e6
    decode = rows[1]
    expected = decode["median_ts"] * decode["bytes_per_token"] / 1e9
    assert decode["gb_per_s"] == pytest.approx(expected, rel=1e-3)


def test_bench_other_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    table = output(capsys, "bench", *TINY, "-t", "1", "-d", "0,16")
    assert [t in table for t in ("pp8", "tg4", "pp8 @ d16", "tg4 @ d16")] == [True] * 4
    rows = list(csv.DictReader(io.StringIO(output(capsys, "bench", *TINY, "-t", "1", "-o", "csv"))))
    assert [row["test"] for row in rows] == ["pp8", "tg4"]
    lines = output(capsys, "bench", *TINY, "-t", "1", "-o", "jsonl").splitlines()
    assert [json.loads(line)["n_gen"] for line in lines] == [0, 4]


def test_bench_prompt_and_generation(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("-p", "0", "-n", "0", "-pg", "8,4", "-pg", "4,2", "-r", "1", "-t", "1-2*2")
    rows = json.loads(output(capsys, "bench", *flags, "-o", "json"))
    assert [(r["n_threads"], r["test"]) for r in rows] == [
        *((1, "pp8+tg4"), (1, "pp4+tg2"), (2, "pp8+tg4"), (2, "pp4+tg2"))
    ]
    for row in rows:
        n_tokens = row["n_prompt"] + row["n_gen"]
        assert row["avg_ts"] == pytest.approx(1e9 * n_tokens / row["avg_ns"], rel=1e-3)
        assert row["gb_per_s"] == row["ceiling_ts"] == 0  # no ceiling for a mixture


def test_bench_loads_as_the_flags_say_and_says_what_is_odd(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_noting(path: object, **options: object) -> object:
        opened.append(options)
        return checkpoint.open_checkpoint(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("edgesparse.budget.resident_bytes", lambda: 10**8)
    model = "models/tiny/bitnet-i2_s.gguf"
    with edgesparse.load(model, threads=1) as loaded:
        budget = str(loaded.info.memory.total - 1)
    monkeypatch.setattr(edgesparse.load_model, "open_checkpoint", open_noting)
    flags = ("-p", "0", "-n", "1", "-r", "1", "-t", "1", "--mem-budget", budget)
    assert main(["bench", model, *flags, "--i2s-layout", "64x16"]) == 0
    assert opened == [{"i2s_layout": "64x16"}]
    assert "warning: to stay within the memory budget" in capsys.readouterr().err


def test_bench_sql(capsys: pytest.CaptureFixture[str]) -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(output(capsys, "bench", *TINY, "-t", "1", "-o", "sql"))
    found = database.execute("select test, n_threads from llama_bench").fetchall()
    assert found == [("pp8", 1), ("tg4", 1)]


@pytest.mark.parametrize(
    "argv",
    [
        ("-pg", "8"),
        ("-t", "4-1"),
        ("-p", "x"),
        ("-t", "0"),
        ("-n", "999999"),
        ("-r", "0"),
        ("-p", "-3"),
    ],
)
def test_bench_refuses(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]) -> None:
    assert main(["bench", *TINY, *argv]) == 2
    assert capsys.readouterr().err.strip()


def test_plan(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(output(capsys, "plan", "--position", "100", "-o", "json"))
    assert len(data["ops"]) == data["summary"]["ops"] == 182
    assert data["summary"]["phases_per_layer"] == 6
    assert sum(op["bytes"] for op in data["ops"]) == data["summary"]["bytes_per_token"]
    assert data["summary"]["ceiling_tokens_per_s"] > 0
    table = output(capsys, "plan", "--no-measure")
    assert "blk.0.down" in table
    assert "blk.1.down" not in table


def test_verify(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(output(capsys, "verify", "--against", "portable", "-p", "Hi there", "--json"))
    assert data["difference"] is None
    assert data["n_ops"] == 182
    assert data["n_values"] > 100_000


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(output(capsys, "doctor", "--no-measure", "-o", "json"))
    assert data["native"]["available"]
    assert set(data["native"]["kernels"]) >= {"t2", "t5", "q8", "q4", "attention"}
    assert data["model"]["stored_as"]["TQ1_0 → t2"]["tensors"] == 210
    scalar = json.loads(output(capsys, "doctor", "--no-measure", "--isa", "scalar", "--json"))
    assert set(scalar["native"]["kernels"].values()) == {"scalar"}
    assert "bandwidth" not in output(capsys, "doctor", "--no-measure")


def test_perplexity(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    text = "tests/fixtures/prose.txt"
    out = output(capsys, "perplexity", "-f", text, "-c", "128", "--chunks", "2")
    last = out.strip().splitlines()[-1]
    assert last.startswith("Final estimate: PPL = ")
    assert 1 < float(last.split("=")[1].split("+/-")[0]) < 1000
