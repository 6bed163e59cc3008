"""Linear against an independent numpy truth, bit for bit: formats, shapes, fusions, threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgesparse.errors import UsageError
from edgesparse.executors.base import Parameters
from edgesparse.executors.portable import PortableExecutor
from edgesparse.formats.weight import Format
from edgesparse.plan.op import LOGITS, GluKind, Linear, Output
from tests.portable import truth
from tests.portable.packing import random_weight
from tests.portable.running import plan_of, run_op, same_bits

F32 = np.float32
SHAPES = [(1, 1), (3, 31), (8, 32), (9, 33), (21, 128), (17, 161), (16, 500)]


def activations(rng: np.random.Generator, n_tokens: int, k: int) -> np.ndarray:
    """Rows from tiny to huge, one of zeros, and exact ties after scaling."""
    x = rng.normal(size=(n_tokens, k)).astype(F32)
    x *= (F32(10.0) ** rng.integers(-20, 12, (n_tokens, 1))).astype(F32)
    x[0] = 0
    if n_tokens > 1:
        x[1] = rng.integers(-254, 255, k) / F32(2)
        x[1, 0] = 127
    return x


PRODUCTS = [fmt for fmt in Format if not fmt.is_aside]


@pytest.mark.parametrize("fmt", PRODUCTS)
def test_products(fmt: Format) -> None:
    rng = np.random.default_rng(int(fmt))
    n_cases = 0
    for (n_rows, k), n_tokens, threads in itertools.product(SHAPES, (1, 5), (1, 2, 3)):
        weight, logical = random_weight(rng, fmt, n_rows, k)
        x, bias = activations(rng, n_tokens, k), rng.normal(size=n_rows).astype(F32)
        residual = rng.normal(size=(n_tokens, n_rows)).astype(F32)
        y = np.stack([truth.product(weight, logical, row) for row in x])
        for add, biased in itertools.product((False, True), repeat=2):
            output = Output("w", "y", add=add, bias="b" if biased else None)
            got, _ = run_op(
                Linear("op", "x", (output,)),
                {"x": x, "y": residual},
                Parameters({"w": weight}, {"b": bias}, {}),
                n_tokens=n_tokens,
                threads=threads,
            )
            expected = y + bias if biased else y
            same_bits(got["y"], residual + expected if add else expected)
            n_cases += 1
    assert n_cases == 7 * 2 * 3 * 4


@pytest.mark.parametrize("fmt", [Format.T2, Format.T5])
def test_ternary_extremes(fmt: Format) -> None:
    """All weights one sign, all activations at the ends of int8: the largest sums."""
    rng = np.random.default_rng(0)
    for sign in (-1, 1):
        _, logical = random_weight(rng, fmt, 3, 6912)
        ones = np.full_like(logical, sign)
        packed, _ = random_weight(_Constant(sign), fmt, 3, 6912)
        x = np.full((2, 6912), 5, F32)
        x[1] *= -1
        got, _ = run_op(
            Linear("op", "x", (Output("w", "y"),)),
            {"x": x, "y": np.zeros((2, 3), F32)},
            Parameters({"w": packed}, {}, {}),
            n_tokens=2,
        )
        same_bits(got["y"], np.stack([truth.product(packed, ones, row) for row in x]))
        assert got["y"][0, 0] * sign > 0


class _Constant(np.random.Generator):
    """A generator whose integers are all one value."""

    def __init__(self, value: int) -> None:
        super().__init__(np.random.PCG64(0))
        self._value = value

    def integers(self, low, high, shape):  # type: ignore[no-untyped-def]
        return np.full(shape, self._value)


def test_fused_prologues() -> None:
    """Gate, norm, several outputs of mixed formats: equal to the parts in sequence."""
    rng = np.random.default_rng(7)
    n_tokens, k, n_cases = 4, 96, 0
    formats = (Format.T2, Format.Q4M, Format.F16, Format.T5)
    weights = [random_weight(rng, fmt, n, k) for fmt, n in zip(formats, (24, 9, 8, 1), strict=True)]
    w = rng.normal(size=k).astype(F32)
    g, u = (rng.normal(size=(n_tokens, k)).astype(F32) * F32(3) for _ in range(2))
    for kind, normed, threads in itertools.product(GluKind, (False, True), (1, 2, 3)):
        op = Linear(
            "op",
            "g",
            tuple(Output(f"w{i}", f"y{i}") for i in range(4)),
            src2="u" if kind else None,
            glu=kind,
            norm="n" if normed else None,
            eps=1e-5,
        )
        inputs = {"g": g, "u": u}
        inputs |= {f"y{i}": np.zeros((4, x.n_rows), F32) for i, (x, _) in enumerate(weights)}
        named = {f"w{i}": weight for i, (weight, _) in enumerate(weights)}
        got, _ = run_op(
            op, inputs, Parameters(named, {"n": w}, {}), n_tokens=n_tokens, threads=threads
        )
        h = truth.glu(kind, g, u) if kind else g
        h = np.stack([truth.norm(row, w, 1e-5) for row in h]) if normed else h
        for i, (weight, logical) in enumerate(weights):
            expected = np.stack([truth.product(weight, logical, row) for row in h])
            same_bits(got[f"y{i}"], expected)
            n_cases += 1
    assert n_cases == 5 * 2 * 3 * 4


@pytest.mark.parametrize("fmt", PRODUCTS)
def test_logits_of_the_wanted_tokens(fmt: Format) -> None:
    rng = np.random.default_rng(3)
    weight, logical = random_weight(rng, fmt, 19, 64)
    x = activations(rng, 5, 64)
    for wanted in ([], [4], [0, 2, 3]):
        _, logits = run_op(
            Linear("head", "x", (Output("w", LOGITS),), outputs_only=True),
            {"x": x},
            Parameters({"w": weight}, {}, {}),
            n_tokens=5,
            threads=2,
            outputs=wanted,
            n_vocab=19,
        )
        rows = [truth.product(weight, logical, x[t]) for t in wanted]
        same_bits(logits, np.array(rows, F32).reshape(-1, 19))


def test_not_finite_is_survived() -> None:
    """Infinities and NaN give unspecified bits, but neither a crash nor other tokens' bits."""
    rng = np.random.default_rng(5)
    n_cases = 0
    for fmt, bad in itertools.product(PRODUCTS, (np.inf, -np.inf, np.nan)):
        weight, logical = random_weight(rng, fmt, 9, 64)
        x = rng.normal(size=(3, 64)).astype(F32)
        x[1, 5] = bad
        got, _ = run_op(
            Linear("op", "x", (Output("w", "y"),)),
            {"x": x, "y": np.zeros((3, 9), F32)},
            Parameters({"w": weight}, {}, {}),
            n_tokens=3,
        )
        same_bits(got["y"][0], truth.product(weight, logical, x[0]))
        same_bits(got["y"][2], truth.product(weight, logical, x[2]))
        n_cases += 1
    assert n_cases == 3 * len(PRODUCTS)


def test_misfits_are_refused() -> None:
    rng = np.random.default_rng(0)
    weight, _ = random_weight(rng, Format.T2, 4, 128)
    short = type(weight)("s", Format.T2, 4, 128, weight.data[:-1], weight.scales)
    parameters = Parameters({"w": weight, "s": short}, {"n": np.ones(3, F32)}, {})
    bad = [
        (Linear("op", "x", (Output("w", "y"),)), {"x": 127, "y": 4}),
        (Linear("op", "x", (Output("w", "y"),)), {"x": 128, "y": 3}),
        (Linear("op", "x", (Output("s", "y"),)), {"x": 128, "y": 4}),
        (Linear("op", "x", (Output("w", "y"),), norm="n"), {"x": 128, "y": 4}),
        (Linear("op", "x", (Output("w", "y", bias="n"),)), {"x": 128, "y": 4}),
        (Linear("op", "x", (Output("w", "y"),), glu=GluKind.SILU), {"x": 128, "y": 4}),
        (Linear("op", "x", (Output("w", LOGITS),)), {"x": 128}),
    ]
    for op, buffers in bad:
        with pytest.raises(UsageError, match="op op"):
            PortableExecutor(plan_of(op, buffers=buffers), parameters)
