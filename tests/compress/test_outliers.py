"""Outliers beside matrices in few bits: what is chosen, what is kept of it, and what reads it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgesparse
from edgesparse.checkpoint import Checkpoint, TensorType, open_checkpoint
from edgesparse.checkpoint.gguf_types import type_id
from edgesparse.checkpoint.outliers import find_outliers, outliers_name
from edgesparse.checkpoint.strings import StringArray
from edgesparse.cli.program import run
from edgesparse.compress.gguf_out import NewTensor, copied, write_gguf
from edgesparse.compress.outliers import parse_share, take_outliers
from edgesparse.errors import ModelFormatError, UsageError
from edgesparse.formats import Format, dequantize, load_weights
from edgesparse.formats.coo import as_coo, coo_is_valid, unpack_coo
from edgesparse.formats.csr import pack_csr
from edgesparse.formats.sparse import bytes_agree
from edgesparse.formats.weight import Weight
from edgesparse.plan.cost import plan_costs
from tests.models import tiny

IDS = list(range(3, 30))
EXECUTORS = ("native", "portable", "reference")


def quantize(source: str, out: Path, kind: str, *flags: str) -> int:
    return run(["quantize", str(tiny.path(source)), str(out), kind, "-q", "--windows", "0", *flags])


def test_the_largest_are_taken_and_kept() -> None:
    rng = np.random.default_rng(5)
    weight = rng.standard_t(3, (40, 100)).astype(np.float16).astype(np.float32)
    size = rng.uniform(0.1, 3, 100).astype(np.float32)
    n_cases = 0
    for share in (0.001, 0.01, 0.05):
        for by in (None, size):
            rest, outliers = take_outliers(weight, share, by)
            taken = outliers.codes != 0
            assert taken.sum() == round(share * weight.size)
            score = np.abs(weight) * (1 if by is None else by)
            assert score[taken].min() >= score[~taken].max()
            np.testing.assert_array_equal(rest, np.where(taken, 0, weight))
            blocks = np.zeros((40, 128), bool)
            blocks[:, :100] = taken
            alone = np.repeat(blocks.reshape(40, 4, 32).sum(axis=2) == 1, 32, axis=1)[:, :100]
            values = outliers.values
            np.testing.assert_array_equal(values[taken & alone], weight[taken & alone])
            largest = np.abs(weight[taken]).max()
            assert np.abs(values - weight)[taken].max() <= largest / 250
            assert not values[~taken].any()
            n_cases += 1
    assert n_cases == 6


def test_numbers_that_no_half_holds_stay() -> None:
    weight = np.full((1, 64), 1e-9, np.float32)
    weight[0, 32] = 1e30
    rest, outliers = take_outliers(weight, 1 / 32, None)
    np.testing.assert_array_equal(rest, weight)
    assert not outliers.codes.any()


@pytest.mark.parametrize("kind", ["w2_g32", "w4_row", "q4_0"])
@pytest.mark.parametrize("source", ["llama-floats.gguf", "qwen3-bf16", "llama-relu.gguf"])
def test_all_executors_add_them(source: str, kind: str, tmp_path: Path) -> None:
    plain, mixed = tmp_path / "plain.gguf", tmp_path / "mixed.gguf"
    assert quantize(source, plain, kind) == 0
    assert quantize(source, mixed, kind, "--outliers", "2%") == 0
    found = []
    for executor in EXECUTORS:
        with edgesparse.load(mixed, executor=executor) as model:
            found.append(model.logits(IDS))
            sides = [w for w in model.parameters.weights.values() if w.format is Format.COO]
            n_sides = len(sides)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    with edgesparse.load(plain) as model, edgesparse.load(tiny.path(source)) as dense:
        assert not any(w.format is Format.COO for w in model.parameters.weights.values())
        assert n_sides == 7 * model.config.n_layers
        truth, without = dense.logits(IDS), model.logits(IDS)
    if (source, kind) == ("llama-floats.gguf", "q4_0"):  # came from 4 bits: nothing to gain
        assert np.square(found[0] - truth).sum() < 1e-5 * np.square(truth).sum()
    else:
        assert np.square(found[0] - truth).sum() < np.square(without - truth).sum()


def test_they_stand_where_they_were(tmp_path: Path) -> None:
    """Rows of q and k are in another order in GGUF files than in folders."""
    out = tmp_path / "out.gguf"
    assert quantize("llama-bf16", out, "w3_g32", "--outliers", "1%") == 0
    again = tmp_path / "again.gguf"
    n_cases = 0
    with open_checkpoint(out) as checkpoint, edgesparse.load(tiny.path("llama-bf16")) as dense:
        order = [name for name in checkpoint.tensors if name.endswith(".outliers")]
        loaded = load_weights(checkpoint, order)
        with edgesparse.load(out) as model:
            for name in order:
                side = dequantize(loaded[name])
                base = dequantize(model.parameters.weights[name.replace("outliers", "weight")])
                assert side.shape == base.shape
                rows = dense.parameters.weights[name.replace("outliers", "weight")]
                whole = dequantize(rows)
                if ".attn_q." in name or ".attn_k." in name:
                    whole = np.sort(whole, axis=0)
                    side, base = np.sort(side + base, axis=0), 0
                assert np.square(side + base - whole).mean() < 0.05 * np.square(whole).mean()
                n_cases += 1
    assert n_cases == 14
    with pytest.raises(UsageError, match="quantised already, with outliers"):
        run_quantize(out, again)


def test_they_are_not_pruned(mixed: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.gguf"
    assert run(["prune", str(mixed), str(out), "--method", "magnitude", "--no-evaluate"]) == 2
    assert "is quantised already, with outliers" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def run_quantize(source: Path, out: Path) -> None:
    """Quantise without the command line, which would turn the error into a message."""
    from edgesparse.compress.quantize import quantize_model
    from edgesparse.compress.target import Target
    from edgesparse.compress.work import Work

    with edgesparse.load(source, fused=False) as model, open_checkpoint(source) as checkpoint:
        work = Work(out, "x")
        try:
            args = (checkpoint, model.config, model.engine.plan, out, Target.parse("q8_0"), work)
            quantize_model(*args)
        finally:
            work.remove()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("outliers") / "mixed.gguf"
    assert quantize("llama-bf16", out, "q4_0", "--outliers", "1%") == 0
    return out


def test_what_does_not_go_with_them(mixed: Path) -> None:
    with pytest.raises(UsageError, match="not left out beside outliers"):
        edgesparse.load(mixed, sparsity=0.5)


def test_pre_packed_files_hold_them(mixed: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.esp"
    assert run(["convert", str(mixed), str(out), "-q"]) == 0
    with edgesparse.load(mixed) as old, edgesparse.load(out) as new:
        np.testing.assert_array_equal(new.logits(IDS), old.logits(IDS))


def test_damage_is_refused(mixed: Path, tmp_path: Path) -> None:
    with open_checkpoint(mixed) as checkpoint:
        info = checkpoint.info("blk.0.ffn_up.outliers")
    bad = tmp_path / "bad.gguf"
    raw = bytearray(mixed.read_bytes())
    raw[info.offset] ^= 8
    bad.write_bytes(raw)
    with pytest.raises(ModelFormatError, match="contradict each other"):
        edgesparse.load(bad)


LIES = {
    "version": ("version", 2, "expected 1"),
    "names missing": ("names", None, "expected strings"),
    "fewer rows": ("rows", [1], "whole numbers"),
    "no shape": ("rows", [0] * 14, "is no shape"),
    "4 TiB": ("columns", [2**31 - 1] * 14, "cannot stand for"),
    "no tensor": ("names", "other.outliers", "there is no tensor"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: str, mixed: Path) -> None:
    key, value, message = LIES[lie]
    with open_checkpoint(mixed) as checkpoint:
        metadata, tensors = dict(checkpoint.metadata), _as_stored(checkpoint)
    good = find_outliers(metadata, tensors, "x")
    assert sum(info.has_outliers for info in good.values()) == 14
    if isinstance(value, str):
        names = metadata["edgesparse.outliers.names"]
        assert isinstance(names, StringArray)
        renamed = {f"{name}x": info for name, info in tensors.items()}
        with pytest.raises(ModelFormatError, match=message):
            find_outliers(metadata, renamed, "x")
        return
    metadata[f"edgesparse.outliers.{key}"] = value  # type: ignore[assignment]
    with pytest.raises(ModelFormatError, match=message):
        find_outliers(metadata, tensors, "x")


SHAPES = ((1, 1), (16, 32), (17, 33), (40, 100), (5, 3000), (300, 64))


def side(n_rows: int, k: int, share: float) -> Weight:
    """Make csr with a share of codes, some rows and tiles without any."""
    rng = np.random.default_rng(n_rows * k)
    codes = rng.integers(-127, 128, (n_rows, k)).astype(np.int8)
    codes[rng.random(codes.shape) >= share] = 0
    codes[n_rows // 2 : n_rows // 2 + 16] = 0
    steps = rng.uniform(1e-6, 9, (n_rows, -(-k // 32))).astype(np.float16)
    return Weight("s", Format.CSR, n_rows, k, pack_csr(codes, steps), np.zeros(0, np.float32))


def test_coo_has_the_numbers_of_csr() -> None:
    n_cases = 0
    for (n_rows, k), share in itertools.product(SHAPES, (0, 0.005, 0.2, 1)):
        csr = side(n_rows, k, share)
        made = [as_coo(csr, native=native) for native in (True, False)]
        np.testing.assert_array_equal(made[0].data, made[1].data)
        np.testing.assert_array_equal(dequantize(made[0]), dequantize(csr))
        assert made[0].data.ctypes.data % 64 == 0
        assert bytes_agree(made[0])
        assert coo_is_valid(made[0])
        n_cases += 1
    assert n_cases == 4 * len(SHAPES)


def test_coo_that_lies_is_refused() -> None:
    """C and numpy agree on every changed byte, and refuse what would lead outside."""
    good = as_coo(side(40, 100, 0.02))
    n = int(good.data[12:16].view("<u4")[0])
    values, columns, rows = 16, 16 + 4 * n, 16 + 6 * n
    n_refused = 0
    for at, value in itertools.product(range(rows + n), (0, 1, 16, 0x7F, 0xFF)):
        data = good.data.copy()
        data[at] = value
        bad = replace(good, data=data)
        assert bytes_agree(bad) == coo_is_valid(bad)
        if not coo_is_valid(bad):
            n_refused += 1
            with pytest.raises(ValueError, match="contradict each other"):
                unpack_coo(bad)
        else:
            found = unpack_coo(bad)
            assert found.columns.max() < 100
            assert found.rows.max() < 16
    lost = {"columns": (columns, 100), "rows": (rows, 16), "values": (values + 2, 0x7F80)}
    for at, value in lost.values():
        data = good.data.copy()
        data[at : at + 2] = np.array([value], "<u2").view(np.uint8)
        assert not bytes_agree(replace(good, data=data))
    for size in (0, 12, 64, good.data.nbytes - 64, good.data.nbytes + 64):
        data = np.resize(good.data, size)
        assert not bytes_agree(replace(good, data=data))
        assert not coo_is_valid(replace(good, data=data))
    assert not bytes_agree(replace(good, n_rows=56))
    assert n_refused > 100


def test_threads_and_chunks_change_no_bit(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    assert quantize("llama-relu.gguf", out, "w3_g32", "--outliers", "1%") == 0
    n_cases, found = 0, None
    for threads, executor in itertools.product((1, 2, 3), EXECUTORS[:2]):
        with edgesparse.load(out, threads=threads, executor=executor) as model:
            whole = model.logits(IDS)
            cache = model.engine.new_cache(len(IDS))
            single = np.concatenate(
                [model.engine.forward(cache, [id], i) for i, id in enumerate(IDS)]
            )
        found = whole if found is None else found
        np.testing.assert_array_equal(whole, found)
        np.testing.assert_array_equal(single, found)
        n_cases += 1
    assert n_cases == 6


def test_they_are_part_of_the_op(mixed: Path, tmp_path: Path) -> None:
    """No op and no phase more, and their bytes are counted."""
    plain = tmp_path / "plain.gguf"
    assert quantize("llama-bf16", plain, "q4_0") == 0
    with edgesparse.load(plain) as without, edgesparse.load(mixed) as model:
        assert len(model.engine.plan.ops) == len(without.engine.plan.ops)
        costs = [plan_costs(m.engine.plan, m.parameters, 0) for m in (without, model)]
        sides = [w.n_bytes for w in model.parameters.weights.values() if w.format is Format.COO]
        assert sum(c.n_bytes for c in costs[1]) == sum(c.n_bytes for c in costs[0]) + sum(sides)
        assert sum("coo" in c.formats for c in costs[1]) == 4 * model.config.n_layers


@pytest.mark.parametrize("beside", ["blk.0.ffn_up.1.weight", "token_embd.weight", "other.weight"])
def test_outliers_that_nothing_adds_are_refused(beside: str, tmp_path: Path) -> None:
    """Experts and embeddings have no sum that they could join."""
    out = tmp_path / "out.gguf"
    with open_checkpoint(tiny.path("mixtral-tq2_0.gguf")) as checkpoint:
        tensors = [copied(checkpoint, name) for name in checkpoint.tensors]
        shape = (32, 256) if "other" in beside else checkpoint.info(beside).shape
        codes = np.zeros(shape, np.int8)
        codes[1, 7] = 1
        data = pack_csr(codes, np.ones((shape[0], -(-shape[1] // 32)), np.float16))
        name = outliers_name(beside)
        side = NewTensor(name, type_id(TensorType.I8), data.shape, data.nbytes, lambda: data)
        more = {"version": 1, "names": [name], "rows": [shape[0]], "columns": [shape[1]]}
        extra = {f"edgesparse.outliers.{key}": value for key, value in more.items()}
        write_gguf(out, checkpoint, [*tensors, side], extra)
    with pytest.raises(ModelFormatError, match="which nothing would add") as found:
        edgesparse.load(out)
    assert found.value.kind == "layout"
    assert name in str(found.value)


def test_experts_are_not_quantised_with_outliers(tmp_path: Path, capsys) -> None:
    out = tmp_path / "out.gguf"
    assert quantize("mixtral-bf16", out, "w4_g32", "--outliers", "1%") == 2
    assert "a mixture of experts cannot be quantised" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _as_stored(checkpoint: Checkpoint) -> dict:
    from dataclasses import replace

    return {
        name: replace(info, shape=(info.n_bytes,), has_outliers=False)
        if info.has_outliers
        else info
        for name, info in checkpoint.tensors.items()
    }


def test_shares() -> None:
    assert parse_share("0.5%") == parse_share("0.005") == 0.005
    assert parse_share("0") == 0
    for text in ("11%", "-1%", "x", "nan", "0.2"):
        with pytest.raises(UsageError, match="is no share"):
            parse_share(text)
