"""Embed, Norm, Glu, Add, RopeKV and Attention against an independent numpy truth, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgesparse.errors import UsageError
from edgesparse.executors.base import KVCache, Parameters
from edgesparse.executors.portable import PortableExecutor
from edgesparse.formats.weight import Format
from edgesparse.plan.op import Add, Attention, Embed, Glu, GluKind, Norm, Op, RopeKV, RopeStyle
from tests.portable import truth
from tests.portable.packing import random_weight
from tests.portable.running import plan_of, run_op, same_bits, step_of

F32 = np.float32
WIDTHS = (1, 15, 16, 17, 70)
NOTHING = Parameters({}, {}, {})


@pytest.mark.parametrize(
    "fmt", [f for f in Format if not (f.is_neuron_major or f.is_row or f.is_sparse or f.is_aside)]
)
def test_embed(fmt: Format) -> None:
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for k, scale, threads in itertools.product((1, 64, 161), (1.0, 3.7), (1, 3)):
        weight, logical = random_weight(rng, fmt, 13, k)
        plan = plan_of(Embed("e", "w", "x", scale), buffers={"x": k}, n_vocab=13)
        executor = PortableExecutor(plan, Parameters({"w": weight}, {}, {}), threads=threads)
        tokens = [12, 0, 7, 8, 7]
        executor.run(step_of(plan, tokens))
        rows = [truth.dequantised_row(weight, logical, t) * F32(scale) for t in tokens]
        same_bits(executor.buffer("x", 5), np.stack(rows))
        executor.close()
        n_cases += 1
    assert n_cases == 12


@pytest.mark.parametrize("fmt", [Format.T2N, Format.Q8N, Format.Q4R, Format.BMP8, Format.NM4])
def test_an_embedding_that_is_not_in_tiles_is_refused(fmt: Format) -> None:
    weight, _ = random_weight(np.random.default_rng(0), fmt, 13, 64)
    plan = plan_of(Embed("e", "w", "x"), buffers={"x": 64}, n_vocab=13)
    with pytest.raises(UsageError, match="not stored in tiles"):
        PortableExecutor(plan, Parameters({"w": weight}, {}, {}))


def test_norm() -> None:
    rng = np.random.default_rng(0)
    for n, threads in itertools.product(WIDTHS, (1, 2, 3)):
        x, w = rng.normal(size=(5, n)).astype(F32), rng.normal(size=n).astype(F32)
        x[0] = 0
        x[1] *= F32(1e18)
        inputs = {"x": x, "y": np.zeros_like(x)}
        parameters = Parameters({}, {"w": w}, {})
        op = Norm("op", "x", "y", "w", 1e-6)
        got, _ = run_op(op, inputs, parameters, n_tokens=5, threads=threads)
        same_bits(got["y"], np.stack([truth.norm(row, w, 1e-6) for row in x]))


@pytest.mark.parametrize("kind", [GluKind.SILU, GluKind.RELU2, GluKind.RELU, GluKind.GELU])
def test_glu(kind: GluKind) -> None:
    rng = np.random.default_rng(1)
    for n, threads in itertools.product(WIDTHS, (1, 2, 3)):
        g, u = (rng.normal(size=(2, 5, n)) * 40).astype(F32)
        inputs = {"g": g, "u": u, "y": np.zeros_like(g)}
        got, _ = run_op(
            Glu("op", "g", "u", "y", kind), inputs, NOTHING, n_tokens=5, threads=threads
        )
        same_bits(got["y"], truth.glu(kind, g, u))


def test_add() -> None:
    rng = np.random.default_rng(2)
    for n, threads in itertools.product(WIDTHS, (1, 2, 3)):
        x, y = rng.normal(size=(2, 5, n)).astype(F32)
        got, _ = run_op(Add("op", "x", "y"), {"x": x, "y": y}, NOTHING, n_tokens=5, threads=threads)
        same_bits(got["y"], y + x)
        same_bits(got["x"], x)


def test_rope_kv() -> None:
    """Two sequences in one step, at their own positions; partial rotation; per-head norms."""
    rng = np.random.default_rng(3)
    n_heads, n_kv, head_dim, n_cases = 6, 2, 20, 0
    positions, sequences = [5, 0, 6, 1, 63], [0, 1, 0, 1, 1]
    for style, rope_dim, normed, threads in itertools.product(
        RopeStyle, (20, 8, 0), (False, True), (1, 2, 3)
    ):
        names = ("nq", "nk") if normed else (None, None)
        op = RopeKV(
            *("op", 1, "q", "k", "v", n_heads, n_kv, head_dim, rope_dim, style, "t"),
            norm_q=names[0],
            norm_k=names[1],
            eps=1e-5,
        )
        table = rng.uniform(-1, 1, (64, rope_dim)).astype(F32)
        vectors = {"nq": rng.normal(size=head_dim), "nk": rng.normal(size=head_dim)}
        vectors = {name: w.astype(F32) for name, w in vectors.items()}
        widths = {"q": n_heads * head_dim, "k": n_kv * head_dim, "v": n_kv * head_dim}
        plan = plan_of(op, buffers=widths, n_layers=2, n_kv_heads=n_kv, head_dim=head_dim)
        executor = PortableExecutor(plan, Parameters({}, vectors, {"t": table}), threads=threads)
        data = {name: (rng.normal(size=(5, w)) * 9).astype(F32) for name, w in widths.items()}
        for name, array in data.items():
            executor.buffer(name, 5)[:] = array
        caches = [KVCache(plan, 40), KVCache(plan, 64)]
        executor.run(
            step_of(plan, [0] * 5, positions=positions, sequences=sequences, caches=caches)
        )
        expected = [KVCache(plan, cache.capacity) for cache in caches]
        heads = {name: a.reshape(5, -1, head_dim).copy() for name, a in data.items()}
        for t, (p, s) in enumerate(zip(positions, sequences, strict=True)):
            for name, weight in (("q", "nq"), ("k", "nk")):
                for h, x in enumerate(heads[name][t]):
                    y = truth.norm(x, vectors[weight], 1e-5) if normed else x
                    heads[name][t, h] = truth.rotate(y, table[p], style)
            expected[s].keys.chunks(1)[0][:, p] = heads["k"][t]
            expected[s].values.chunks(1)[0][:, p] = heads["v"][t]
        for name in widths:
            same_bits(executor.buffer(name, 5), heads[name].reshape(5, -1))
        for cache, wanted in zip(caches, expected, strict=True):
            np.testing.assert_array_equal(cache.raw, wanted.raw)
        executor.close()
        n_cases += 1
    assert n_cases == 2 * 3 * 2 * 3


def test_attention() -> None:
    """Grouped heads, windows, ragged head sizes, two sequences in one step."""
    rng = np.random.default_rng(4)
    positions, sequences = [33, 0, 34, 1, 16], [0, 1, 0, 1, 1]
    n_cases = 0
    for (n_heads, n_kv), head_dim, window, threads in itertools.product(
        ((1, 1), (6, 2), (4, 4)), (2, 16, 40), (0, 1, 7, 100), (1, 2, 3)
    ):
        scale = head_dim**-0.5
        op = Attention("op", 1, "q", "o", n_heads, n_kv, head_dim, scale, window)
        width = n_heads * head_dim
        plan = plan_of(
            op, buffers={"q": width, "o": width}, n_layers=2, n_kv_heads=n_kv, head_dim=head_dim
        )
        executor = PortableExecutor(plan, NOTHING, threads=threads)
        caches = [KVCache(plan, 64), KVCache(plan, 48)]
        for cache in caches:
            for rows in (cache.keys, cache.values):
                rows.data.view(np.float16)[:] = rng.normal(size=rows.data.size // 2)
        q = (rng.normal(size=(5, n_heads, head_dim)) * 4).astype(F32)
        executor.buffer("q", 5)[:] = q.reshape(5, -1)
        executor.run(
            step_of(plan, [0] * 5, positions=positions, sequences=sequences, caches=caches)
        )
        got = executor.buffer("o", 5).reshape(5, n_heads, head_dim)
        for t, h in itertools.product(range(5), range(n_heads)):
            p = positions[t]
            rows = slice(max(0, p + 1 - window) if window else 0, p + 1)
            cache, kv = caches[sequences[t]], h // (n_heads // n_kv)
            keys, values = (c.chunks(1)[0][kv, rows] for c in (cache.keys, cache.values))
            same_bits(got[t, h], truth.attention(q[t, h], keys, values, scale, rows.start))
        executor.close()
        n_cases += 1
    assert n_cases == 3 * 3 * 4 * 3


def test_misfits_are_refused() -> None:
    weight, _ = random_weight(np.random.default_rng(0), Format.F16, 4, 16)
    table = np.zeros((64, 4), F32)
    parameters = Parameters({"w": weight}, {"n": np.ones(3, F32)}, {"t": table, "s": table[1:]})
    rope = ("op", 0, "x", "x", "x", 2, 1, 8)
    bad: list[Op] = [
        Embed("op", "w", "narrow"),
        Norm("op", "x", "x", "n", 0.0),
        Norm("op", "x", "narrow", "n", 0.0),
        Glu("op", "x", "narrow", "x", GluKind.SILU),
        Glu("op", "x", "x", "x", GluKind.NONE),
        Add("op", "x", "narrow"),
        RopeKV(*rope, 4, RopeStyle.NEOX, "s"),
        RopeKV(*rope, 3, RopeStyle.NEOX, "t"),
        RopeKV(*rope, 4, RopeStyle.NEOX, "t", norm_q="n"),
        RopeKV("op", 1, *rope[2:], 4, RopeStyle.NEOX, "t"),
        RopeKV("op", 0, "x", "x", "x", 3, 1, 8, 4, RopeStyle.NEOX, "t"),
        RopeKV("op", 0, "x", "x", "x", 2, 2, 8, 4, RopeStyle.NEOX, "t"),
        Attention("op", 0, "x", "narrow", 2, 1, 8, 1.0),
        Attention("op", -1, "x", "x", 2, 1, 8, 1.0),
        Attention("op", 0, "x", "x", 2, 1, 4, 1.0),
    ]
    for op in bad:
        plan = plan_of(op, buffers={"x": 16, "narrow": 15}, head_dim=8, n_vocab=4)
        with pytest.raises(UsageError, match="op op"):
            PortableExecutor(plan, parameters)
    many = plan_of(Embed("op", "w", "x"), buffers={"x": 16}, n_vocab=5)
    with pytest.raises(UsageError, match="too few rows"):
        PortableExecutor(many, parameters)
