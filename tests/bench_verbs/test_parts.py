"""Kernels and profiles: every case is measured, and work is counted exactly."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from bench.make_model import make_model
from edgesparse.benchmark.cases import Case, Stored, matrix_cases, model_cases, shape_cases
from edgesparse.benchmark.kernels import judge, measure_case
from edgesparse.benchmark.lookup_error import lookup_error
from edgesparse.benchmark.micro import attention_micro, linear_micro, time_ops
from edgesparse.benchmark.outputs import format_rows
from edgesparse.benchmark.profile import barrier_ns, profile, profile_decode, profile_prefill
from edgesparse.benchmark.shapes import SHAPES, Shape
from edgesparse.cli import main
from edgesparse.errors import UsageError
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.formats.weight import Format, Slices
from edgesparse.plan.cost import bytes_per_token, plan_costs

TINY = Shape("this test", 256, 512, 3, 4, 2, 64, 1200, 128, 10_000.0)
KINDS = {"embed", "qkv", "rope", "attn", "attn_output", "gate_up", "down", "head"}
QUICK = {"working_set": 1 << 16, "budget_s": 0.002}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "m.gguf"
    make_model(file, TINY, "tq2_0", head="q8_0")
    return file


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


# ---- kernels ------------------------------------------------------------


@pytest.mark.parametrize("fmt", [f for f in Format if not f.is_aside])
def test_every_format_runs_on_every_isa(fmt: Format) -> None:
    case = Case(fmt.name.lower(), "here", 70, 200, 3)
    rows = list(measure_case(case, isas=list(isa_names()), threads=[1, 2], **QUICK))
    assert [(r.n_threads, r.isa) for r in rows] == [(n, isa) for n in (1, 2) for isa in isa_names()]
    for row in rows:
        assert row.n_samples >= 1
        assert row.multiply_adds == 70 * 200 * 3
        assert row.working_set_bytes >= 1 << 16
        assert min(row.ns, row.n_bytes, row.read_bandwidth_gb_per_s) > 0
        assert set(row.variant.split("+")) <= {*isa_names(), "avx512vbmi2", "lookup"}


def test_attention_reads_what_it_says() -> None:
    micro = attention_micro(4, 2, 16, n_tokens=3, depth=10, n_copies=2)
    assert (micro.begin, micro.end) == (2, 4)
    assert micro.multiply_adds == 2 * 4 * 16 * (11 + 12 + 13)
    one = attention_micro(4, 2, 16, n_tokens=1, depth=10, n_copies=2)
    cost = plan_costs(one.plan, one.parameters, 10)[2]
    assert (cost.n_bytes, cost.multiply_adds) == (one.n_bytes, one.multiply_adds)
    executor = NativeExecutor(micro.plan, micro.parameters, threads=2)
    micro.prepare(executor)
    assert np.any(executor.buffer("q", 3))
    assert len(time_ops(executor, micro, 0.005)) >= 1
    assert np.all(np.isfinite(executor.buffer("o", 3)))
    assert np.any(executor.buffer("o", 3))
    executor.close()


def test_copies_are_all_used() -> None:
    micro = linear_micro(Format.T2, 32, 128, n_tokens=1, n_copies=5)
    assert len({w.data.ctypes.data for w in micro.parameters.weights.values()}) == 5
    executor = NativeExecutor(micro.plan, micro.parameters, threads=1)
    micro.prepare(executor)
    assert len(time_ops(executor, micro, 0.01)) >= 5
    executor.close()


def test_ceilings_are_those_of_the_run() -> None:
    case = Case("t2", "here", 64, 128, 1)
    a = next(measure_case(case, isas=["scalar"], threads=[1], **QUICK))
    a = replace(a, ns=10.0, read_bandwidth_gb_per_s=100.0)
    b = replace(a, case=replace(case, n_tokens=8), ns=20.0, multiply_adds=8 * 64 * 128)
    b = replace(b, read_bandwidth_gb_per_s=200.0)
    judged = judge([a, b, replace(a, n_threads=2)])
    assert [row.read_bandwidth_gb_per_s for row in judged] == [200.0, 200.0, 100.0]
    assert judged[0].share == pytest.approx(a.n_bytes / 10.0 / 200.0)
    assert judged[1].share == 1.0
    assert judged[0].best_gmac_per_s == b.gmac_per_s
    assert judged[2].best_gmac_per_s == a.gmac_per_s


def test_cases_of_shapes_and_models() -> None:
    cases = shape_cases("2b4t", SHAPES["2b4t"], [1, 8])
    ternary = [case for case in cases if case.kernel in ("t2", "t5")]
    assert {(c.n_rows, c.k) for c in ternary} == {
        *((2560, 2560), (640, 2560), (6912, 2560), (2560, 6912))
    }
    assert len(ternary) == 4 * 2 * 2
    assert {c.where for c in cases if c.kernel == "t2n"} == {"2b4t ffn_down"}
    assert {c.op for c in cases} == {"gemv", "gemm", "attention"}
    planes = [c for c in cases if c.kernel.startswith("bs")]
    assert {c.where for c in planes} == {"2b4t ffn_up"}
    assert [(c.kernel, c.lossy) for c in planes] == [
        ("bst", False),
        *((f"bs{bits}", lossy) for bits in (1, 2, 3, 4) for lossy in (False, True)),
    ]
    weights = [
        Stored("blk.0.ffn_up.weight", Format.T2, 64, 32),
        Stored("blk.1.ffn_up.weight", Format.T2, 64, 32),
        Stored("token_embd.weight", Format.Q8, 50_000, 32),
        Stored("blk.0.attn_q.weight", Format.BMP8, 64, 32, zeros=0.5),
        Stored("blk.0.attn_k.weight", Format.BS2, 64, 256, slices=Slices(128)),
        Stored("blk.1.attn_k.weight", Format.BS2, 64, 256, slices=Slices(64)),
    ]
    found = model_cases("m", weights, (4, 2, 8), 16, [1, 8])
    assert [c.zeros for c in found if c.kernel == "bmp8"] == [0.5, 0.5]
    sliced = [c for c in found if c.kernel == "bs2"]
    assert [(c.slices.group, c.n_tokens, c.lossy) for c in sliced] == [
        (group, n, lossy) for group in (128, 64) for n in (1, 8) for lossy in (False, True)
    ]
    assert [(c.kernel, c.n_rows, c.n_tokens) for c in found if c not in sliced] == [
        *(("t2", 64, 1), ("t2", 64, 8), ("t5", 64, 1), ("t5", 64, 8)),
        *(("q8", 32_768, 1), ("bmp8", 64, 1), ("bmp8", 64, 8)),
        *(("attention", 32, 1), ("attention", 32, 8)),
    ]


def test_a_matrix_in_every_number_of_bits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = matrix_cases(64, 256, [1])
    assert len(cases) == 2 + 6 + 1 + 4 * 3 * 2
    assert len({case.copy_bytes for case in cases if case.kernel == "bs3"}) == 3
    monkeypatch.setattr("edgesparse.benchmark.kernels.memory_bytes", lambda: 1 << 16)
    flags = ("bench", "--kernels", "--shapes", "64x256", "--row-seconds", "0.001", "-t", "1")
    text = output(capsys, *flags, "--tokens", "1", "--isa", "scalar", "-o", "json")
    rows = json.loads(text)
    assert len(rows) == len(cases)
    for row in rows:
        bits = {"bs1": 1, "bs2": 2, "bs3": 3, "bs4": 4}.get(row["kernel"])
        assert row["group"] in ((32, 64, 128) if bits else (0,))
        assert row["nmse"] == (lookup_error(bits, lossy=row["lossy"]) if bits else None)
    table = output(capsys, *flags, "--tokens", "1", "--isa", "scalar", "--only", "bs2")
    assert re.search(r"\| bs2_g64 +\|", table)
    assert re.search(r"\| bs2_g64 lossy +\|.* 7\.8e-04 \|", table)
    for size in ("0x64", "64x", "64x64x64"):
        assert main([*flags, "--shapes", size]) == 2


def test_kernels_verb(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.benchmark.kernels.memory_bytes", lambda: 1 << 16)
    flags = ("bench", "--kernels", str(path), "--row-seconds", "0.001", "-t", "1")
    rows = json.loads(output(capsys, *flags, "--tokens", "1,4", "--in-cache", "-o", "json"))
    assert {row["kernel"] for row in rows} == {"t2", "t2n", "t5", "q8", "attention"}
    assert {row["isa"] for row in rows} == set(isa_names())
    assert {row["n_tokens"] for row in rows} == {1, 4}
    assert {row["in_cache"] for row in rows} == {True, False}
    assert all(row["share"] > 0 for row in rows)
    table = output(capsys, *flags, "--only", "t2", "--isa", "scalar", "--tokens", "1")
    assert "| t2 " in table
    assert "| q8 " not in table
    text = output(capsys, *flags, "--only", "q8", "--tokens", "1", "-o", "csv")
    assert {row["kernel"] for row in csv.DictReader(io.StringIO(text))} == {"q8"}
    for bad in (("--only", "t9"), ("--shapes", "x"), ("--tokens", "0"), ("--row-seconds", "0")):
        assert main([*flags, *bad]) == 2


def test_small_matrices_do_not_become_millions_of_copies(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesparse.benchmark.kernels.memory_bytes", lambda: 1 << 20)
    monkeypatch.setattr("edgesparse.benchmark.kernels.MAX_COPIES", 16)
    flags = ("bench", "--kernels", "--row-seconds", "0.001", "-t", "1", "--tokens", "1")
    flags += ("--only", "t2", "--isa", "scalar", "-o", "json")
    (small,) = json.loads(output(capsys, *flags, "--shapes", "3x7"))
    (large,) = json.loads(output(capsys, *flags, "--shapes", "1024x1024"))
    assert small["in_cache"]
    assert small["working_set_bytes"] <= 16 << 10
    assert not large["in_cache"]
    assert large["working_set_bytes"] >= 1 << 20


def test_flags_of_another_measurement_are_refused(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    n = 0
    for kind, flags in (
        ((), ("--shapes=2b4t", "--tokens=1", "--only=t2", "--in-cache", "--row-seconds=1")),
        (("--profile",), ("--shapes=2b4t", "--tokens=1", "-d=4", "-pg=4,2", "--kernels")),
        (("--kernels",), ("-p=4", "-n=4", "-d=4", "-pg=4,2")),
    ):
        for flag in flags:
            words = flag.split("=") if flag.count("-") == 1 else [flag]
            assert main(["bench", str(path), *kind, *words]) == 2
            assert flag.split("=")[0] in capsys.readouterr().err
            n += 1
    assert n == 14
    assert main(["bench", str(path), "-p", "0", "-n", "0"]) == 2
    assert "nothing to measure" in capsys.readouterr().err
    for kind in ("--kernels", "--profile", "--no-warmup"):
        assert main(["bench", str(path), kind, "-t", "1025"]) == 2
        assert "between 1 and 1024, not 1025" in capsys.readouterr().err


# ---- profiles ------------------------------------------------------------


def test_decode_accounts_for_everything(path: Path) -> None:
    with edgesparse.load(path, threads=1) as model:
        ids = np.arange(20, dtype=np.int32)
        kinds = profile_decode(model, ids[:16], ids[16:])
        assert {kind.kind for kind in kinds} == KINDS
        assert sum(kind.n_ops for kind in kinds) == len(model.engine.plan.ops)
        everything = bytes_per_token(model.engine.plan, model.parameters, 18)
        with edgesparse.load(path, threads=1, sparse="off") as dense:
            plain = profile_decode(dense, ids[:16], ids[16:])
            expected = bytes_per_token(dense.engine.plan, dense.parameters, 18)
    assert sum(kind.n_bytes for kind in plain) == expected
    # About half of the random gates are dead.
    assert 0.6 * everything < sum(kind.n_bytes for kind in kinds) < everything
    assert all(kind.us > 0 for kind in kinds)


def test_a_two_stage_head_is_profiled_as_it_runs(path: Path) -> None:
    """Its coarse copy is read; of so small a vocabulary every row is a candidate."""
    ids = np.arange(20, dtype=np.int32)
    with edgesparse.load(path, threads=1, head="two-stage") as model:
        kinds = {kind.kind: kind for kind in profile_decode(model, ids[:16], ids[16:])}
        coarse = model.parameters.coarse
        assert coarse is not None
        head = model.parameters.weights["token_embd.weight"]
        assert kinds["head"].n_bytes == coarse.n_bytes + head.n_bytes


def test_prefill_counts_the_head_once(path: Path) -> None:
    with edgesparse.load(path, threads=2) as model:
        kinds = {k.kind: k for k in profile_prefill(model, np.arange(11, dtype=np.int32))}
    assert set(kinds) == KINDS
    assert kinds["head"].multiply_adds == TINY.n_vocab * TINY.width
    assert kinds["down"].multiply_adds == 11 * 3 * TINY.width * TINY.feed_forward
    # Tokens at positions 0 to 10 see 1 to 11 keys and as many values.
    assert kinds["attn"].multiply_adds == 2 * 3 * TINY.width * sum(range(1, 12))


def test_barriers_have_a_share(path: Path) -> None:
    assert 0 < barrier_ns(1) < 1e6
    with pytest.raises(UsageError):
        barrier_ns(0)
    with edgesparse.load(path, threads=2) as model:
        found = profile(model, n_prompt=8, n_steps=2)
        with pytest.raises(UsageError, match="context"):
            profile(model, n_prompt=128, n_steps=1)
        expected = found.barrier_ns * len(model.engine.plan.ops) / 1e3 / found.token_us
    assert found.barrier_share == pytest.approx(expected)
    assert found.read_bandwidth_gb_per_s > 0
    with (
        edgesparse.load(path, threads=1, executor="portable") as model,
        pytest.raises(UsageError, match="native"),
    ):
        profile(model)


def test_profile_verb(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("bench", "--profile", str(path), "-t", "1,2", "-p", "24", "-n", "3")
    rows = json.loads(output(capsys, *flags, "-o", "json"))
    for n_threads in (1, 2):
        mine = [row for row in rows if row["n_threads"] == n_threads]
        for phase, n_tokens in (("decode", 1), ("prefill", 24)):
            ops = [row for row in mine if row["phase"] == phase]
            assert {row["op"] for row in ops} == KINDS
            assert {row["n_tokens"] for row in ops} == {n_tokens}
            assert sum(row["share"] for row in ops) == pytest.approx(1, abs=1e-3)
    assert {row["quality"] for row in rows} == {"exact, no approximation is on"}
    text = output(capsys, *flags, "--head", "q4")
    assert "phases with a barrier of" in text
    assert "quality: lossy: head Q8_0 rounded to q4" in text
    assert main([*flags, "--kernels"]) == 2


# ---- outputs ------------------------------------------------------------


def test_sql_is_what_a_database_reads() -> None:
    import sqlite3

    rows = [{"name": "it's", "n": 3, "x": 0.5, "ok": True, "samples": [1]}]
    text = format_rows(rows, "sql", table="t", columns=())
    database = sqlite3.connect(":memory:")
    database.executescript(text + text)  # a second run adds to the first
    assert database.execute("select name, n, x, ok from t").fetchall() == [("it's", 3, 0.5, 1)] * 2
    assert format_rows([], "sql", table="t", columns=()) == ""
