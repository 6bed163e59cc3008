"""Every executor, instruction set and kind of kernel gives the bits of the numpy reference."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

import edgesparse
from edgesparse.errors import UsageError
from edgesparse.executors import make_executor
from edgesparse.executors.base import KVCache, Parameters
from edgesparse.executors.native import NativeExecutor, isa_names
from edgesparse.executors.portable import PortableExecutor
from edgesparse.formats import Format, dequantize
from edgesparse.formats.reslice import as_slices
from edgesparse.ops.linear import product
from edgesparse.plan.op import Linear, Output
from tests.executors.running import EXECUTORS, bits, executor_of, load_tiny, run_in_chunks
from tests.models import tiny
from tests.portable.packing import random_weight
from tests.portable.running import plan_of, step_of

F32 = np.float32
SLICED = [fmt for fmt in Format if fmt.is_sliced]
KERNELS = ("", "lut", "mad")


def fused_op(n: int) -> Linear:
    return Linear("op", "x", tuple(Output(f"w{i}", f"y{i}") for i in range(n)))


def results(executor: NativeExecutor | PortableExecutor, x: np.ndarray, n: int) -> list:
    executor.buffer("x", len(x))[:] = x
    step = step_of(executor.plan, [0] * len(x), caches=[KVCache(executor.plan, len(x))])
    executor.run(step)
    found = [executor.buffer(f"y{i}", len(x)).copy() for i in range(n)]
    executor.close()
    return found


def test_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of all kinds over one input: one set of tables, several outputs."""
    rng = np.random.default_rng(11)
    n_cases = 0
    for i in range(40):
        k = int(rng.integers(1, 400))
        n_tokens = int(rng.choice([1, 2, 3, 5, 9, 70]))
        formats = [*rng.choice(SLICED, 3), Format.Q4]
        weights = [random_weight(rng, Format(f), int(rng.integers(1, 200)), k)[0] for f in formats]
        x = rng.normal(size=(n_tokens, k)).astype(F32)
        if i % 4 == 0:
            x[-1] = np.where(rng.integers(2, size=k), F32(3), F32(-3))
        expected = [product(weight, x) for weight in weights]
        op = fused_op(len(weights))
        buffers = {"x": k} | {f"y{i}": w.n_rows for i, w in enumerate(weights)}
        plan = plan_of(op, buffers=buffers, max_tokens=70, n_ctx=70)
        parameters = Parameters({f"w{i}": w for i, w in enumerate(weights)}, {}, {})
        made = [PortableExecutor(plan, parameters, threads=1 + i % 2)]
        for kernel, isa in itertools.product(KERNELS, isa_names()):
            monkeypatch.setenv("EDGESPARSE_KERNEL", kernel)
            made.append(NativeExecutor(plan, parameters, threads=1 + i % 2, isa=isa))
        for executor in made:
            for weight, y, truth in zip(
                weights, results(executor, x, len(weights)), expected, strict=True
            ):
                assert np.array_equal(bits(y), bits(truth)), (executor.name, weight.name)
                n_cases += 1
    assert n_cases == 40 * 4 * (1 + 3 * len(isa_names()))


def test_ternary_planes_equal_t2() -> None:
    """A whole model: the same logits, whatever the bytes of its ternary weights."""
    for name in ("bitnet-tq2_0.gguf", "bitnet-packed", "bitnet-i2_s.gguf"):
        with load_tiny(name, ternary="t2") as model:
            truth = bits(run_in_chunks(model.engine.executor, tiny.PROMPT, 20))
        with load_tiny(name, ternary="bst") as model:
            formats = {key: w.format for key, w in model.parameters.weights.items()}
            assert formats["blk.0.ffn_gate.weight"] is Format.BST
            assert formats["blk.0.ffn_up.weight"] is Format.T2  # single rows of it are read
            for executor_name in EXECUTORS:
                with executor_of(model, executor_name) as executor:
                    for chunk in (1, 3, 20):
                        got = bits(run_in_chunks(executor, tiny.PROMPT, chunk))
                        assert np.array_equal(got, truth), (name, executor_name, chunk)


def test_planes_of_a_gate_beside_single_rows() -> None:
    """One token, many threads: whoever computes a run of the gate reads the rows that it keeps."""
    found = []
    for ternary in ("t2", "bst"):
        with edgesparse.load(ternary=ternary, threads=5, n_ctx=64) as model:
            cache = model.engine.new_cache(8)
            found += [model.engine.forward(cache, [100 + i], i) for i in range(3)]
    assert np.array_equal(bits(np.concatenate(found[:3])), bits(np.concatenate(found[3:])))


def test_without_skipping_every_ternary_matrix_is_planes() -> None:
    with load_tiny("bitnet-tq2_0.gguf", ternary="bst", sparse="off") as model:
        ternary = {w.format for w in model.parameters.weights.values() if w.format.has_row_scales}
        assert ternary == {Format.BST}


def test_four_bit_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose q4 and q4m matrices, embedding included, are stored as planes."""
    with load_tiny("llama-blocks.gguf") as model:
        weights = dict(model.parameters.weights)
        n_sliced = 0
        for name, weight in weights.items():
            if weight.format in (Format.Q4, Format.Q4M):
                weights[name] = as_slices(weight)
                np.testing.assert_array_equal(dequantize(weights[name]), dequantize(weight))
                n_sliced += 1
        assert n_sliced > 3
        parameters = replace(model.parameters, weights=weights)
        plain = run_in_chunks(model.engine.executor, tiny.PROMPT, 20)
        logits = {}
        for name, kernel in (
            ("reference", ""),
            ("portable", ""),
            *(("native", k) for k in KERNELS),
        ):
            monkeypatch.setenv("EDGESPARSE_KERNEL", kernel)
            for chunk in (1, 20):
                executor = make_executor(name, model.engine.plan, parameters, threads=2)
                logits[name, kernel, chunk] = run_in_chunks(executor, tiny.PROMPT, chunk)
                executor.close()
        truth = logits["reference", "", 20]
        for key, found in logits.items():
            assert np.array_equal(bits(found), bits(truth)), key
        # int8 activations instead of int16: close, and not the same.
        assert 0 < np.abs(truth - plain).max() < 0.05 * np.abs(plain).max()


def test_unknown_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESPARSE_KERNEL", "fast")
    rng = np.random.default_rng(0)
    weight, _ = random_weight(rng, Format.BS2, 3, 40)
    plan = plan_of(fused_op(1), buffers={"x": 40, "y0": 3})
    with pytest.raises(UsageError, match="EDGESPARSE_KERNEL"):
        NativeExecutor(plan, Parameters({"w0": weight}, {}, {}), threads=1)


def test_native_refuses_wrong_layouts() -> None:
    """What the bytes cannot hold is refused before anything is read."""
    rng = np.random.default_rng(1)
    weight, _ = random_weight(rng, Format.BS3, 70, 300)
    assert weight.slices is not None
    plan = plan_of(fused_op(1), buffers={"x": 300, "y0": 70})
    wrong = [
        replace(weight, slices=replace(weight.slices, group=48)),
        replace(weight, slices=replace(weight.slices, wide=not weight.slices.wide)),
        replace(weight, data=weight.data[:-1]),
        replace(weight, format=Format.BS4),
        replace(weight, format=Format.BST),
    ]
    for each in wrong:
        with pytest.raises(edgesparse.errors.EdgesparseError):
            NativeExecutor(plan, Parameters({"w0": each}, {}, {}), threads=1)
