"""The profile accounts for every op, every byte and every multiplication."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from bench.make_model import make_model
from bench.model_shapes import Shape
from bench.profile_ops import main, profile_decode, profile_prefill
from edgesparse.plan.cost import bytes_per_token

TINY = Shape("this test", 256, 512, 3, 4, 2, 64, 1200, 128, 10_000.0)
KINDS = {"embed", "qkv", "rope", "attn", "attn_output", "gate_up", "down", "head"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "m.gguf"
    make_model(file, TINY, "tq2_0", head="q8_0")
    return file


def test_decode_accounts_for_everything(path: Path) -> None:
    with edgesparse.load(path, threads=1) as model:
        ids = np.arange(20, dtype=np.int32)
        rows = profile_decode(model, ids[:16], ids[16:])
        assert {row.kind for row in rows} == KINDS
        assert sum(row.n_ops for row in rows) == len(model.engine.plan.ops)
        expected = bytes_per_token(model.engine.plan, model.parameters, 18)
    assert sum(row.n_bytes for row in rows) == expected
    assert all(row.us > 0 for row in rows)


def test_prefill_counts_the_head_once(path: Path) -> None:
    with edgesparse.load(path, threads=2) as model:
        rows = {row.kind: row for row in profile_prefill(model, np.arange(11, dtype=np.int32))}
    assert set(rows) == KINDS
    assert rows["head"].multiply_adds == TINY.n_vocab * TINY.width
    assert rows["down"].multiply_adds == 11 * 3 * TINY.width * TINY.feed_forward
    # Tokens at positions 0 to 10 see 1 to 11 keys and as many values.
    assert rows["attn"].multiply_adds == 2 * 3 * TINY.width * sum(range(1, 12))


def test_command_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(path), "--threads", "1,2", "--prompt", "24", "--steps", "3"])
    out = capsys.readouterr().out
    assert out.count("decode, threads") == out.count("prefill of 24") == 2
    result = json.loads(out.splitlines()[-1])
    for n_threads in (1, 2):
        measured = result[f"threads_{n_threads}"]
        assert measured["gb_per_s"] > 0
        assert {row["kind"] for row in measured["decode"]} == KINDS
